"""`videopolicy demo`: collect demos, then the study experiments/studies/demo.yaml with one training seed."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from files.errors import UserError
from rollouts import wilson_interval
from videopolicy.evaluation.tables import between, terminal_table
from videopolicy.experiment.files import plain, read_part
from videopolicy.experiment.processes import end_with_parent
from videopolicy.studies.definition import Study, read_study
from videopolicy.studies.execution import environments
from videopolicy.studies.outcome import Outcome, carry_out
from videopolicy.studies.results import RunResult

STUDY = Path(__file__).resolve().parents[1] / "experiments" / "studies" / "demo.yaml"
DEMOS_A_TASK = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "--run-dir", type=Path, help="where everything is written (default runs/demo, or runs/demo_seed<seed>)"
    )
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--episodes", type=int, help="held-out episodes of each task in place of the study's")
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="laid over every policy's experiment",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; interrupted and started again it goes on where it stopped.

    Returns:
        130 after Ctrl-C, and 1 if a policy has no result.
    """
    console = Console(markup=False)
    start = time.monotonic()
    run_dir: Path = args.run_dir or Path(f"runs/demo_seed{args.seed}" if args.seed else "runs/demo")
    study = demo_study(args, run_dir / "demos")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--run-dir {run_dir}: cannot be made ({error.strerror}); choose another.") from None
    try:
        console.rule("1  collect demos with the scripted expert")
        collect(study, run_dir / "demos")
        console.rule("2  train each policy, and roll it out in held-out episodes")
        outcome = Outcome(study, run_dir)
        failed = carry_out(outcome, outcome.runs, environments(None), console)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on")
        return 130
    minutes = (time.monotonic() - start) / 60

    counts = {result.row: count(result) for result in outcome.results}
    console.print(table(counts))
    console.print(f"videos: {run_dir}/runs/*/*/*/evaluations/*/videos (executed above predicted)", soft_wrap=True)
    console.print(f"tables: {run_dir}/study.md; dashboards: make tensorboard ARGS='--logdir {run_dir}'", soft_wrap=True)
    print(json.dumps({**counts, "action_demos": study.action_demos[0], "minutes": round(minutes, 1)}))
    return int(bool(failed) or not all(found["episodes"] for found in counts.values()))


def demo_study(args: argparse.Namespace, demos: Path) -> Study:
    """The study with one training seed, its demos and what the command line changes."""
    if args.episodes is not None and args.episodes < 1:
        raise UserError(f"--episodes {args.episodes}: must be 1 or more.")
    laid_over = [{"data": {"init_args": {"paths": str(demos)}}}, *map(read_part, args.config)]
    study = read_study(STUDY, laid_over)
    return replace(study, seeds=(args.seed,), episodes=args.episodes or study.episodes)


def collect(study: Study, demos: Path) -> None:
    """Record the demos of all tasks of the study's protocol, drawn as its rollouts are.

    Raises:
        UserError: It failed.
    """
    simulator: dict[str, Any] = plain(study.protocol)["simulator"]
    tasks = list(simulator["tasks"])
    size = plain(next(iter(study.experiments.values())))["data"]["init_args"]["image_size"]
    given = {name: simulator.get(name) for name in ("suite", "python", "max_steps")}
    options = simulator.get("options")
    words = ["collect", "--simulator", simulator["name"], "--task", *tasks, "--image-size", str(size)]
    words += ["--episodes", str(DEMOS_A_TASK * len(tasks)), "--output", str(demos)]
    words += [word for name, value in given.items() if value for word in (f"--{name.replace('_', '-')}", str(value))]
    words += ["--options", json.dumps(options)] if options else []
    command = [sys.executable, "-m", "videopolicy.main", *words]
    if code := subprocess.run(command, preexec_fn=end_with_parent(), check=False).returncode:
        raise UserError(f"`{shlex.join(['videopolicy', *words])}` failed with exit code {code}; see above.")


def count(result: RunResult) -> dict[str, int]:
    """Episodes that were solved, and that could be run."""
    outcomes = [solved for task in result.levels[0].outcomes.values() for solved in task.values() if solved is not None]
    return {"successes": sum(outcomes), "episodes": len(outcomes)}


def table(counts: dict[str, dict[str, int]]) -> Table:
    """A line a policy, with Wilson's interval of its episodes."""
    rows: list[Sequence[str]] = []
    for name, found in counts.items():
        solved, episodes = found["successes"], found["episodes"]
        rows.append([name, f"{solved}/{episodes}", between(*wilson_interval(solved, episodes), digits=2)])
    return terminal_table("Held-out episodes", ["policy", "solved", "Wilson 95 %"], rows, names=("policy",))
