"""Run what is missing of a study: its tasks side by side, and its files written anew after each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.live import Live

from videopolicy.studies.definition import Study
from videopolicy.studies.execution import tasks_of
from videopolicy.studies.live import progress_table, render
from videopolicy.studies.results import RunResult, is_complete, known_results
from videopolicy.studies.runs import Run, runs_of
from videopolicy.studies.schedule import Schedule, Task
from videopolicy.studies.written import write_outcome


class Outcome:
    """The results so far, and the files that are made of them.

    Args:
        study: The study.
        output: Its folder.

    Attributes:
        runs: All runs of the study.
        complete: Fingerprint -> result of the runs that have all their episodes.
    """

    def __init__(self, study: Study, output: Path) -> None:
        self.study, self.output = study, output
        self.runs = runs_of(study)
        self._read()

    def _read(self) -> None:
        """Take in the results in the folder, those of other processes too."""
        found, study = known_results(self.output, self.runs), self.study
        self.complete = {key: one for key, one in found.items() if is_complete(one, study.levels, study.episodes)}

    def missing(self, chosen: Iterable[Run]) -> list[Run]:
        """Those of some runs that have no result yet; one of those that are the same but for their names."""
        found: dict[str, Run] = {}
        for run in chosen:
            found.setdefault(run.fingerprint, run)
        return [run for key, run in found.items() if key not in self.complete]

    @property
    def results(self) -> list[RunResult]:
        """Of the finished runs, in the order of the study."""
        finished = [(run, self.complete[run.fingerprint]) for run in self.runs if run.fingerprint in self.complete]
        return [replace(one, row=run.row, action_demos=run.action_demos, seed=run.seed) for run, one in finished]

    def write(self, failed: Sequence[Task] = ()) -> None:
        """Write tables and pictures of what is in the folder by now.

        Args:
            failed: Every task that has failed, those among them that waited for one.
        """
        self._read()
        failures = {lost.name: f"failed: {lost.failure}" for lost in failed}
        if self.complete:
            missing = [run.name for run in self.runs if run.fingerprint not in self.complete]
            unfinished = {name: failures.get(name, "not run") for name in missing}
            write_outcome(self.study, self.results, unfinished, self.output)


def carry_out(outcome: Outcome, chosen: Sequence[Run], slots: Sequence[dict[str, str]], console: Console) -> list[Task]:
    """Run what is missing of some runs of a study; tables and pictures are written after each.

    Args:
        outcome: Of the study.
        chosen: Those of its runs that are asked for.
        slots: What each of the jobs at a time adds to its environment.
        console: Shows the progress, and names what failed.

    Returns:
        The tasks that failed.
    """
    missing = outcome.missing(chosen)
    schedule = Schedule(tasks_of(outcome.study, missing, outcome.output) if missing else [], slots)
    _run_all(schedule, outcome, console)
    outcome.write(schedule.failed)
    for task in schedule.failed:
        console.print(f"failed: {task.name}: {task.failure} ({task.log}); the same command tries again", soft_wrap=True)
    return schedule.failed


def _run_all(schedule: Schedule, outcome: Outcome, console: Console) -> None:
    """Run the tasks; on a terminal with a live table, else with a line a task."""
    table = progress_table(outcome.study, outcome.results)
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        for ended in schedule.run():
            if ended is not None:
                outcome.write(schedule.failed)
                table = progress_table(outcome.study, outcome.results)
                if not console.is_terminal:
                    console.print(f"{ended.name}: {ended.failure or 'done'}", soft_wrap=True)
            if console.is_terminal:
                live.update(render(table, schedule))
