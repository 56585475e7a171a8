"""What a policy is to a rollout, and policies without a network: controls beside every success rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from simulators.errors import SimulatorError
from simulators.messages import Array, PolicyReply, PolicyRequest, policy_seed

ARM_SIZE = 7
"""Numbers of an arm's action, its gripper's last."""


class Actor(Protocol):
    """Anything that turns observations into action chunks: a learned policy (`policies.Policy`) or one of these."""

    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        """Answer every request, in order; the requests come from different episodes."""


class ScriptedPolicy:
    """The simulator's own expert, which reads the ground truth: what a protocol allows at best.

    It acts inside the worker (`experts/episode.py`), one closed loop a step, so the engine never asks it for actions.
    """

    needs_images = False

    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        """Not possible here."""
        raise AssertionError("the engine drives the scripted expert inside the worker")


class RandomPolicy:
    """Uniform actions in [-1, 1], drawn anew every step from the request's seed.

    Args:
        chunk_steps: Actions in a reply; at least the engine's `execute_steps`.
    """

    needs_images = False

    def __init__(self, chunk_steps: int) -> None:
        self.chunk_steps = chunk_steps

    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        """See `Actor.act`."""
        return [PolicyReply(self._chunk(request)) for request in requests]

    def _chunk(self, request: PolicyRequest) -> Array:
        shape = (self.chunk_steps, _action_dim(request))
        chunk: Array = np.random.default_rng(request.seed).uniform(-1.0, 1.0, shape).astype(np.float32)
        return chunk


class ZeroPolicy:
    """Zeros: a delta controller holds still, and the gripper takes the middle of its range.

    Args:
        chunk_steps: Actions in a reply; at least the engine's `execute_steps`.
    """

    needs_images = False

    def __init__(self, chunk_steps: int) -> None:
        self.chunk_steps = chunk_steps

    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        """See `Actor.act`."""
        return [
            PolicyReply(np.zeros((self.chunk_steps, _action_dim(request)), dtype=np.float32)) for request in requests
        ]


def _action_dim(request: PolicyRequest) -> int:
    if request.observation.action_dim < 1:
        raise SimulatorError(
            f"suite {request.episode.suite!r} does not say how wide its actions are, so none can be made up; "
            "set `action_dim` in its adapter's reset."
        )
    return request.observation.action_dim


class ReplayPolicy:
    """Chance level: play a random demo's actions in every new episode without looking.

    A demo of the episode's own task where there are some. Which one is drawn depends on the episode alone. After its
    last action the robot stands still and leaves the gripper as it was.

    Args:
        demos: Task -> actions (L, D) of each of its demos, raw environment units.
        chunk_steps: Actions in a reply; at least the engine's `execute_steps`.
    """

    needs_images = False

    def __init__(self, demos: Mapping[str, Sequence[Array]], chunk_steps: int = 32) -> None:
        self.demos = {task: list(found) for task, found in demos.items()}
        self.every = [demo for found in self.demos.values() for demo in found]
        if not self.every or any(demo.ndim != 2 or len(demo) == 0 for demo in self.every):
            raise SimulatorError("blind replay needs at least one demo, each with at least one action (L, D).")
        self.chunk_steps = chunk_steps

    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        """See `Actor.act`."""
        return [PolicyReply(self._chunk(request)) for request in requests]

    def _chunk(self, request: PolicyRequest) -> Array:
        rng = np.random.default_rng(policy_seed(request.episode, replan=0))
        demos = self.demos.get(request.episode.task) or self.every
        demo = demos[rng.integers(len(demos))]
        hold = np.zeros_like(demo[-1])
        hold[_switches(demo.shape[1])] = demo[-1, _switches(demo.shape[1])]
        rows = range(request.observation.step, request.observation.step + self.chunk_steps)
        chunk: Array = np.stack([demo[row] if row < len(demo) else hold for row in rows]).astype(np.float32)
        return chunk


def _switches(action_dim: int) -> list[int]:
    """Numbers of an action that stay as they were while the robot stands still, where 0 would be a movement.

    The gripper ends an arm's action in every simulator here; RoboCasa's whole body (12) goes on after the arm's 7 with
    base and torso, and ends with the switch between arm and base.
    """
    return [-1] if action_dim <= ARM_SIZE else [ARM_SIZE - 1, -1]
