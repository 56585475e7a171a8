"""What the robosuite family (robosuite, LIBERO, RoboCasa) has in common; an adapter is a few methods on top."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import ClassVar

import numpy as np

from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.experts.base import Expert
from simulators.messages import Array, EpisodeSpec, Images, Observation, Transition
from simulators.mujoco_types import Environment, MjData, MjModel, right_arm
from simulators.rendering import CameraRenderer, refresh
from simulators.substeps import computed_once
from simulators.variations import StandardLook, external_cameras, variation_rng, vary_appearance, vary_cameras


class MujocoSimulator(ABC):
    """A `DemoSimulator` around a robosuite-style environment (`.sim`, `.robots`, `.step`, `._check_success`).

    The environment is built once a task, without cameras of its own; pictures come from `CameraRenderer`, and only
    when asked for. Subclasses say how an environment is built and how an episode starts.

    Attributes:
        env: The environment of the current task.
        task: The current task.
        instruction: The task in words, set by `begin`.
        steps: Control steps since the episode began.
        variations: Kinds of variation that the adapter is known to do; `appearance` and `camera` need only this list,
            `position` is the business of `begin`.
        may_repeat_physics: robosuite may be 1.4, whose repeated updates of the model are left out (`substeps.py`).
    """

    uses_gl = True
    variations: ClassVar[tuple[str, ...]] = ()
    may_repeat_physics: ClassVar[bool] = False
    action_dim: int
    max_steps: int
    instruction: str
    env: Environment

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.task: str | None = None
        self.steps = 0
        self._renderer: CameraRenderer | None = None
        self._rendered_model: MjModel = None
        self._standard_look: StandardLook | None = None  # while an episode's look is varied

    # --- what a subclass says ---

    @classmethod
    @abstractmethod
    def check(cls, config: SimulatorConfig) -> list[str]:
        """See `Simulator.check`; call `rendering.check_gl()` in here."""

    @abstractmethod
    def build(self, task: str) -> Environment:
        """Build the environment; global random numbers have been seeded with a constant."""

    @abstractmethod
    def begin(self, spec: EpisodeSpec) -> None:
        """Bring `self.env` to the episode's start, random numbers being seeded, and set `self.instruction`."""

    @abstractmethod
    def step_limit(self, task: str) -> int:
        """The task's own step limit."""

    @abstractmethod
    def make_expert(self, spec: EpisodeSpec) -> Expert:
        """See `DemoSimulator.make_expert`."""

    @abstractmethod
    def demo_attrs(self) -> dict[str, str]:
        """See `DemoSimulator.demo_attrs`."""

    # --- the protocol ---

    def reset(self, spec: EpisodeSpec, render: bool = True) -> Observation:
        """Begin an episode; the same spec gives the same start whatever this process did before."""
        if spec.task != self.task:
            self.close()
            seed_everything(0)  # sizes drawn at construction (Lift's cube) are the same in every worker
            self.env = self.build(spec.task)
            self.task = spec.task
        self.max_steps = self.config.max_steps or self.step_limit(spec.task)
        self._restore_look()
        seed_everything(spec.seed)
        self._release_grippers()
        self.begin(spec)
        self._vary_look(spec)
        self.action_dim = int(self.env.action_dim)
        self.steps = 0
        return self.observe(render)

    def step(self, action: Array) -> bool:
        """Execute one (D,) action; return whether the task is solved."""
        self.advance(action)
        self.steps += 1
        return bool(self.env._check_success())

    def advance(self, action: Array) -> None:
        """Let the physics run for one control step, which is not counted."""
        with computed_once(self.env) if self.may_repeat_physics else nullcontext():
            self.env.step(action)

    def step_chunk(self, actions: Array, render: bool, record_stride: int) -> Transition:
        """See `Simulator.step_chunk`."""
        if actions.ndim != 2 or actions.shape[1] != self.action_dim:
            raise SimulatorError(
                f"actions have shape {actions.shape}; task {self.task} takes (steps, {self.action_dim}). "
                "Check the policy's action dimensions."
            )
        frames: list[Images] = []
        success = done = False
        start = self.steps
        for action in actions:
            success = self.step(action)
            done = success or self.steps >= self.max_steps
            if record_stride and (self.steps % record_stride == 0 or done):
                frames.append(self.render())
            if done:
                break
        observation = None if done else self.observe(render)
        return Transition(observation, success, done, self.steps - start, frames)

    def observe(self, render: bool) -> Observation:
        """The current observation."""
        refresh(self.raw_model, self.raw_data)
        images = self.render() if render else {}
        return Observation(images, self.proprio(), self.instruction, self.steps)

    def proprio(self) -> dict[str, Array]:
        """Pose of the gripper in the world, and its finger joints."""
        robot, data = self.env.robots[0], self.env.sim.data
        quat_wxyz = np.asarray(data.get_body_xquat(right_arm(robot.robot_model.eef_name)))
        fingers = right_arm(robot._ref_gripper_joint_pos_indexes)
        return {
            "eef_pos": np.array(data.site_xpos[right_arm(robot.eef_site_id)], dtype=np.float32),
            "eef_quat": np.roll(quat_wxyz, -1).astype(np.float32),
            "gripper_qpos": np.array([data.qpos[i] for i in fingers], dtype=np.float32),
        }

    def render(self) -> Images:
        """Pictures of the current state from every configured camera."""
        if self._renderer is None or self._rendered_model is not self.raw_model:  # a hard reset makes a new model
            self._close_renderer()
            config = self.config
            self._renderer = CameraRenderer(
                self.raw_model,
                config.cameras,
                config.image_size,
                config.shadows,
                config.reflections,
                config.multisampling,
            )
            self._rendered_model = self.raw_model
        refresh(self.raw_model, self.raw_data)
        return self._renderer(self.raw_data)

    def state(self) -> Array:
        """Time, joint positions and velocities, (S,) float64."""
        return np.array(self.env.sim.get_state().flatten(), dtype=np.float64)

    def restore(self, state: Array) -> None:
        """Go to a state of this episode."""
        self.env.sim.set_state_from_flattened(state)
        self.env.sim.forward()

    def close(self) -> None:
        """Free the environment and its GL context."""
        self._close_renderer()
        if self.task is not None:
            self.env.close()
            self.task = None

    def _vary_look(self, spec: EpisodeSpec) -> None:
        """Colours, lights and cameras of this episode; the physics does not know them."""
        levels = self.config.variation
        if "appearance" not in levels and "camera" not in levels:
            return
        model = self.raw_model
        self._standard_look = StandardLook(model)
        if "appearance" in levels:
            vary_appearance(model, variation_rng(spec, "appearance"), levels["appearance"])
        if "camera" in levels:
            refresh(model, self.raw_data)
            cameras = external_cameras(self.config.cameras)
            workspace = np.asarray(self.proprio()["eef_pos"], dtype=np.float64)
            vary_cameras(model, self.raw_data, cameras, workspace, variation_rng(spec, "camera"), levels["camera"])

    def _restore_look(self) -> None:
        if self._standard_look is not None:
            self._standard_look.restore()
            self._standard_look = None

    def _release_grippers(self) -> None:
        """Forget the last gripper command: robosuite moves it 0.01 a substep and keeps it over a soft reset."""
        for robot in self.env.robots:
            for gripper in robot.gripper.values() if isinstance(robot.gripper, dict) else [robot.gripper]:
                gripper.current_action = np.zeros_like(gripper.current_action)

    def _close_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = self._rendered_model = None

    @property
    def raw_model(self) -> MjModel:
        """The `mujoco.MjModel` inside robosuite's wrapper."""
        return self.env.sim.model._model

    @property
    def raw_data(self) -> MjData:
        """The `mujoco.MjData` inside robosuite's wrapper."""
        return self.env.sim.data._data


def seed_everything(seed: int) -> None:
    """Seed the global generators, which robosuite 1.4 and LIBERO draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
