"""Meta-World's own scripted policies as experts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from simulators.experts.base import Expert
from simulators.messages import Array


class MetaworldExpert(Expert):
    """The package's policy of a task: proportional control towards one waypoint after another.

    Args:
        policy: From `metaworld.policies`.
        observation: The environment's latest observation (39,).
    """

    def __init__(self, policy: Any, observation: Callable[[], Array]) -> None:  # noqa: ANN401 - the package's
        self.policy = policy
        self.observation = observation
        self._was_open = self._holds = False

    def act(self) -> Array:
        """The policy's action (4,), clipped as the environment would."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that the environment clips
            action = self.policy.get_action(self.observation())
        clipped: Array = np.clip(action, -1.0, 1.0).astype(np.float32)
        closes = bool(clipped[3] > 0)
        self._was_open |= not closes
        self._holds = self._was_open and closes
        return clipped

    def noise_scale(self) -> Array:
        """All of the noise on the translation, none on the gripper."""
        return np.array([1.0, 1.0, 1.0, 0.0]) * self.noisy

    @property
    def noisy(self) -> bool:
        """Until an open gripper closes; always, where it was closed from the beginning to press something."""
        return not self._holds
