"""A simulator of nothing: its number grows by what the actions say. Workers load it by its full name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.experts.base import Expert
from simulators.messages import Array, EpisodeSpec, Images, Observation, Transition


class CountingSimulator:
    """Solved when the sum of the actions reaches `options["goal"]`.

    Options: `goal`; `action_dim` (2 if not given); `delay_s` a chunk; `render_s` a picture; `die_in_expert` (`always`,
    or a folder for a mark) kills the worker when an expert is made for an even seed; `no_expert` leaves the tasks
    without one. Tasks `crash`, `hang` and `raise` do so in every chunk; with `once` (a folder for marks) only in the
    first chunk of an episode.
    """

    uses_gl = False
    instruction = "count"

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.max_steps = config.max_steps or 40
        self.options = config.options
        self.action_dim = config.options.get("action_dim", 2)

    @classmethod
    def check(cls, config: SimulatorConfig) -> list[str]:
        if config.options.get("broken"):
            raise SimulatorError("the counter is broken; buy a new one.")
        return ["up", "down", "left", "crash", "hang", "raise", "mistake"]

    def reset(self, spec: EpisodeSpec, render: bool = True) -> Observation:
        print("noise on stdout", flush=True)
        if spec.task == "mistake":
            raise SimulatorError("this task is a mistake; take another.")
        self.spec = spec
        self.steps = 0
        self.total = float(np.random.default_rng(spec.seed).uniform())
        return self._observation(render)

    def step(self, action: Array) -> bool:
        self.total += float(action.sum())
        self.steps += 1
        return self.total >= self.options.get("goal", 10)

    def step_chunk(self, actions: Array, render: bool, record_stride: int) -> Transition:
        if self.spec.task in ("crash", "hang", "raise") and self._misbehaves():
            self._misbehave()
        time.sleep(self.options.get("delay_s", 0.0))
        frames: list[Images] = []
        start, success, done = self.steps, False, False
        for action in actions:
            success = self.step(action)
            done = success or self.steps >= self.max_steps
            if record_stride and (self.steps % record_stride == 0 or done):
                frames.append(self.render())
            if done:
                break
        return Transition(None if done else self._observation(render), success, done, self.steps - start, frames)

    def render(self) -> Images:
        time.sleep(self.options.get("render_s", 0.0))
        size = self.config.image_size
        return {camera: np.full((size, size, 3), self.steps, dtype=np.uint8) for camera in self.config.cameras}

    def close(self) -> None:
        print("closed", file=sys.stderr)

    def make_expert(self, spec: EpisodeSpec) -> Expert:
        if self.options.get("no_expert"):
            raise SimulatorError("nobody knows how to count; learn it.")
        where = self.options.get("die_in_expert")
        if where and spec.seed % 2 == 0:
            mark = Path(where) / "died"
            if where == "always" or not mark.exists():
                if where != "always":
                    mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return CountingExpert(spec, self.action_dim)

    def proprio(self) -> dict[str, Array]:
        return {"total": np.array([self.total], dtype=np.float32)}

    def state(self) -> Array:
        return np.array([self.steps, self.total])

    def restore(self, state: Array) -> None:
        self.steps, self.total = int(state[0]), float(state[1])

    def demo_attrs(self) -> dict[str, str]:
        return {"env_args": "{}"}

    def _observation(self, render: bool) -> Observation:
        return Observation(self.render() if render else {}, self.proprio(), self.instruction, self.steps)

    def _misbehaves(self) -> bool:
        if "once" not in self.options:
            return True
        mark = Path(self.options["once"]) / f"{self.spec.task}{self.spec.seed}"
        if mark.exists():
            return False
        mark.touch()
        return True

    def _misbehave(self) -> None:
        if self.spec.task == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.spec.task == "hang":
            time.sleep(3600)
        raise ValueError("the counter overflowed")


class CountingExpert(Expert):
    """Counts up; gives up on odd seeds."""

    def __init__(self, spec: EpisodeSpec, action_dim: int) -> None:
        self.action_dim = action_dim
        self.step = 0.0 if spec.seed % 2 else 0.5

    @property
    def noisy(self) -> bool:
        return False

    def noise_scale(self) -> Array:
        return np.zeros(self.action_dim)

    def act(self) -> Array:
        return np.full(self.action_dim, self.step, dtype=np.float32)
