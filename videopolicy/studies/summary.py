"""What comes out of a study: success of every row with intervals, and differences to the first row in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rollouts.crossed_bootstrap import Estimate, difference, estimate, mean_over_tasks
from videopolicy.studies.definition import Study
from videopolicy.studies.results import Outcomes, RunResult
from videopolicy.studies.runs import words

ALL_TASKS = "all tasks"
Episode = tuple[str, str]  # task, seed


@dataclass(frozen=True)
class Cell:
    """A row at one point.

    Attributes:
        row: Of the study.
        action_demos: Demos a task that have actions; None for all.
        level: Of variation.
        seeds: Training seeds whose runs are finished.
        by_seed: Success rate of each.
        rate: Over all of them.
        against_first: Difference to the first row, over the seeds that both have; None for the first itself.
    """

    row: str
    action_demos: int | None
    level: float
    seeds: list[int]
    by_seed: list[float]
    rate: Estimate
    against_first: Estimate | None


@dataclass(frozen=True)
class Section:
    """All cells over some tasks.

    Attributes:
        name: Of the group of tasks.
        cells: In the order of the study; what is not finished is left out.
        left_out: Episodes that are in no cell because some run does not have them or could not run them.
    """

    name: str
    cells: list[Cell] = field(default_factory=list)
    left_out: int = 0

    def find(self, row: str, action_demos: int | None, level: float) -> Cell | None:
        """The cell of a row at a point."""
        wanted = (row, action_demos, level)
        return next((cell for cell in self.cells if (cell.row, cell.action_demos, cell.level) == wanted), None)


def points(study: Study) -> list[tuple[int | None, float]]:
    """Number of action demos and level of variation of every column; one of the two is the same for all."""
    return [(k, level) for k in study.action_demos for level in study.levels]


def column(study: Study, point: tuple[int | None, float]) -> str:
    """What a column is called."""
    return f"{point[1]:g}" if len(study.levels) > 1 else words(point[0])


def sections(study: Study, results: Sequence[RunResult]) -> list[Section]:
    """Cells over all tasks, then over each group of the protocol."""
    groups: dict[str, Sequence[str] | None] = {ALL_TASKS: None, **(study.protocol.get("groups") or {})}
    found = []
    for name, tasks in groups.items():
        section = Section(name)
        left_out = 0
        for k, level in points(study):
            cells, lost = _cells(study, results, (k, level), tasks)
            section.cells.extend(cells)
            left_out += lost
        found.append(Section(name, section.cells, left_out))
    return found


def _cells(
    study: Study, results: Sequence[RunResult], point: tuple[int | None, float], tasks: Sequence[str] | None
) -> tuple[list[Cell], int]:
    by_row: dict[str, dict[int, dict[Episode, bool | None]]] = {}
    for result in results:
        outcomes = [part.outcomes for part in result.levels if part.level == point[1]]
        if result.action_demos == point[0] and outcomes:
            by_row.setdefault(result.row, {})[result.seed] = _first(outcomes[0], study.episodes, tasks)
    runs = [run for seeds in by_row.values() for run in seeds.values()]
    if not runs:
        return [], 0
    every = dict.fromkeys(episode for run in runs for episode in run)
    valid = [episode for episode in every if all(run.get(episode) is not None for run in runs)]
    if not valid:
        return [], len(every)
    names = [task for task, _ in valid]
    reference = by_row.get(next(iter(study.experiments)), {})
    cells = []
    for place, row in enumerate(study.experiments):
        if not (own := by_row.get(row)):
            continue
        seeds, both = sorted(own), sorted(own.keys() & reference.keys())
        against = (
            difference(_array(own, both, valid), _array(reference, both, valid), names) if place and both else None
        )
        values = _array(own, seeds, valid)
        rate = estimate(values, names)
        cells.append(Cell(row, *point, seeds, [mean_over_tasks(line[None], names) for line in values], rate, against))
    return cells, len(every) - len(valid)


def _first(outcomes: Outcomes, episodes: int, tasks: Sequence[str] | None) -> dict[Episode, bool | None]:
    """The first so many episodes of each task."""
    return {
        (task, seed): success
        for task, found in outcomes.items()
        if tasks is None or task in tasks
        for seed, success in list(found.items())[:episodes]
    }


def _array(
    runs: Mapping[int, Mapping[Episode, bool | None]], seeds: Sequence[int], episodes: Sequence[Episode]
) -> npt.NDArray[np.float64]:
    return np.array([[float(bool(runs[seed][episode])) for episode in episodes] for seed in seeds])
