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


def carry_out(
    study: Study, chosen: Sequence[Run], output: Path, slots: Sequence[dict[str, str]], console: Console
) -> tuple[list[RunResult], list[Task]]:
    """Run what is missing of some runs; tables and pictures are written after each.

    Args:
        study: The study.
        chosen: Those of its runs that are asked for.
        output: The study's folder.
        slots: What each of the jobs at a time adds to its environment.
        console: Shows the progress, and names what failed.

    Returns:
        Every finished run's result, and the tasks that failed.
    """
    every = runs_of(study)
    complete = complete_results(study, output, every)
    missing = different(run for run in chosen if run.fingerprint not in complete)
    outcome = Outcome(study, every, complete, output)
    schedule = Schedule(tasks_of(study, missing, output) if missing else [], slots)
    _run_all(schedule, outcome, console)
    outcome.write()
    for task in schedule.failed:
        console.print(f"failed: {task.name}: {task.failure} ({task.log}); the same command tries again", soft_wrap=True)
    return outcome.results, schedule.failed


def complete_results(study: Study, output: Path, runs: Sequence[Run]) -> dict[str, RunResult]:
    """Fingerprint -> result of the runs that have all their episodes."""
    known = known_results(output, runs)
    return {key: result for key, result in known.items() if is_complete(result, study.levels, study.episodes)}


class Outcome:
    """The results so far, and the files that are made of them."""

    def __init__(self, study: Study, runs: Sequence[Run], complete: dict[str, RunResult], output: Path) -> None:
        self.study, self.output = study, output
        self._runs = {run.name: run for run in runs}  # several may be one, where a row differs at other points
        self._complete = dict(complete)
        self._failures: dict[str, str] = {}

    @property
    def results(self) -> list[RunResult]:
        """Of the finished runs, in the order of the study."""
        finished = [run for run in self._runs.values() if run.fingerprint in self._complete]
        return [
            replace(self._complete[run.fingerprint], row=run.row, action_demos=run.action_demos, seed=run.seed)
            for run in finished
        ]

    def add(self, task: Task, failed: Sequence[Task]) -> None:
        """Take in a task that has ended, and write the files anew.

        Args:
            task: Of a run, or of a stage 1.
            failed: Every task that has failed, those among them that waited for one.
        """
        self._failures = {lost.name: f"failed: {lost.failure}" for lost in failed}
        self.write()

    def write(self) -> None:
        """Write tables and pictures, of other processes' runs in the same folder too."""
        self._complete |= complete_results(self.study, self.output, list(self._runs.values()))
        if self._complete:
            missing = [run.name for run in self._runs.values() if run.fingerprint not in self._complete]
            unfinished = {name: self._failures.get(name, "not run") for name in missing}
            write_outcome(self.study, self.results, unfinished, self.output)


def _run_all(schedule: Schedule, outcome: Outcome, console: Console) -> None:
    """Run the tasks; on a terminal with a live table, else with a line a task."""
    table = progress_table(outcome.study, outcome.results)
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        for ended in schedule.run():
            if ended is not None:
                outcome.add(ended, schedule.failed)
                table = progress_table(outcome.study, outcome.results)
                if not console.is_terminal:
                    console.print(f"{ended.name}: {ended.failure or 'done'}", soft_wrap=True)
            if console.is_terminal:
                live.update(render(table, schedule))


def different(runs: Iterable[Run]) -> list[Run]:
    """One of the runs that are the same but for their rows' names."""
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(run.fingerprint, run)
    return list(found.values())
