"""Meta-World: a Sawyer whose hand is dragged along, 4-dim actions (translation, gripper), fifty tasks on one table."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np

from simulators.availability import import_simulator, read_options, require_known
from simulators.config import SimulatorConfig
from simulators.experts.base import Expert
from simulators.messages import Array, EpisodeSpec
from simulators.metaworld_tasks import INSTRUCTIONS, SUITES
from simulators.mujoco_simulator import MujocoSimulator
from simulators.mujoco_types import Environment, MjData, MjModel
from simulators.rendering import HIDDEN_GROUP, check_gl

STEP_LIMIT = 500
"""Meta-World's own."""
UPSIDE_DOWN = ("corner", "corner2", "corner3", "corner4")
"""Cameras whose pictures the package renders standing on their heads; here they are turned by 180 degrees."""


class MetaworldSimulator(MujocoSimulator):
    """Adapter of Meta-World 3 (Yu et al. 2019, arXiv 1910.10897), suites `mt50` and `mt10`.

    A seed draws where object and goal are, uniformly over the task's own range; the package's benchmarks draw 50 such
    places a task.
    """

    variations: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: SimulatorConfig) -> None:
        super().__init__(config)
        self.observation: Array = np.zeros(0)  # the environment's, goal included; for the experts
        self._solved = False

    @classmethod
    def check(cls, config: SimulatorConfig) -> list[str]:
        """See `Simulator.check`."""
        read_options("metaworld", config.options, {})
        require_known("suite", config.suite, SUITES, "metaworld")
        import_simulator("metaworld", "metaworld")
        check_gl()
        return list(SUITES[config.suite])

    @classmethod
    def instructions(cls, config: SimulatorConfig) -> dict[str, str]:
        """Words of every task of the suite, see `Survey`."""
        return {task: INSTRUCTIONS[task] for task in SUITES[config.suite]}

    def build(self, task: str) -> Environment:
        """Build the task's environment, with the goal in its observation and places that a seed draws."""
        require_known("task", task, INSTRUCTIONS, "metaworld")
        env = import_simulator("metaworld.env_dict", "metaworld").ALL_V3_ENVIRONMENTS[task]()
        env._partially_observable = False
        del env.sawyer_observation_space  # cached, and observations are clipped to it: with the goal at zero
        env._freeze_rand_vec = False
        env.seeded_rand_vec = True
        env._set_task_called = True
        env.max_path_length = np.iinfo(np.int64).max  # the step limit is ours to count
        env.action_dim = 4
        _turn_upright(env.model)
        env.model.geom_group[env.model.geom_group == HIDDEN_GROUP] = 1  # here: the floor and the table's rim
        return env

    def begin(self, spec: EpisodeSpec) -> None:
        """Draw the places of object and goal."""
        self.env.seed(spec.seed)
        self.observation, _ = self.env.reset()
        self._solved = False
        self.instruction = INSTRUCTIONS[spec.task]

    def step_limit(self, task: str) -> int:
        """Meta-World's own for every task."""
        return STEP_LIMIT

    def step(self, action: Array) -> bool:
        """Execute one (4,) action; solved is what the package calls a success."""
        self.advance(action)
        self.steps += 1
        return self._solved

    def advance(self, action: Array) -> None:
        """Let the physics run for one control step, which is not counted."""
        self.observation, _, _, _, info = self.env.step(np.asarray(action, dtype=np.float32))
        self._solved = bool(info["success"])

    def make_expert(self, spec: EpisodeSpec) -> Expert:
        """See `DemoSimulator.make_expert`; every task has one."""
        from simulators.experts.metaworld import MetaworldExpert

        policies = import_simulator("metaworld.policies", "metaworld").ENV_POLICY_MAP
        return MetaworldExpert(policies[spec.task](), lambda: self.observation)

    def demo_attrs(self) -> dict[str, str]:
        """The task in robomimic's form; there is no one model file, for every episode moves bodies of it."""
        return {"env_args": json.dumps({"env_name": self.task, "env_kwargs": {}})}

    def proprio(self) -> dict[str, Array]:
        """Pose of the hand in the world, and its finger joints."""
        hand = self.raw_data.body("hand")
        fingers = [self.raw_data.joint(name).qpos[0] for name in ("r_close", "l_close")]
        return {
            "eef_pos": np.array(hand.xpos, dtype=np.float32),
            "eef_quat": np.roll(hand.xquat, -1).astype(np.float32),
            "gripper_qpos": np.array(fingers, dtype=np.float32),
        }

    def state(self) -> Array:
        """Everything that the physics of this episode goes on from, (S,) float64."""
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self.raw_model, kind))
        mujoco.mj_getState(self.raw_model, self.raw_data, state, kind)
        return state

    def restore(self, state: Array) -> None:
        """Go to a state of this episode."""
        import mujoco

        mujoco.mj_setState(self.raw_model, self.raw_data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(self.raw_model, self.raw_data)

    def _release_grippers(self) -> None:
        """Nothing is kept over a reset."""

    @property
    def raw_model(self) -> MjModel:
        """The `mujoco.MjModel`."""
        return self.env.model

    @property
    def raw_data(self) -> MjData:
        """The `mujoco.MjData`."""
        return self.env.data


def _turn_upright(model: Any) -> None:  # noqa: ANN401 - mujoco's
    """Turn the corner cameras by half a turn about the way that they look."""
    for name in UPSIDE_DOWN:
        w, x, y, z = model.camera(name).quat
        model.camera(name).quat = (-z, y, -x, w)  # times (0, 0, 0, 1), the half turn
