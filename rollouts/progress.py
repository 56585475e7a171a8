"""How far episodes are: a rich bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class EpisodeProgress:
    """Counts, episodes per hour and the time left.

    Args:
        title: What is being run.
        total: Number of episodes.
        done: Episodes that were there before; they count as done but not for the rate.
        enabled: Show anything at all.
        console: Where; stderr if None.
        quiet_s: Seconds between lines where there is no terminal.
    """

    def __init__(
        self,
        title: str,
        total: int,
        done: int = 0,
        enabled: bool = True,
        console: Console | None = None,
        quiet_s: float = 30.0,
    ) -> None:
        self.title, self.total, self.enabled, self.quiet_s = title, total, enabled, quiet_s
        self._console = console or Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self._before = self._done = done
        self._note = ""
        self._start = self._printed = time.monotonic()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        note = TextColumn("{task.fields[note]}", markup=False)
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        drawn = enabled and self._console.is_terminal
        self._bar = Progress(*columns, note, *times, console=self._console, transient=True, disable=not drawn)
        self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def advance(self, note: str) -> None:
        """Count one episode and show what happened so far."""
        self._done += 1
        self._note = note
        self._bar.update(self._task, advance=1, note=f"{note}  {self._rate()}")
        if self._bar.disable and time.monotonic() - self._printed > self.quiet_s:
            self._print()

    def line(self) -> str:
        """The state as one line."""
        per_second = self._per_second()
        left = f"  {time_text((self.total - self._done) / per_second)} left" if per_second else ""
        return f"{self.title} {self._done}/{self.total}  {self._note}  {self._rate()}{left}"

    def _per_second(self) -> float:
        return (self._done - self._before) / max(time.monotonic() - self._start, 1e-9)

    def _rate(self) -> str:
        return f"{3600 * self._per_second():.0f}/h"

    def _print(self) -> None:
        self._printed = time.monotonic()
        if self.enabled:
            self._console.print(self.line())

    def __enter__(self) -> EpisodeProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._done > self._before:
            self._print()


def time_text(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
