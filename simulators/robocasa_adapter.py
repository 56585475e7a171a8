"""RoboCasa kitchens: a Panda on a wheeled base, OSC_POSE, 20 Hz; the policy moves the arm, the base stands still.

Two suites. `robocasa` is the 24-task protocol of RoboCasa v0.2 that published results use; `robocasa365` the atomic
tasks of v1.0, whose tasks, kitchens and objects differ, so that its numbers stand beside no v0.2 result. Neither shares
an environment with LIBERO: give RoboCasa a Python of its own and name it in `python:` (docs/simulators.md).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from simulators.availability import import_simulator, read_options, require_installed, require_known
from simulators.catalogue import INSTALLATIONS
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.experts.base import Expert
from simulators.messages import Array, EpisodeSpec, Observation
from simulators.mujoco_simulator import MujocoSimulator
from simulators.mujoco_types import Environment
from simulators.rendering import check_gl

V02_HORIZONS = {
    "PnPCounterToCab": 500,
    "PnPCabToCounter": 500,
    "PnPCounterToSink": 700,
    "PnPSinkToCounter": 500,
    "PnPCounterToMicrowave": 600,
    "PnPMicrowaveToCounter": 500,
    "PnPCounterToStove": 500,
    "PnPStoveToCounter": 500,
    "OpenSingleDoor": 500,
    "CloseSingleDoor": 500,
    "OpenDoubleDoor": 1000,
    "CloseDoubleDoor": 700,
    "OpenDrawer": 500,
    "CloseDrawer": 500,
    "TurnOnSinkFaucet": 500,
    "TurnOffSinkFaucet": 500,
    "TurnSinkSpout": 500,
    "TurnOnStove": 500,
    "TurnOffStove": 500,
    "CoffeeSetupMug": 600,
    "CoffeeServeMug": 600,
    "CoffeePressButton": 300,
    "TurnOnMicrowave": 500,
    "TurnOffMicrowave": 500,
}
"""The 24 atomic tasks of v0.2 and their registered step limits (Video Policy itself ran 992 steps of every task)."""

V02_SCENES = [[1, 1], [2, 2], [4, 4], [6, 9], [7, 10]]
"""(layout, style) of the evaluation kitchens, which the demos do not show; ten episodes in each."""
V10_SCENES = [[index, index] for index in range(1, 11)]
"""v1.0's ten target kitchens."""

BODY_PARTS = ["right", "right_gripper", "base", "torso"]
"""Order of an action's numbers (6, 1, 3, 1), before the switch; robosuite's own has the torso before the base."""
ARM_SIZE = 7
REST = np.array([0.0, 0.0, 0.0, 0.0, -1.0])
"""Base (3) and torso (1) at rest, and the switch that hands the controls to the arm."""

OPTIONS: dict[str, Any] = {"scenes": [], "object_split": "", "robot": "PandaMobile", "whole_body": False}
"""What `options` may change; an empty value stands for the suite's own."""

SUITES = ("robocasa", "robocasa365")

ASSET_FOLDERS = ("textures", "objects/objaverse")
"""Folders that only the release's download script makes."""


class RoboCasaSimulator(MujocoSimulator):
    """Adapter of RoboCasa v0.2 and v1.0 on robosuite 1.5.

    Actions have 7 numbers, the arm's and the gripper's, completed by `REST`. `options` may set:

    - `scenes`: pairs of layout and style; episode seed k takes number k modulo their count.
    - `object_split`: `B`, in v1.0 `target`, are the objects that the demos do not show.
    - `robot`: PandaMobile, which later releases rename to PandaOmron themselves.
    - `whole_body`: true if all 12 numbers are the policy's.
    """

    def __init__(self, config: SimulatorConfig) -> None:
        super().__init__(config)
        self.options = read_options("robocasa", config.options, OPTIONS)

    @classmethod
    def check(cls, config: SimulatorConfig) -> list[str]:
        """See `Simulator.check`."""
        read_options("robocasa", config.options, OPTIONS)
        require_known("suite", config.suite, SUITES, "robocasa")
        import_robocasa(config.suite)
        cls.require_assets()
        check_gl()
        return list(horizons(config.suite))

    @classmethod
    def assets(cls, config: SimulatorConfig) -> dict[str, str]:
        """Folder of textures, fixtures and objects; see `describe`."""
        return {"assets": str(assets_root())}

    @classmethod
    def require_assets(cls) -> None:
        """Look for what the release downloads after it is installed.

        Raises:
            SimulatorError: If it has not been; says the command.
        """
        root = assets_root()
        if missing := [name for name in ASSET_FOLDERS if not (root / name).is_dir()]:
            raise SimulatorError(
                f"RoboCasa's assets are missing: {root} has no {missing}; "
                f"run {sys.executable} -m robocasa.scripts.download_kitchen_assets (several GB)."
            )

    def build(self, task: str) -> Environment:
        """Build the task's environment without cameras of its own."""
        require_known("task", task, horizons(self.config.suite), self.config.suite)
        import_robocasa(self.config.suite)
        self.require_assets()
        robosuite = import_simulator("robosuite", "robocasa")
        env = robosuite.make(**self._make_args(task))
        self._scenes = list(env.layout_and_style_ids)  # those that suit the task
        if not self._scenes:
            raise SimulatorError(f"robocasa task {task!r} excludes every kitchen of options.scenes; add others.")
        return env

    def _make_args(self, task: str) -> dict[str, Any]:
        modern = self.config.suite == "robocasa365"
        scenes = self.options["scenes"] or (V10_SCENES if modern else V02_SCENES)
        return {
            "env_name": task,
            "robots": self.options["robot"],
            "controller_configs": controller_config(),
            "layout_and_style_ids": [tuple(scene) for scene in scenes],
            "obj_instance_split": self.options["object_split"] or ("target" if modern else "B"),
            "generative_textures": None,
            "randomize_cameras": False,
            "has_renderer": False,
            "has_offscreen_renderer": False,
            "use_camera_obs": False,
            "renderer": "mujoco",  # the default would open a viewer's window
            "ignore_done": True,
        }

    def reset(self, spec: EpisodeSpec, render: bool = True) -> Observation:
        """See `Simulator.reset`."""
        observation = super().reset(spec, render)
        if not self.options["whole_body"]:
            self.action_dim = ARM_SIZE
        return observation

    def begin(self, spec: EpisodeSpec) -> None:
        """Build the seed's kitchen and place robot and objects by the seed."""
        if spec.init_state is not None:
            raise SimulatorError(
                "robocasa has no recorded initial states; the seed decides. Leave num_init_states out."
            )
        self.env.rng = np.random.default_rng(spec.seed)  # every draw of a reset comes from here
        self.env.layout_and_style_ids = [self._scenes[spec.seed % len(self._scenes)]]
        self.env.reset()
        self.instruction = self.env.get_ep_meta()["lang"]

    def _release_grippers(self) -> None:
        """Nothing to do: every reset builds a new robot, and before the first there is none."""

    def step(self, action: Array) -> bool:
        """Execute one action, (7,) completed by `REST` or (12,); return whether the task is solved."""
        return super().step(action if self.options["whole_body"] else np.concatenate([action, REST]))

    def step_limit(self, task: str) -> int:
        """The task's registered horizon."""
        return horizons(self.config.suite)[task]

    def make_expert(self, spec: EpisodeSpec) -> Expert:
        """There is none."""
        raise SimulatorError("no scripted experts for robocasa; download its human demos instead (docs/simulators.md).")

    def demo_attrs(self) -> dict[str, str]:
        """Arguments, model and episode in RoboCasa's form."""
        args = self._make_args(self.task or "")
        env_args = {"env_name": args.pop("env_name"), "type": 1, "env_kwargs": args}
        return {
            "env_args": json.dumps(env_args),
            "model_file": self.env.sim.model.get_xml(),
            "ep_meta": json.dumps(self.env.get_ep_meta()),
        }


def import_robocasa(suite: str) -> None:
    """Import RoboCasa, which registers its tasks with robosuite.

    Raises:
        SimulatorError: If it is missing, or is not the release that the suite belongs to.
    """
    require_installed("robocasa", "robocasa", f"{INSTALLATIONS[suite].command} builds an environment that has it")
    robocasa = import_simulator("robocasa", "robocasa")
    release = str(robocasa.__version__)
    modern = int(release.partition(".")[0]) >= 1
    if suite == "robocasa" and modern:
        raise SimulatorError(
            f"suite 'robocasa' is the 24-task protocol of RoboCasa v0.2, but {sys.executable} has RoboCasa {release}, "
            "whose tasks, kitchens and objects differ, so the numbers would not be comparable; install v0.2 "
            "(docs/simulators.md), or set suite: robocasa365 for v1.0's own tasks."
        )
    if suite == "robocasa365" and not modern:
        raise SimulatorError(
            f"suite 'robocasa365' needs RoboCasa v1.0, but {sys.executable} has {release}; "
            "install v1.0, or set suite: robocasa for the 24 tasks of v0.2."
        )


def controller_config() -> dict[str, Any]:
    """The mobile Panda's controllers, with the numbers of an action in RoboCasa's order."""
    controllers = import_simulator("robosuite.controllers", "robocasa")
    config: dict[str, Any] = controllers.load_composite_controller_config(controller=None, robot="PandaOmron")
    return {**config, "composite_controller_specific_configs": {"body_part_ordering": list(BODY_PARTS)}}


def assets_root() -> Path:
    """Where RoboCasa looks for its files."""
    return Path(import_simulator("robocasa.models", "robocasa").assets_root)


def horizons(suite: str) -> dict[str, int]:
    """Task -> registered step limit; those of v1.0 come from its own registry."""
    if suite == "robocasa":
        return V02_HORIZONS
    registry = import_simulator("robocasa.utils.dataset_registry", "robocasa")
    return {task: int(entry["horizon"]) for task, entry in registry.ATOMIC_TASK_DATASETS.items()}
