"""Success rates while they are being measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rollouts import EpisodeResult, GroupSummary, Summary, summarize, wilson_interval
from rollouts.progress import time_text
from rollouts.statistics import TaskSummary
from simulators import EpisodeSpec
from videopolicy.evaluation.tables import between, interval, rate, terminal_table

MAX_NAME = 40  # letters of a task's name
MAX_ROWS = 24  # a table that is higher than the terminal shows nothing but its top


class LiveTable:
    """A table on the terminal: done, successes, rate and interval of each task; episodes per hour and time left.

    Args:
        console: Where it is drawn; nothing is drawn where there is no terminal.
        episodes: Everything that belongs to the run.
        known: Results that were there before.
    """

    def __init__(self, console: Console, episodes: Sequence[EpisodeSpec], known: Iterable[EpisodeResult]) -> None:
        self._planned: dict[str, int] = {}
        for spec in episodes:
            self._planned[spec.task] = self._planned.get(spec.task, 0) + 1
        wanted = {spec.key for spec in episodes}
        # An error runs again, so it is not done yet.
        self._results = [result for result in known if result.key in wanted and result.success is not None]
        self._before = len(self._results)
        self._total = len(episodes)
        self._start = time.monotonic()
        self._recent = list(self._planned)  # the task that changed last comes last
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=2, transient=True)
        self._drawn = console.is_terminal and not console.quiet

    def add(self, result: EpisodeResult) -> None:
        """Count a new result."""
        self._results.append(result)
        if result.task in self._planned:
            self._recent.remove(result.task)
            self._recent.append(result.task)

    def render(self) -> Table:
        """The table as it stands."""
        shown = set(self._recent[-MAX_ROWS:])
        done = {row.task: row for row in summarize(self._results).tasks}
        header = ("task", "done", "successes", "rate", "95 % interval", "errors")
        rows = [_cells(task, planned, done.get(task)) for task, planned in self._planned.items() if task in shown]
        table = terminal_table(self._headline(), header, rows, names=("task", ""))
        if len(shown) < len(self._planned):
            table.caption = f"the {len(shown)} tasks that changed last, of {len(self._planned)}"
        return table

    def _headline(self) -> str:
        outcomes = [result.success for result in self._results]
        errors = outcomes.count(None)
        successes, episodes = outcomes.count(True), len(outcomes) - errors
        solved = wilson_interval(successes, episodes)
        rate = f", success {successes / episodes:.3f} ({between(*solved)})" if episodes else ""
        new = len(self._results) - self._before
        per_second = new / max(time.monotonic() - self._start, 1e-9)
        left = f", {time_text((self._total - len(outcomes)) / per_second)} left" if new else ""
        pace = f", {3600 * per_second:.0f} episodes/h{left}" if new else ""
        return f"{len(outcomes)}/{self._total} episodes{rate}{f', {errors} errors' if errors else ''}{pace}"

    def __enter__(self) -> LiveTable:
        if self._drawn:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self._live.stop()


def _cells(task: str, planned: int, row: TaskSummary | None) -> list[str]:
    name = task if len(task) <= MAX_NAME else f"{task[: MAX_NAME // 2]}…{task[-MAX_NAME // 2 + 1 :]}"
    if row is None:
        return [name, f"0/{planned}", "", "", "", ""]
    numbers = (str(row.successes), rate(row), interval(row)) if row.episodes else ("", "", "")
    return [name, f"{row.episodes + row.errors}/{planned}", *numbers, str(row.errors)]


def success_table(summaries: dict[str, Summary], notes: Sequence[str] = ()) -> Table:
    """Success rates by policy and task, each with its Wilson 95 % interval; fits into 80 columns.

    Args:
        summaries: Name of a policy -> its rates.
        notes: What a reader of the rates has to know, below them.
    """
    single = len(summaries) == 1
    title = f"Success rates{f' of {next(iter(summaries))}' if single else ''} (Wilson 95 % intervals)"
    header = ("policy", "task", "solved", "rate", "interval", "errors", "steps", "s/replan")
    shown = slice(1, 8) if single else slice(0, 7)
    rows = [[name, *cells] for name, summary in summaries.items() for cells in _rows(summary)]
    table = terminal_table(title, header[shown], [row[shown] for row in rows], names=("policy", "task"))
    if notes:
        table.caption = Text("\n".join(f"warning: {note}" for note in notes), style="yellow", justify="left")
    return table


def _rows(summary: Summary) -> Iterator[list[str]]:
    """Tasks, all of them together, means and groups."""
    several = len(summary.tasks) > 1
    for row in (*summary.tasks, *([summary.total] if several else []), *(group.total for group in summary.groups)):
        solved = f"{row.successes}/{row.episodes}"
        steps, seconds = f"{row.mean_steps:.0f}", f"{row.seconds_per_replan:.3f}"
        yield [row.task, solved, rate(row), interval(row), str(row.errors), steps, seconds]
    means: list[tuple[str, Summary | GroupSummary]] = [("tasks", summary)] if several else []
    for name, mean in [*means, *((group.name, group) for group in summary.groups)]:
        yield [f"mean over {name}", "", rate(mean), interval(mean), "", "", ""]
