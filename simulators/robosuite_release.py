"""What differs between robosuite 1.4 and 1.5 in building and seeding an environment; runs inside a worker.

1.5 keeps one controller a body part, one entry an arm in many of its attributes, and one generator an environment.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from simulators.mujoco_types import Environment

ControllerConfig = dict[str, Any]
"""robosuite's own JSON-able form."""


def is_composite(robosuite: ModuleType) -> bool:
    """Whether this is a release with composite controllers, 1.5 or later."""
    return tuple(int(part) for part in robosuite.__version__.split(".")[:2]) >= (1, 5)


def release_args(robosuite: ModuleType, robot: str, controller: str) -> dict[str, Any]:
    """Arguments of `robosuite.make` that depend on the release.

    Args:
        robosuite: The imported package.
        robot: Robot's name, for instance `Panda`.
        controller: Controller of the arm, for instance `OSC_POSE`.

    Returns:
        `controller_configs` and, in 1.5, `renderer`: its default would make a viewer's window.
    """
    if not is_composite(robosuite):
        from robosuite.controllers import load_controller_config

        return {"controller_configs": load_controller_config(default_controller=controller)}
    return {"controller_configs": _composite_config(robot, controller), "renderer": "mujoco"}


def _composite_config(robot: str, controller: str) -> ControllerConfig:
    """The robot's own composite controller, with the arms' part exchanged if it is another than asked for."""
    from robosuite.controllers import load_composite_controller_config, load_part_controller_config

    config: ControllerConfig = load_composite_controller_config(controller=None, robot=robot)
    for name, part in config["body_parts"].items():
        if "gripper" in part and part["type"] != controller:
            own = load_part_controller_config(default_controller=controller)
            config["body_parts"][name] = {**own, "gripper": part["gripper"]}
    return config


def reseed(env: Environment, seed: int) -> None:
    """Seed the environment's own generator, which 1.5 shares with its placement samplers; 1.4 has none.

    The generator object stays: after a soft reset the samplers still hold it.
    """
    generator = getattr(env, "rng", None)
    if generator is not None:
        generator.bit_generator.state = np.random.default_rng(seed).bit_generator.state
