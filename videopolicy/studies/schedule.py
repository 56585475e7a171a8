"""Commands side by side, a few at a time: who waits for whom, what failed, and nobody stops the others."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from videopolicy.experiment.processes import end_with_parent

POLL_S = 0.2


@dataclass(frozen=True)
class Command:
    """One process.

    Attributes:
        part: Of a run: ``video``, ``action`` or ``evaluation``.
        words: Program and arguments.
        resumed: Whether it goes on with something, so that its seconds say nothing.
    """

    part: str
    words: Sequence[str]
    resumed: bool = False


@dataclass
class Task:
    """Commands that run one after the other.

    Attributes:
        name: What it is called.
        commands: Made when it starts.
        log: Where they print to.
        needs: Name of the task that has to be done before.
        finish: Called with the seconds of each part once all commands have succeeded; a string says why it failed.
        seconds: What each part took, where it was not gone on with.
        failure: Why it failed.
    """

    name: str
    commands: Callable[[], Sequence[Command]]
    log: Path
    needs: str | None = None
    finish: Callable[[dict[str, float]], str | None] = lambda _: None
    seconds: dict[str, float] = field(default_factory=dict)
    failure: str | None = None


class _Active:
    """A task that runs in a slot."""

    def __init__(self, task: Task, environment: dict[str, str]) -> None:
        self.task = task
        self.started = time.monotonic()
        self._environment = environment
        task.log.parent.mkdir(parents=True, exist_ok=True)
        self._stream: TextIO = task.log.open("a")
        self._left = iter(task.commands())
        self.command: Command | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._next()

    def _next(self) -> None:
        self.command = next(self._left, None)
        self._begun = time.monotonic()
        if self.command is None:
            self.process = None
            self._stream.close()
            self.task.failure = self.task.finish(self.task.seconds)
            return
        self.process = subprocess.Popen(
            list(self.command.words),
            stdout=self._stream,
            stderr=self._stream,
            stdin=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,  # Ctrl-C reaches the study alone, which then ends them
            preexec_fn=end_with_parent(),
        )

    def is_done(self) -> bool:
        """Whether all commands are; starts the next one where one has ended."""
        while self.process is not None:
            if (status := self.process.poll()) is None:
                return False
            assert self.command is not None
            if status != 0:
                self._stream.close()
                self.task.failure = f"{self.command.part}: {_last_line(self.task.log) or f'exit status {status}'}"
                return True
            if not self.command.resumed:
                part, seconds = self.command.part, time.monotonic() - self._begun
                self.task.seconds[part] = self.task.seconds.get(part, 0.0) + seconds
            self._next()
        return True

    def end(self) -> None:
        """Ask the process to save and end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        """Wait for the process's end; one that does not listen is killed."""
        if self.process is not None:
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._stream.close()


class Schedule:
    """Run tasks in their order as far as what they need is done.

    Args:
        tasks: In order; what a task needs stands before it.
        environments: Of every slot; so many tasks run at once.

    Attributes:
        active: What runs.
        failed: Tasks that failed.
    """

    def __init__(self, tasks: Sequence[Task], environments: Sequence[dict[str, str]]) -> None:
        self._pending = list(tasks)
        self._environments = environments
        self._waited_for = {task.name for task in tasks}
        self._slots: dict[int, _Active] = {}
        self.failed: list[Task] = []

    @property
    def active(self) -> list[_Active]:
        """What runs at the moment."""
        return list(self._slots.values())

    def run(self) -> Iterator[Task | None]:
        """Run everything; yields a task that has ended, or None while nothing has."""
        try:
            while self._pending or self._slots:
                self._start()
                ended = [slot for slot, active in self._slots.items() if active.is_done()]
                for slot in ended:
                    task = self._slots.pop(slot).task
                    if task.failure is None:
                        self._waited_for.discard(task.name)
                    else:
                        self.failed += [task, *self._give_up(task)]
                    yield task
                if not ended:
                    yield None
                    time.sleep(POLL_S)
        finally:
            for active in self.active:
                active.end()
            for active in self.active:
                active.wait()

    def _start(self) -> None:
        for slot, own in enumerate(self._environments):
            ready = next((task for task in self._pending if task.needs not in self._waited_for), None)
            if slot not in self._slots and ready is not None:
                self._pending.remove(ready)
                self._slots[slot] = _Active(ready, {**os.environ, **own})

    def _give_up(self, failed: Task) -> list[Task]:
        """Take out the tasks that wait for a failed one."""
        lost = [task for task in self._pending if task.needs == failed.name]
        for task in lost:
            self._pending.remove(task)
            task.failure = f"{failed.name} failed: {failed.failure}"
        return lost


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
