"""`videopolicy study`: many trainings and their evaluations, from one file to one table."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from files.errors import UserError
from files.nearest import nearest
from videopolicy.evaluation.tables import terminal_table
from videopolicy.studies.definition import Study, read_study
from videopolicy.studies.execution import environments, hours_of
from videopolicy.studies.live import progress_table
from videopolicy.studies.outcome import Outcome, carry_out
from videopolicy.studies.runs import Run, share, words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add = parser.add_argument
    add("-c", "--config", type=Path, required=True, help="a file of experiments/studies, or one of your own")
    add("--output", type=Path, help="the study's folder (default runs/studies/<name of the file>)")
    add("--jobs", type=int, help="runs at a time (default: one a GPU, or one a core up to 4)")
    add("--shard", metavar="I/N", help="only this machine's share of the runs; all may write into one folder")
    add("--dry-run", action="store_true", help="list the runs and the hours, and stop")
    add("--rows", help="only these rows, comma separated")
    add("--seeds", help="only these training seeds, comma separated")
    add("--action-demos", help="only these numbers of action demos, comma separated, all among them")
    add("--episodes", type=int, help="held-out episodes of each task in place of the study's")


def run(args: argparse.Namespace) -> int:
    """Run what is missing, and write tables and pictures after each run; started again it goes on.

    Returns:
        0, 1 if a run failed, or 130 after Ctrl-C.

    Raises:
        UserError: The study or an option cannot be used.
    """
    study, console = read_study(args.config), Console(markup=False)
    if args.episodes is not None:
        study = replace(study, episodes=_at_least_one("--episodes", args.episodes))
    output = args.output or Path("runs") / "studies" / study.name
    outcome = Outcome(study, output)
    chosen = _chosen(args, study, outcome.runs)
    slots = environments(None if args.jobs is None else _at_least_one("--jobs", args.jobs))
    if args.dry_run:
        _print_plan(outcome, chosen, len(slots), console)
        return 0
    try:
        failed = carry_out(outcome, chosen, slots, console)
    except KeyboardInterrupt:
        console.print(f"stopped; the same command goes on with what is missing in {output}")
        return 130
    console.print(progress_table(study, outcome.results))
    console.print(f"tables: {output}/study.md, .json; picture: {output}/success.png", soft_wrap=True)
    return int(bool(failed))


def _chosen(args: argparse.Namespace, study: Study, runs: Sequence[Run]) -> list[Run]:
    """The runs that the options leave."""
    by_k = {words(k): k for k in study.action_demos}
    rows = _named("--rows", args.rows, list(study.experiments))
    seeds = _named("--seeds", args.seeds, [str(seed) for seed in study.seeds])
    ks = _named("--action-demos", args.action_demos, list(by_k))
    if args.shard is not None:
        index, _, count = args.shard.partition("/")
        if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            raise UserError(f"--shard {args.shard}: write which of how many, as in 1/4.")
        runs = share(runs, int(index), int(count))
    return [run for run in runs if run.row in rows and str(run.seed) in seeds and run.k in ks]


def _named(option: str, given: str | None, known: Sequence[str]) -> Sequence[str]:
    names = known if given is None else [name.strip() for name in given.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"{option} {name}: the study has none of this; {nearest(name, known)}")
    return names


def _at_least_one(option: str, value: int) -> int:
    if value < 1:
        raise UserError(f"{option} {value}: must be 1 or more.")
    return value


def _print_plan(outcome: Outcome, runs: Sequence[Run], jobs: int, console: Console) -> None:
    """Print every run, which stage 1 it reads, and the hours of what is missing."""
    study = outcome.study
    hours = hours_of(study, list(outcome.complete.values()))
    missing = outcome.missing(runs)
    cells, total, seen = [], 0.0, set()
    for run in runs:
        state = "done" if run.fingerprint in outcome.complete else "as before"
        if run in missing:
            own = hours(run, "action") + hours(run, "evaluation")
            if run.stage1 is not None and run.stage1.key not in seen:
                seen.add(run.stage1.key)
                own += hours(run, "video")
            total += own
            state = _hours(own)
        cells.append([run.name, run.stage1.key if run.stage1 else "-", state])
    title = f"{study.name}: {len(runs)} runs, {len(missing)} missing"
    console.print(terminal_table(title, ["run", "stage 1", "hours"], cells, names=("run", "stage 1", "")))
    console.print(
        f"{_hours(total)} hours of one job, {_hours(total / jobs)} with {jobs} at a time ({study.cost.hardware}); "
        f"{len(seen)} stages 1 to train",
        soft_wrap=True,
    )


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours < 10 else f"{math.ceil(hours)}"
