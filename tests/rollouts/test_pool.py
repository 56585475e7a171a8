"""How long workers are waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

from rollouts.pool import WorkerPool
from simulators import SimulatorConfig
from tests.simulators.conftest import counting

__all__ = ["counting"]  # a fixture


def test_the_first_reset_of_every_task_has_the_long_limit(counting: Callable[..., SimulatorConfig]) -> None:
    """A worker builds the next task then, which takes as long as building its first one."""
    config = counting(["up", "down"])
    episodes = [config.episode(task, seed) for task, seed in (("up", 0), ("up", 1), ("down", 0))]
    limits = []
    with WorkerPool(config, 1, timeout_s=50.0, start_timeout_s=300.0) as pool:
        pool.load(episodes, range(3))
        while pool.busy:
            for slot, job in pool.assign():
                pool.send(slot, "reset", spec=job.spec, render=False)
                limits.append(round(pool._deadlines[slot] - time.monotonic(), -1))
            for event in pool.wait(block=True):
                pool.finish(event.slot)
    assert limits == [300, 50, 300]
