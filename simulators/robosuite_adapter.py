"""robosuite 1.4 and 1.5: single-Panda tasks, OSC_POSE, 20 Hz, 7-dim delta actions (translation, rotation, gripper)."""

from __future__ import annotations

import importlib
import json
import logging
from types import ModuleType
from typing import Any, ClassVar

from simulators.catalogue import SIMULATORS
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.experts.base import Expert
from simulators.messages import EpisodeSpec
from simulators.mujoco_simulator import MujocoSimulator
from simulators.mujoco_types import Environment
from simulators.rendering import check_gl
from simulators.robosuite_release import is_composite, release_args, reseed
from simulators.variations import grown_placement, require_room

TASKS: dict[str, tuple[str, int]] = {
    "Lift": ("lift the red cube", 120),
    "Stack": ("stack the red cube on the green cube", 300),
    "Door": ("open the door", 300),
    "NutAssemblySquare": ("put the square nut on the square peg", 400),
    "NutAssemblyRound": ("put the round nut on the round peg", 400),
    "PickPlaceCan": ("put the can into its bin", 400),
    "PickPlaceMilk": ("put the milk into its bin", 400),
    "PickPlaceBread": ("put the bread into its bin", 400),
    "PickPlaceCereal": ("put the cereal into its bin", 400),
}
"""Task -> instruction, step limit."""

OPTIONS = {"robot": "Panda", "controller": "OSC_POSE", "control_freq": 20, "hard_reset": False}
"""What `options` may change. A hard reset rebuilds the model for every episode (0.6 s with a new GL context)."""


def import_robosuite() -> ModuleType:
    """Import robosuite without its advice about private macro files.

    Raises:
        SimulatorError: If it is not installed.
    """
    logging.disable(logging.WARNING)
    try:
        import robosuite
    except ImportError as error:
        raise SimulatorError(f"robosuite cannot be imported ({error}); {SIMULATORS['robosuite'].install}.") from error
    finally:
        logging.disable(logging.NOTSET)
    module: ModuleType = robosuite
    return module


class RobosuiteSimulator(MujocoSimulator):
    """Adapter of robosuite 1.4 and 1.5; `options` may set `robot`, `controller`, `control_freq` and `hard_reset`.

    Names, action widths and units are the same in both; seeds start other episodes, because 1.5 draws them otherwise.
    """

    variations: ClassVar[tuple[str, ...]] = ("position", "appearance", "camera")
    may_repeat_physics: ClassVar[bool] = True

    @classmethod
    def check(cls, config: SimulatorConfig) -> list[str]:
        """See `Simulator.check`."""
        if unknown := sorted(set(config.options) - set(OPTIONS)):
            raise SimulatorError(f"robosuite has no option {unknown}; allowed are {sorted(OPTIONS)}.")
        if config.suite != "robosuite":
            raise SimulatorError(f"robosuite has no suite {config.suite!r}; the only one is 'robosuite'.")
        if "position" in config.variation:
            require_room(TASKS if config.tasks == ["all"] else config.tasks)
        import_robosuite()
        check_gl()
        return list(TASKS)

    @classmethod
    def instructions(cls, config: SimulatorConfig) -> dict[str, str]:
        """Words of every task, see `Survey`."""
        return {task: words for task, (words, _) in TASKS.items()}

    @classmethod
    def assets(cls, config: SimulatorConfig) -> dict[str, str]:
        """Folder of the meshes; see `describe`."""
        models: ModuleType = importlib.import_module("robosuite.models")
        return {"assets": str(models.assets_root)}

    def build(self, task: str) -> Environment:
        """Build the task's environment without cameras and without observations, which nobody reads."""
        robosuite = import_robosuite()
        seeded = {"seed": 0} if is_composite(robosuite) else {}  # 1.4 takes sizes from the global generator
        env = robosuite.make(**self._make_args(task), **seeded)
        for name in list(env.observation_names):  # 15 % of a step
            env.modify_observable(name, "enabled", False)
        return env

    def _make_args(self, task: str) -> dict[str, Any]:
        options = {**OPTIONS, **self.config.options}
        return {
            "env_name": task,
            "robots": options["robot"],
            **release_args(import_robosuite(), options["robot"], options["controller"]),
            "control_freq": options["control_freq"],
            "hard_reset": options["hard_reset"],
            "has_renderer": False,
            "has_offscreen_renderer": False,
            "use_camera_obs": False,
            "ignore_done": True,
        }

    def begin(self, spec: EpisodeSpec) -> None:
        """Reset; robosuite 1.4 draws the start from numpy's global generator, 1.5 from the environment's."""
        reseed(self.env, spec.seed)
        with grown_placement(self.env, self.config.variation.get("position", 0.0)):
            self.env.reset()
        self.instruction = TASKS[spec.task][0]

    def step_limit(self, task: str) -> int:
        """The task's own step limit."""
        return TASKS[task][1]

    def make_expert(self, spec: EpisodeSpec) -> Expert:
        """See `DemoSimulator.make_expert`."""
        from simulators.experts.lift import LiftExpert
        from simulators.experts.stack import StackExpert

        experts = {"Lift": LiftExpert, "Stack": StackExpert}
        if spec.task not in experts:
            raise SimulatorError(f"no scripted expert for robosuite task {spec.task!r}; there are {sorted(experts)}.")
        return experts[spec.task](self.env)

    def demo_attrs(self) -> dict[str, str]:
        """Arguments and model in robomimic's form."""
        args = self._make_args(self.task or "")
        env_args = {
            "env_name": args.pop("env_name"),
            "env_version": import_robosuite().__version__,
            "type": 1,  # robomimic's robosuite
            "env_kwargs": args,
        }
        return {"env_args": json.dumps(env_args), "model_file": self.env.sim.model.get_xml()}
