"""The progress bar of rollouts and of collection."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class EpisodeProgress:
    """A rich bar with counts, episodes per minute and the time left; nothing at all when disabled.

    rich is imported only when a bar is shown: workers, which may run in another Python, have no use for it.

    Args:
        title: What is being run.
        total: Number of episodes.
        done: Episodes that were there before; they count as done but not for the rate.
        enabled: Show the bar.
    """

    def __init__(self, title: str, total: int, done: int = 0, enabled: bool = True) -> None:
        self._bar: Any = None
        if enabled:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self._task = self._bar.add_task(title, total=total, completed=done, note="")
        self._started = done

    def advance(self, note: str) -> None:
        """Count one episode and show what happened so far."""
        if self._bar is not None:
            elapsed = self._bar.tasks[0].elapsed or 1e-9
            rate = (self._bar.tasks[0].completed + 1 - self._started) * 60 / elapsed
            self._bar.update(self._task, advance=1, note=f"{note}, {rate:.0f}/min")

    def __enter__(self) -> EpisodeProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
