"""`videopolicy compare`: two evaluations over the same episodes, episode by episode."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from files.errors import UserError
from rollouts import Comparison, Pairs, compare, wilson_interval
from videopolicy.evaluation.identity import require_same_protocol
from videopolicy.evaluation.results_directory import Evaluation, read_evaluation
from videopolicy.evaluation.tables import between, markdown_table, terminal_table

METHOD = (
    "Difference: Newcombe's 95 % interval for paired proportions (1998, method 10); p: McNemar's exact test; "
    "rates: Wilson 95 % intervals; mean over tasks: the same with the tasks as strata."
)


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
        UserError: There is nothing to compare, or the two do not belong together.
    """
    a, b = (read_finished(path) for path in (args.a, args.b))
    notes = require_same_protocol([args.a, args.b], [a.document, b.document])
    comparison = compare(a.results, b.results)
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


def read_finished(path: Path) -> Evaluation:
    """An evaluation with at least one finished episode.

    Raises:
        UserError: There is nothing there.
    """
    file = path / "results.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such results; give a directory that `videopolicy evaluate --output` wrote.")
    evaluation = read_evaluation(path)
    if not evaluation.results:
        raise UserError(f"{file}: holds no finished episode yet.")
    return evaluation


def require_pairs(args: argparse.Namespace, comparison: Comparison) -> list[str]:
    """Refuse runs over different episodes, unless `--shared`.

    Returns:
        What was left out, in sentences.
    """
    apart = f"{comparison.only_in_a} episodes are only in {args.a} and {comparison.only_in_b} only in {args.b}"
    unpaired = comparison.only_in_a + comparison.only_in_b
    if comparison.total.episodes == 0:
        raise UserError(f"no episode has an outcome in both: {apart}, {comparison.errors} ended in an error.")
    if unpaired and not args.shared:
        raise UserError(
            f"{apart}; run what is missing, or add --shared to compare the {comparison.total.episodes} that both have."
        )
    notes = [f"Left out: {apart}."] if unpaired else []
    if comparison.errors:
        notes.append(f"Left out: {comparison.errors} episodes that ended in an error in A or B.")
    return notes


# --- how it is shown --------------------------------------------------------------------------------------------------


def _rows(comparison: Comparison) -> list[Pairs]:
    return [*comparison.tasks, *([comparison.total] if len(comparison.tasks) != 1 else [])]


def _cells(pairs: Pairs, layout: str = "{} ({})", digits: int = 3) -> list[str]:
    counts = [str(count) for count in (pairs.both, pairs.only_a, pairs.only_b, pairs.neither)]
    rates = [
        layout.format(f"{successes / pairs.episodes:.3f}", between(*wilson_interval(successes, pairs.episodes), digits))
        for successes in pairs.successes
    ]
    difference = _difference(pairs.difference, pairs.interval, layout, digits)
    return [pairs.task, *counts, *rates, difference, f"{pairs.p_value:.3g}"]


def _difference(value: float, bounds: tuple[float, float], layout: str = "{} ({})", digits: int = 3) -> str:
    return layout.format(f"{value:+.3f}", between(*bounds, digits, sign="+"))


def to_table(comparison: Comparison) -> Table:
    """For the terminal; fits into 80 columns."""
    rows = []
    for pairs in _rows(comparison):
        task, *cells = _cells(pairs, "{}\n{}", digits=2)
        rows.append([task, "/".join(cells[:4]), *cells[4:]])
    if len(comparison.tasks) > 1:
        mean = _difference(comparison.mean_difference, comparison.mean_difference_interval, "{}\n{}", digits=2)
        rows.append(["mean over tasks", "", "", "", mean, ""])
    header = ("task", "both/A/B/none", "A", "B", "A - B", "p")
    return terminal_table("Success in pairs", header, rows, simple=True)


def to_markdown(comparison: Comparison, args: argparse.Namespace, notes: Sequence[str]) -> str:
    """For a document."""
    rows = [_cells(pairs) for pairs in _rows(comparison)]
    if len(comparison.tasks) > 1:
        mean = _difference(comparison.mean_difference, comparison.mean_difference_interval)
        rows.append(["mean over tasks", *[""] * 6, mean, ""])
    header = ("task", "both", "only A", "only B", "neither", "A", "B", "A - B", "p")
    return "\n".join([markdown_table(header, rows), "", f"A: `{args.a}`, B: `{args.b}`.", *notes, METHOD])


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
