"""A progress line for rollouts; standard library only, as everything in this package."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO


class EpisodeProgress:
    """One line on stderr: a bar, counts, episodes per hour and the time left.

    On a terminal the line is redrawn in place; elsewhere (a log file, inside another progress display) it is printed at
    most every `quiet_s` seconds and at the end.

    Args:
        title: What is being run.
        total: Number of episodes.
        done: Episodes that were there before; they count as done but not for the rate.
        enabled: Print at all.
        stream: Where to; stderr if None.
        quiet_s: Seconds between lines where there is no terminal.
    """

    def __init__(
        self,
        title: str,
        total: int,
        done: int = 0,
        enabled: bool = True,
        stream: TextIO | None = None,
        quiet_s: float = 30.0,
    ) -> None:
        self.title = title
        self.total = total
        self.enabled = enabled
        self.quiet_s = quiet_s
        self._stream = stream or sys.stderr
        self._before = self._done = done
        self._note = ""
        self._start = self._printed = time.monotonic()

    def advance(self, note: str) -> None:
        """Count one episode and show what happened so far."""
        self._done += 1
        self._note = note
        if not self.enabled:
            return
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[2K{self.line()}")
            self._stream.flush()
        elif time.monotonic() - self._printed > self.quiet_s:
            self._print()

    def line(self) -> str:
        """The text of the line."""
        filled = round(24 * self._done / self.total) if self.total else 24
        elapsed = max(time.monotonic() - self._start, 1e-9)
        per_second = (self._done - self._before) / elapsed
        left = clock((self.total - self._done) / per_second) if per_second else "--:--"
        bar = "━" * filled + "┄" * (24 - filled)
        rate = f"{3600 * per_second:.0f}/h"
        return f"{self.title} {bar} {self._done}/{self.total}  {self._note}  {rate}  {left} left"

    def _print(self) -> None:
        self._printed = time.monotonic()
        self._stream.write(self.line() + "\n")
        self._stream.flush()

    def __enter__(self) -> EpisodeProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.enabled and self._done > self._before:
            if self._stream.isatty():
                self._stream.write("\r\x1b[2K")
            self._print()


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
