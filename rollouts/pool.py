"""Several worker processes, a queue of episodes, and the rule for lost workers: restart, retry, finally give up."""

from __future__ import annotations

import selectors
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rollouts.worker_process import WorkerProcess, no_start
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError, WorkerDied
from simulators.messages import EpisodeSpec


@dataclass
class Job:
    """An episode to run.

    Args:
        index: Position in the caller's list.
        spec: The episode.
        attempts: How often a worker died over it.
    """

    index: int
    spec: EpisodeSpec
    attempts: int = 0


@dataclass
class Event:
    """What a worker answered, or how it died, while it worked on `job`."""

    slot: int
    job: Job
    reply: Any = None
    death: WorkerDied | None = None


class WorkerPool:
    """Workers, each busy with at most one job. They are started with their first job and live until `close`.

    Args:
        config: What they simulate.
        num_workers: How many processes.
        timeout_s: A request that takes longer counts as a hang.
        start_timeout_s: The same for a worker's first request, which imports the simulator, and for the first of every
            task that it turns to, which builds it.
        max_retries: An episode is tried this many times again after losing its worker.
    """

    def __init__(
        self,
        config: SimulatorConfig,
        num_workers: int = 1,
        timeout_s: float = 120.0,
        start_timeout_s: float = 300.0,
        max_retries: int = 2,
    ) -> None:
        if num_workers < 1:
            raise SimulatorError(f"num_workers is {num_workers}; it must be at least 1.")
        self.config = config
        self.num_workers = num_workers
        self.timeout_s = timeout_s
        self.start_timeout_s = max(start_timeout_s, timeout_s)
        self.max_retries = max_retries
        self._workers: dict[int, WorkerProcess] = {}
        self._answered: dict[int, str] = {}  # slot -> task of its worker's last answer: imported and built
        self._jobs: dict[int, Job] = {}
        self._deadlines: dict[int, float] = {}
        self._tasks: dict[int, str] = {}  # what a slot's worker has built
        self._queue: list[Job] = []
        self._ever_answered = False
        self._started: set[int] = set()  # slots that ever had a worker
        self._deaths_at_start: Counter[int] = Counter()  # slot -> workers lost while none has ever answered

    # --- the queue ---

    def load(self, episodes: Sequence[EpisodeSpec], indices: Sequence[int]) -> None:
        """Set the episodes to run, numbered by `indices`; forgets what an aborted run left behind."""
        for slot in list(self._jobs):  # in the middle of an episode: not worth saving
            self._drop(slot)
        assert len(indices) == len(episodes)
        self._queue = [Job(index, spec) for index, spec in zip(indices, episodes, strict=True)]

    def assign(self) -> list[tuple[int, Job]]:
        """Give every idle slot its next job, preferring the task its worker has already built."""
        assigned = []
        for slot in range(self.num_workers):
            if slot not in self._jobs and self._queue:
                job = self._queue.pop(self._choose(slot))
                self._jobs[slot] = job
                self._tasks[slot] = job.spec.task
                assigned.append((slot, job))
        return assigned

    def _choose(self, slot: int) -> int:
        """Position in the queue: same task as before, else a task no other worker has, else the first."""
        tasks = [job.spec.task for job in self._queue]
        if self._tasks.get(slot) in tasks:
            return tasks.index(self._tasks[slot])
        taken = {task for other, task in self._tasks.items() if other != slot}
        return next((i for i, task in enumerate(tasks) if task not in taken), 0)

    def finish(self, slot: int) -> None:
        """The slot's job is done; the slot is idle."""
        del self._jobs[slot]

    def retry(self, event: Event) -> bool:
        """Queue a lost job again, first in line; False if it has used up its retries."""
        event.job.attempts += 1
        if event.job.attempts > self.max_retries:
            return False
        self._queue.insert(0, event.job)
        return True

    @property
    def busy(self) -> bool:
        """Some job is queued or under way."""
        return bool(self._queue or self._jobs)

    # --- the workers ---

    def send(self, slot: int, verb: str, **arguments: object) -> Event | None:
        """Send a request to the slot's worker, starting one if need be; an Event if it is dead already."""
        try:
            if slot not in self._workers:
                self._started.add(slot)
                self._workers[slot] = WorkerProcess(self.config)
            self._workers[slot].send(verb, **arguments)
        except WorkerDied as death:
            return self._bury(slot, death)
        has_built = self._answered.get(slot) == self._tasks[slot]
        limit = self.timeout_s if has_built else self.start_timeout_s
        self._deadlines[slot] = time.monotonic() + limit
        return None

    def wait(self, block: bool) -> list[Event]:
        """Answers that are there; with `block`, waits for at least one answer or death."""
        if not self._deadlines:
            return []
        with selectors.DefaultSelector() as selector:
            for slot in self._deadlines:
                selector.register(self._workers[slot], selectors.EVENT_READ, slot)
            left = max(min(self._deadlines.values()) - time.monotonic(), 0.0)
            ready = sorted(key.data for key, _ in selector.select(left if block else 0))
        events = [self._read(slot) for slot in ready]
        now = time.monotonic()
        late = [slot for slot, deadline in self._deadlines.items() if deadline <= now]
        events += [self._bury(slot, self._workers[slot].hung()) for slot in late]
        return events

    def _read(self, slot: int) -> Event:
        del self._deadlines[slot]
        try:
            reply = self._workers[slot].receive(self.timeout_s)
        except WorkerDied as death:
            return self._bury(slot, death)
        self._answered[slot] = self._jobs[slot].spec.task
        self._ever_answered = True
        return Event(slot, self._jobs[slot], reply)

    def _bury(self, slot: int, death: WorkerDied) -> Event:
        """Get rid of a lost worker; give up if none has ever answered and every slot has lost one.

        One broken interpreter loses all of them; a machine with too little memory for 32 loses some.
        """
        job = self._jobs[slot]
        self._drop(slot)
        if not self._ever_answered:
            self._deaths_at_start[slot] += 1
            if sum(self._deaths_at_start.values()) > self.max_retries and self._started == set(self._deaths_at_start):
                raise no_start(self.config, death) from death
        return Event(slot, job, death=death)

    def _drop(self, slot: int) -> None:
        self._jobs.pop(slot, None)
        self._deadlines.pop(slot, None)
        self._tasks.pop(slot, None)
        self._answered.pop(slot, None)
        if slot in self._workers:
            self._workers.pop(slot).kill()

    def pids(self) -> dict[int, int]:
        """Slot -> process id of the living workers."""
        return {slot: worker.pid for slot, worker in self._workers.items()}

    def close(self) -> None:
        """End all workers; idle ones are allowed to clean up."""
        for slot in list(self._jobs):
            self._drop(slot)
        while self._workers:
            self._workers.popitem()[1].close()
        self._answered.clear()
        self._tasks.clear()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
