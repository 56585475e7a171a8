"""What a scripted expert is: a controller that reads the simulator's ground truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from simulators.messages import Array

TRANSLATION_NOISE = np.array([1.0, 1.0, 1.0, 0.2, 0.2, 0.5, 0.0])
"""Relative noise of a 7-dim OSC_POSE action: full in translation, little in rotation, none on the gripper."""


class Expert(ABC):
    """Solves one episode; built by `DemoSimulator.make_expert` after the reset.

    An expert looks at the current state every time (a closed loop), so that it recovers from the noise that
    `experts/episode.py` adds to its actions.
    """

    @abstractmethod
    def act(self) -> Array:
        """The clean action (D,) for the current state, within [-1, 1]; called exactly once a control step."""

    def mistake(self, rng: np.random.Generator) -> Iterator[Array]:
        """Actions (D,) into a typical failure, such as a missed grasp; each is executed before the next is asked for.

        They are not recorded: the demo begins where the expert starts to recover. Base: none.
        """
        return iter(())

    def noise_scale(self) -> Array:
        """Relative noise (D,) for the step whose action was just given.

        Base: `TRANSLATION_NOISE` while `noisy`, else zeros. May shrink where precision matters.
        """
        return TRANSLATION_NOISE if self.noisy else np.zeros_like(TRANSLATION_NOISE)

    @property
    @abstractmethod
    def noisy(self) -> bool:
        """True while approaching and descending; False from the moment the gripper closes."""


def move_towards(target: Array, position: Array, gripper: float, gain: float = 10.0) -> Array:
    """A 7-dim OSC_POSE delta action that moves the gripper to `target` without turning it.

    Args:
        target: (3,) metres, world frame.
        position: (3,) current gripper position, metres.
        gripper: -1 opens, +1 closes.
        gain: Action units a metre (a full unit is 5 cm with robosuite's default OSC_POSE).
    """
    action = np.zeros(7, dtype=np.float32)
    action[:3] = np.clip(gain * (target - position), -1.0, 1.0)
    action[6] = gripper
    return action


def height(metres: float) -> Array:
    """An offset (3,) straight up."""
    return np.array([0.0, 0.0, metres])


def beside(rng: np.random.Generator, distances: tuple[float, float]) -> Array:
    """An offset (3,) to any side: its direction, then its length in metres between two distances, are drawn."""
    angle = rng.uniform(0.0, 2 * np.pi)
    return rng.uniform(*distances) * np.array([np.cos(angle), np.sin(angle), 0.0])
