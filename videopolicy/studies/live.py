"""A study while it runs: how far every cell is, and what runs at the moment."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from rollouts.progress import time_text
from videopolicy.evaluation.tables import terminal_table
from videopolicy.studies.definition import Study
from videopolicy.studies.results import RunResult
from videopolicy.studies.runs import words
from videopolicy.studies.schedule import Schedule
from videopolicy.studies.summary import sections


def progress_table(study: Study, results: Sequence[RunResult]) -> Table:
    """Success rate and finished training seeds of every row and number of action demos."""
    overall = sections(study, results)[0]
    header = ["row", *map(words, study.action_demos)]
    rows = []
    for row in study.experiments:
        cells = [overall.find(row, k, study.levels[0]) for k in study.action_demos]
        said = ["" if cell is None else f"{cell.rate.mean:.2f} {len(cell.seeds)}/{len(study.seeds)}" for cell in cells]
        rows.append([row, *said])
    done = f"{len(results)} of {len(study.seeds) * len(study.action_demos) * len(study.experiments)} runs"
    title = f"{study.name}: success over action demos a task, finished seeds; {done}"
    return terminal_table(title, header, rows, names=("row",))


def render(table: Table, schedule: Schedule) -> Group:
    """The table and what runs below it."""
    now = time.monotonic()
    lines = [
        f"  {active.task.name}: {active.command.part if active.command else ''} {time_text(now - active.started)}"
        for active in schedule.active
    ]
    return Group(table, *lines)
