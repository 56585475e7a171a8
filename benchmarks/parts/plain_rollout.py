"""The baseline of `../rollout.py`: a serial loop as published evaluation code has it, with every effect drawn.

One process, one environment, a batch of one. The simulator is built as its own examples build it: pictures of every
camera are among its observations, so it draws them at every control step, settling steps of LIBERO included, with
shadows, reflections and multisampling. LIBERO rebuilds its model at every reset, as it does by default. robosuite does
so too by default, which would draw another cube than our soft reset; here it keeps the model, to the baseline's favour.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from rollouts import EpisodeResult, Policy, ScriptedPolicy
from simulators import EpisodeSpec, Observation, PolicyRequest, SimulatorConfig
from simulators.libero_adapter import LiberoSimulator
from simulators.messages import Array, Images, policy_seed
from simulators.mujoco_types import Environment
from simulators.rendering import choose_gl
from simulators.robosuite_adapter import RobosuiteSimulator


class _Plain:
    """In front of an adapter: its environment draws and observes everything at every step, its physics is untouched."""

    hard_reset: ClassVar[bool]
    config: SimulatorConfig
    env: Environment

    def build(self, task: str) -> Environment:
        env = super().build(task)  # type: ignore[misc]  # the adapter's
        for name in env.observation_names:  # ours turns them off
            env.modify_observable(name, "enabled", True)
        return env

    def _make_args(self, *task: str) -> dict[str, Any]:
        size = self.config.image_size
        args: dict[str, Any] = super()._make_args(*task)  # type: ignore[misc]
        return {
            **args,
            "has_offscreen_renderer": True,
            "use_camera_obs": True,
            "camera_names": list(self.config.cameras),
            "camera_heights": size,
            "camera_widths": size,
            "hard_reset": self.hard_reset,
        }

    def begin(self, spec: EpisodeSpec) -> None:
        super().begin(spec)  # type: ignore[misc]
        if not self.hard_reset:  # LIBERO has observed while it settled
            self.observed = self.env._get_observations(force_update=True)

    def advance(self, action: Array) -> None:
        self.observed = self.env.step(action)[0]

    def pictures(self) -> Images:
        """The last observation's pictures, upright."""
        return {name: np.ascontiguousarray(self.observed[f"{name}_image"][::-1]) for name in self.config.cameras}


class PlainRobosuite(_Plain, RobosuiteSimulator):  # type: ignore[misc]
    """robosuite with its model kept over resets."""

    hard_reset = False


class PlainLibero(_Plain, LiberoSimulator):  # type: ignore[misc]
    """LIBERO as it comes."""

    hard_reset = True


class SerialLoop:
    """Run episodes one after the other, one step after the other.

    Args:
        config: The simulator; its drawing settings are not looked at.
        execute_steps: Actions executed of every chunk.
    """

    def __init__(self, config: SimulatorConfig, execute_steps: int) -> None:
        choose_gl(config.gl)
        self.simulator = PlainLibero(config) if config.name == "libero" else PlainRobosuite(config)
        self.execute_steps = execute_steps

    def run(self, policy: Policy, episodes: Sequence[EpisodeSpec]) -> list[EpisodeResult]:
        """One result an episode; every replan asks for the film too."""
        return [self._episode(policy, spec) for spec in episodes]

    def _episode(self, policy: Policy, spec: EpisodeSpec) -> EpisodeResult:
        simulator, start, thinking, replans, success = self.simulator, time.monotonic(), 0.0, 0, False
        simulator.reset(spec, render=False)
        expert = simulator.make_expert(spec) if isinstance(policy, ScriptedPolicy) else None
        chunk: list[Array] = []
        while simulator.steps < simulator.max_steps and not success:
            if expert is not None:
                simulator.pictures()
                success = simulator.step(np.asarray(expert.act(), dtype=np.float32))
                continue
            if not chunk:
                asked = time.monotonic()
                chunk = list(policy.act([self._request(spec, replans)])[0].actions[: self.execute_steps])
                thinking += time.monotonic() - asked
                replans += 1
            success = simulator.step(chunk.pop(0))
        wall = time.monotonic() - start
        return EpisodeResult(
            spec.suite, spec.task, spec.seed, spec.init_state, success, simulator.steps, replans, wall, thinking
        )

    def _request(self, spec: EpisodeSpec, replan: int) -> PolicyRequest:
        observation = Observation({}, self.simulator.proprio(), self.simulator.instruction, self.simulator.steps)
        seen = replace(observation, images=self.simulator.pictures(), action_dim=self.simulator.action_dim)
        return PolicyRequest(seen, spec, replan, policy_seed(spec, replan), want_prediction=True)

    def close(self) -> None:
        """Free the environment."""
        self.simulator.close()
