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
from rollouts.progress import clock
from simulators import EpisodeSpec

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
        table = Table(title=self._headline())
        table.add_column("task", no_wrap=True)
        for name in ("done", "successes", "rate", "95 % interval", "errors"):
            table.add_column(name, justify="right", no_wrap=True)
        shown = set(self._recent[-MAX_ROWS:])
        rows = {row.task: row for row in summarize(self._results).tasks}
        for task, planned in self._planned.items():
            if task not in shown:
                continue
            row = rows.get(task)
            name = task if len(task) <= MAX_NAME else f"{task[: MAX_NAME // 2]}…{task[-MAX_NAME // 2 + 1 :]}"
            if row is None:
                table.add_row(name, f"0/{planned}", "", "", "", "")
            else:
                done = row.episodes + row.errors
                rate, interval = f"{row.success_rate:.3f}", f"{row.low:.3f} to {row.high:.3f}"
                numbers = (str(row.successes), rate, interval) if row.episodes else ("", "", "")
                table.add_row(name, f"{done}/{planned}", *numbers, str(row.errors))
        if len(shown) < len(self._planned):
            table.caption = f"the {len(shown)} tasks that changed last, of {len(self._planned)}"
        return table

    def _headline(self) -> str:
        outcomes = [result.success for result in self._results]
        errors = outcomes.count(None)
        successes, episodes = outcomes.count(True), len(outcomes) - errors
        low, high = wilson_interval(successes, episodes)
        rate = f", success {successes / episodes:.3f} ({low:.3f} to {high:.3f})" if episodes else ""
        new = len(self._results) - self._before
        per_second = new / max(time.monotonic() - self._start, 1e-9)
        left = f", {clock((self._total - len(outcomes)) / per_second)} left" if new else ""
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


def success_table(summaries: dict[str, Summary], notes: Sequence[str] = ()) -> Table:
    """Success rates by policy and task, each with its Wilson 95 % interval; fits into 80 columns.

    Args:
        summaries: Name of a policy -> its rates.
        notes: What a reader of the rates has to know, below them.
    """
    single = len(summaries) == 1
    table = Table(title=f"Success rates{f' of {next(iter(summaries))}' if single else ''} (Wilson 95 % intervals)")
    if notes:
        table.caption = Text("\n".join(f"warning: {note}" for note in notes), style="yellow", justify="left")
    if not single:
        table.add_column("policy", no_wrap=True)
    table.add_column("task", overflow="fold")  # the only one that gives way on a narrow terminal
    for column in ("solved", "rate", "interval", "errors", "steps", *(("s/replan",) if single else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for name, summary in summaries.items():
        for cells in _rows(summary):
            table.add_row(*([] if single else [name]), *cells[: 7 if single else 6])
    return table


def _rows(summary: Summary) -> Iterator[list[str]]:
    """Tasks, all of them together, means and groups."""
    several = len(summary.tasks) > 1
    for row in (*summary.tasks, *([summary.total] if several else []), *(group.total for group in summary.groups)):
        yield [
            row.task,
            f"{row.successes}/{row.episodes}",
            f"{row.success_rate:.3f}",
            f"{row.low:.3f} to {row.high:.3f}",
            str(row.errors),
            f"{row.mean_steps:.0f}",
            f"{row.seconds_per_replan:.3f}",
        ]
    if several:
        yield _mean("tasks", summary)
    for group in summary.groups:
        yield _mean(group.name, group)


def _mean(name: str, summary: Summary | GroupSummary) -> list[str]:
    low, high = summary.mean_interval
    return [f"mean over {name}", "", f"{summary.mean_success_rate:.3f}", f"{low:.3f} to {high:.3f}"]
