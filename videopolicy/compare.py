"""`videopolicy compare`: two evaluations over the same episodes, episode by episode."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rollouts import Comparison, EpisodeResult, Pairs, ResultsFile, compare, wilson_interval
from videopolicy.errors import CommandError
from videopolicy.evaluation.results_directory import (
    UNKNOWN_RELEASES,
    differing_keys,
    read_protocol_document,
    releases_of,
)

METHOD = (
    "Difference: Newcombe's 95 % interval for paired proportions (1998, method 10); p: McNemar's exact test; "
    "rates: Wilson 95 % intervals; mean over tasks: the same with the tasks as strata."
)
# What may differ, because comparing it is the purpose: who acts, what it sees, how often it replans, and the variation.
_COMPARED = (
    "policy.",
    "protocol.simulator.variation.",
    "protocol.simulator.instructions.",
    "protocol.simulator.cameras",
    "protocol.simulator.image_size",
    "protocol.execute_steps",
)
_SEEDS = ("protocol.first_seed", "protocol.episodes")  # the episodes themselves say what this changes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("a", type=Path, metavar="A", help="a directory of `evaluate --output`, or a results.jsonl")
    parser.add_argument("b", type=Path, metavar="B", help="another one")
    parser.add_argument("--shared", action="store_true", help="leave out the episodes that only one of them has")
    parser.add_argument(
        "--format", choices=("table", "markdown", "json"), default="table", help="what to print (default table)"
    )


def run(args: argparse.Namespace) -> int:
    """Compare and print.

    Raises:
        CommandError: There is nothing to compare, or the two do not belong together.
    """
    runs = [read_run(path) for path in (args.a, args.b)]
    notes = require_same_protocol((args.a, args.b), [document for document, _ in runs])
    comparison = compare(runs[0][1], runs[1][1])
    notes += require_pairs(args, comparison)
    if args.format == "json":
        print(json.dumps(to_dict(comparison, args, notes), indent=2, allow_nan=False))
    elif args.format == "markdown":
        print(to_markdown(comparison, args, notes))
    else:
        console = Console(markup=False, width=None if sys.stdout.isatty() else 140)  # room for names
        console.print(to_table(comparison))
        for line in (f"A: {args.a}", f"B: {args.b}", *notes, METHOD):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def read_run(path: Path) -> tuple[dict[str, Any] | None, list[EpisodeResult]]:
    """Protocol document, if there is one, and results of a directory or file.

    Raises:
        CommandError: There is nothing there.
    """
    file = path / "results.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise CommandError(f"{file}: no such results; give a directory that `videopolicy evaluate --output` wrote.")
    results = list(ResultsFile(file).load().values())
    if not results:
        raise CommandError(f"{file}: holds no finished episode yet.")
    document = read_protocol_document(file.parent)
    if document is not None:
        tasks = document["protocol"]["simulator"]["tasks"]
        results.sort(key=lambda result: (tasks.index(result.task) if result.task in tasks else len(tasks), result.seed))
    return document, results


def require_same_protocol(paths: Sequence[Path], documents: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """Refuse protocols that differ in more than what is compared.

    Returns:
        What else differs, in sentences.

    Raises:
        CommandError: Simulator, steps or the like differ; names the keys.
    """
    first, second = documents
    missing = [str(path) for path, document in zip(paths, documents, strict=True) if document is None]
    if first is None or second is None:
        return [f"No protocol.json beside {' and '.join(missing)}: that both followed one protocol is taken on trust."]
    changed = differing_keys(first, second)
    refused = {key: values for key, values in changed.items() if not key.startswith((*_COMPARED, *_SEEDS))}
    if refused:
        listed = "; ".join(f"{key} is {a!r} and {b!r}" for key, (a, b) in refused.items())
        raise CommandError(
            f"{paths[0]} and {paths[1]} followed different protocols ({listed}); "
            "run one of them again with the options of the other."
        )
    unknown = [path for path, document in zip(paths, documents, strict=True) if not releases_of(document or {})]
    assumed = [UNKNOWN_RELEASES.format(path) for path in unknown] if len(unknown) == 1 else []
    noted = {key: values for key, values in changed.items() if not key.startswith(("policy.", *_SEEDS))}
    return [*assumed, *(f"They differ in {key}: A {a!r}, B {b!r}." for key, (a, b) in noted.items())]


def require_pairs(args: argparse.Namespace, comparison: Comparison) -> list[str]:
    """Refuse runs over different episodes, unless `--shared`.

    Returns:
        What was left out, in sentences.
    """
    apart = f"{comparison.only_in_a} episodes are only in {args.a} and {comparison.only_in_b} only in {args.b}"
    unpaired = comparison.only_in_a + comparison.only_in_b
    if comparison.total.episodes == 0:
        raise CommandError(f"no episode has an outcome in both: {apart}, {comparison.errors} ended in an error.")
    if unpaired and not args.shared:
        raise CommandError(
            f"{apart}; run what is missing, or add --shared to compare the {comparison.total.episodes} that both have."
        )
    notes = [f"Left out: {apart}."] if unpaired else []
    if comparison.errors:
        notes.append(f"Left out: {comparison.errors} episodes that ended in an error in A or B.")
    return notes


# --- how it is shown --------------------------------------------------------------------------------------------------


def _rows(comparison: Comparison) -> list[Pairs]:
    return [*comparison.tasks, *([comparison.total] if len(comparison.tasks) != 1 else [])]


def _rate(successes: int, episodes: int) -> str:
    low, high = wilson_interval(successes, episodes)
    return f"{successes / episodes:.3f} ({low:.3f} to {high:.3f})"


def _cells(pairs: Pairs) -> list[str]:
    low, high = pairs.interval
    return [
        pairs.task,
        *(str(count) for count in (pairs.both, pairs.only_a, pairs.only_b, pairs.neither)),
        *(_rate(successes, pairs.episodes) for successes in pairs.successes),
        f"{pairs.difference:+.3f} ({low:+.3f} to {high:+.3f})",
        f"{pairs.p_value:.3g}",
    ]


_HEADER = ("task", "both", "only A", "only B", "neither", "A", "B", "A - B", "p")


def to_table(comparison: Comparison) -> Table:
    """For the terminal; fits into 80 columns."""
    table = Table(title="Success in pairs", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_lines=True)
    table.add_column("task", overflow="fold")  # the only one that gives way on a narrow terminal
    for name in ("both/A/B/none", "A", "B", "A - B", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for pairs in _rows(comparison):
        rates = [(k / pairs.episodes, wilson_interval(k, pairs.episodes)) for k in pairs.successes]
        low, high = pairs.interval
        table.add_row(
            escape(pairs.task),
            f"{pairs.both}/{pairs.only_a}/{pairs.only_b}/{pairs.neither}",
            *(f"{rate:.3f}\n{low:.2f} to {high:.2f}" for rate, (low, high) in rates),
            f"{pairs.difference:+.3f}\n{low:+.2f} to {high:+.2f}",
            f"{pairs.p_value:.3g}",
        )
    if len(comparison.tasks) > 1:
        low, high = comparison.mean_difference_interval
        difference = f"{comparison.mean_difference:+.3f}\n{low:+.2f} to {high:+.2f}"
        table.add_row("mean over tasks", "", "", "", difference, "")
    return table


def to_markdown(comparison: Comparison, args: argparse.Namespace, notes: Sequence[str]) -> str:
    """For a document."""
    lines = [_HEADER, ["---", *["---:"] * (len(_HEADER) - 1)], *map(_cells, _rows(comparison))]
    if len(comparison.tasks) > 1:
        low, high = comparison.mean_difference_interval
        difference = f"{comparison.mean_difference:+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(["mean over tasks", *[""] * 6, difference, ""])
    table = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*table, "", f"A: `{args.a}`, B: `{args.b}`.", *notes, METHOD])


def to_dict(comparison: Comparison, args: argparse.Namespace, notes: Sequence[str]) -> dict[str, Any]:
    """For a program."""
    return {
        "a": str(args.a),
        "b": str(args.b),
        "tasks": [_content(pairs) for pairs in comparison.tasks],
        "total": _content(comparison.total),
        "mean_difference": comparison.mean_difference,
        "mean_difference_low": comparison.mean_difference_interval[0],
        "mean_difference_high": comparison.mean_difference_interval[1],
        "only_in_a": comparison.only_in_a,
        "only_in_b": comparison.only_in_b,
        "errors": comparison.errors,
        "notes": list(notes),
        "method": METHOD,
    }


def _content(pairs: Pairs) -> dict[str, Any]:
    rates = {}
    for name, successes in zip("ab", pairs.successes, strict=True):
        low, high = wilson_interval(successes, pairs.episodes)
        rates[name] = {"success_rate": successes / pairs.episodes, "low": low, "high": high}
    low, high = pairs.interval
    return {
        **asdict(pairs),
        "episodes": pairs.episodes,
        **rates,
        "difference": pairs.difference,
        "difference_low": low,
        "difference_high": high,
        "p_value": pairs.p_value,
    }
