"""LIBERO's five suites: Panda, OSC_POSE, 20 Hz, 7-dim delta actions, episodes from recorded initial states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from simulators.availability import import_simulator, read_options, require_known
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.experts.base import Expert
from simulators.libero_assets import find_assets, import_libero
from simulators.libero_tasks import STEP_LIMITS, bddl_language, load_init_states, suite_tasks
from simulators.messages import Array, EpisodeSpec
from simulators.mujoco_simulator import MujocoSimulator
from simulators.mujoco_types import Environment
from simulators.rendering import check_gl
from simulators.variations import displace_objects, variation_rng

SETTLING_ACTION = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
"""No motion, gripper open: objects of a recorded state hang a little in the air and fall first."""

OPTIONS: dict[str, Any] = {"assets": None, "instruction": "benchmark", "settling_steps": 10}
"""What `options` may change."""


class LiberoSimulator(MujocoSimulator):
    """Adapter of LIBERO (hf-libero 0.1.4 or the original repository) on robosuite 1.4.

    `options` may set `assets` (folder of the meshes), `settling_steps` (10) and `instruction`: `benchmark` takes the
    words of the task's name, which published evaluations use; `bddl` those of the task file, which the official
    demos store. They differ in 29 tasks of 130, among them all of libero_spatial and libero_object.
    """

    variations: ClassVar[tuple[str, ...]] = ("position", "appearance", "camera")
    may_repeat_physics: ClassVar[bool] = True

    def __init__(self, config: SimulatorConfig) -> None:
        super().__init__(config)
        self.options = read_options("libero", config.options, OPTIONS)
        self._init_states: Array = np.zeros((0, 0))

    @classmethod
    def check(cls, config: SimulatorConfig) -> list[str]:
        """See `Simulator.check`."""
        options = read_options("libero", config.options, OPTIONS)
        require_known("instruction option", options["instruction"], ("benchmark", "bddl"), "libero")
        require_known("suite", config.suite, STEP_LIMITS, "libero")
        import_libero(options["assets"])
        check_gl()
        return [task.name for task in suite_tasks(config.suite)]

    @classmethod
    def instructions(cls, config: SimulatorConfig) -> dict[str, str]:
        """Words of every task of the suite, see `Survey`."""
        options = read_options("libero", config.options, OPTIONS)
        tasks = suite_tasks(config.suite)
        if options["instruction"] == "benchmark":
            return {task.name: task.language for task in tasks}
        folder = Path(import_libero(options["assets"]).get_libero_path("bddl_files"))
        return {task.name: bddl_language(folder / task.problem_folder / task.bddl_file) for task in tasks}

    @classmethod
    def assets(cls, config: SimulatorConfig) -> dict[str, str]:
        """Folders of meshes, task files and recorded states; see `describe`."""
        found = find_assets(read_options("libero", config.options, OPTIONS)["assets"])
        libero = import_libero(str(found))
        keys = {"task files": "bddl_files", "initial states": "init_states"}
        return {"assets": str(found), **{title: str(libero.get_libero_path(key)) for title, key in keys.items()}}

    def build(self, task: str) -> Environment:
        """Build the task's environment without cameras and observations, and load its recorded initial states."""
        libero = import_libero(self.options["assets"])
        tasks = {known.name: known for known in suite_tasks(self.config.suite)}
        require_known("task", task, tasks, self.config.suite)
        self._task = tasks[task]
        folder = self._task.problem_folder
        self._init_states = load_init_states(
            Path(libero.get_libero_path("init_states"), folder, self._task.init_states_file)
        )
        bddl = Path(libero.get_libero_path("bddl_files"), folder, self._task.bddl_file)
        wrapper = import_simulator("libero.libero.envs.env_wrapper", "libero").ControlEnv(
            bddl_file_name=str(bddl), **self._make_args()
        )
        self.instruction = (
            wrapper.language_instruction if self.options["instruction"] == "bddl" else self._task.language
        )
        env = wrapper.env  # the wrapper's reset tries for ever, whatever the error
        for name in list(env.observation_names):  # nobody reads them
            env.modify_observable(name, "enabled", False)
        return env

    def _make_args(self) -> dict[str, Any]:
        return {
            "robots": ["Panda"],
            "controller": "OSC_POSE",
            "control_freq": 20,
            "has_renderer": False,
            "has_offscreen_renderer": False,
            "use_camera_obs": False,
            "ignore_done": True,
            "hard_reset": False,  # 25 times faster; states after it differ by 4e-9 at most (six tasks of all suites)
        }

    def begin(self, spec: EpisodeSpec) -> None:
        """Place the fixtures by the seed, everything else by the recorded state, and let the objects settle."""
        self._reset()
        count = len(self._init_states)
        index = spec.seed % count if spec.init_state is None else spec.init_state
        if not 0 <= index < count:
            raise SimulatorError(f"libero task {spec.task!r} has initial states 0 to {count - 1}, not {index}.")
        self.env.sim.set_state_from_flattened(self._init_states[index])
        self.env.sim.forward()
        if level := self.config.variation.get("position", 0.0):
            rng = variation_rng(spec, "position")
            displace_objects(self.env, self.raw_model, self.raw_data, self.instruction, rng, level)
            self.env.sim.forward()
        self.env._post_process()
        for _ in range(self.options["settling_steps"]):
            self.advance(SETTLING_ACTION)

    def _reset(self) -> None:
        errors = import_simulator("robosuite.utils.errors", "robosuite")
        for attempt in range(10):  # each draws other places; the movable objects' are then overwritten
            try:
                self.env.reset()
                return
            except errors.RandomizationError:
                if attempt == 9:
                    raise

    def step_limit(self, task: str) -> int:
        """The suite's step limit."""
        return STEP_LIMITS[self.config.suite]

    def make_expert(self, spec: EpisodeSpec) -> Expert:
        """See `DemoSimulator.make_expert`; there are experts for libero_object."""
        if self.config.suite != "libero_object":
            raise SimulatorError(
                f"no scripted expert for suite {self.config.suite!r}; there is one for 'libero_object'. "
                "Download the suite's human demos instead."
            )
        from simulators.experts.libero_object import LiberoObjectExpert

        item, basket = self.env.obj_of_interest
        site = self.env.robots[0].eef_site_id
        data = self.env.sim.data
        bodies = self.env.obj_body_id
        return LiberoObjectExpert(
            item.rpartition("_")[0],  # milk_1 > milk
            item_position=lambda: np.array(data.body_xpos[bodies[item]]),
            basket_position=lambda: np.array(data.body_xpos[bodies[basket]]),
            gripper_position=lambda: np.array(data.site_xpos[site]),
            gripper_rotation=lambda: np.array(data.site_xmat[site]).reshape(3, 3),
        )

    def demo_attrs(self) -> dict[str, str]:
        """Arguments, task file and instruction in the form of LIBERO's own demos."""
        bddl = f"{self._task.problem_folder}/{self._task.bddl_file}"
        env_args = {
            "env_name": self.task,
            "env_version": import_simulator("robosuite", "robosuite").__version__,
            "type": 1,
            "env_kwargs": {"bddl_file_name": bddl, **self._make_args()},
        }
        return {
            "env_args": json.dumps(env_args),
            "problem_info": json.dumps({"language_instruction": self.instruction}),
            "bddl_file_name": bddl,
            "model_file": self.env.sim.model.get_xml(),
        }
