"""How rates and tables are written, on the terminal, in Markdown and on the report's page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from rollouts import GroupSummary, Summary
from rollouts.statistics import TaskSummary

Rated = TaskSummary | GroupSummary | Summary
"""What has a success rate; of a group, or of several tasks, it is the mean over its tasks."""


def rate(row: Rated, digits: int = 3) -> str:
    """A success rate; a dash where no episode has an outcome."""
    value = row.success_rate if isinstance(row, TaskSummary) else row.mean_success_rate
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def interval(row: Rated, digits: int = 3) -> str:
    """Its 95 % interval."""
    low, high = (row.low, row.high) if isinstance(row, TaskSummary) else row.mean_interval
    return between(low, high, digits)


def between(low: float, high: float, digits: int = 3, sign: str = "") -> str:
    """Two ends of an interval; ``sign="+"`` for a difference."""
    return f"{low:{sign}.{digits}f} to {high:{sign}.{digits}f}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a document: names to the left, numbers to the right."""
    aligned = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, aligned, *rows))


def terminal_table(
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    names: Sequence[str] = ("task",),
    simple: bool = False,
) -> Table:
    """A table for the terminal that fits into 80 columns.

    Args:
        title: Above it.
        header: Of the columns.
        rows: Cells.
        names: The columns that hold text; a long one in the last of them is folded, everything else keeps its line.
        simple: Without a frame, with rows of several lines kept apart.
    """
    if simple:
        table = Table(title=escape(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_lines=True)
    else:
        table = Table(title=escape(title), box=HEAVY_HEAD)
    for column in header:
        folds = column == names[-1]
        table.add_column(
            column,
            justify="left" if column in names else "right",
            overflow="fold" if folds else "ellipsis",
            no_wrap=not folds,
        )
    for cells in rows:
        table.add_row(*map(escape, cells))
    return table
