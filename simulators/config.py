"""The `simulator:` section of an experiment file."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from simulators.catalogue import entry
from simulators.errors import SimulatorError
from simulators.messages import EpisodeSpec
from simulators.variations import external_cameras, read_variation

GL_BACKENDS = ("egl", "osmesa", "glfw")


@dataclass(frozen=True)
class SimulatorConfig:
    """Which simulator, which tasks, and what its cameras see. Demos and rollouts share it, so they share the pictures.

    Args:
        name: `robosuite`, `libero`, `robocasa`, `metaworld`, or an adapter of your own as `package.module:Class`.
        tasks: Task names; `["all"]` stands for every task of the suite until `check_simulator` has named them.
        cameras: Camera names, in the order of the data.
        image_size: Height and width of a picture in pixels.
        suite: Suite of tasks; the simulator's default if empty.
        max_steps: Step limit of an episode; the task's own if None.
        python: Interpreter of the workers; the current one if None.
        gl: OpenGL backend, set as MUJOCO_GL in the worker; if None: MUJOCO_GL, else EGL, else OSMesa.
        shadows: Render shadows (with the next two 2 to 8 times slower in software GL).
        reflections: Render reflections.
        multisampling: Samples a pixel for antialiasing; 0 turns it off.
        num_init_states: Recorded initial states a task; the simulator's own number if None.
        options: Further arguments of the adapter.
        variation: Kind (`position`, `appearance`, `camera`, `instruction`) -> level; 0 is the standard and left out.
        instructions: Task -> words that the policy is given in place of the simulator's, for instance the demos'.
    """

    name: str
    tasks: list[str]
    cameras: list[str]
    image_size: int = 256
    suite: str = ""
    max_steps: int | None = None
    python: str | None = None
    gl: str | None = None
    shadows: bool = False
    reflections: bool = False
    multisampling: int = 0
    num_init_states: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    variation: dict[str, float] = field(default_factory=dict)
    instructions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = entry(self.name)  # raises for an unknown simulator
        if not self.suite:
            object.__setattr__(self, "suite", found.suite)
        if self.num_init_states is None:
            object.__setattr__(self, "num_init_states", found.num_init_states)
        if not self.tasks:
            raise SimulatorError(f"simulator {self.name!r}: tasks is empty; name at least one task, or 'all'.")
        if len(set(self.tasks)) != len(self.tasks):
            raise SimulatorError(f"simulator {self.name!r}: tasks has doubles: {self.tasks}; name each task once.")
        if not self.cameras:
            raise SimulatorError(f"simulator {self.name!r}: cameras is empty; name at least one camera.")
        if self.image_size < 1:
            raise SimulatorError(f"simulator {self.name!r}: image_size is {self.image_size}; it must be at least 1.")
        if self.max_steps is not None and self.max_steps < 1:
            raise SimulatorError(f"simulator {self.name!r}: max_steps is {self.max_steps}; it must be at least 1.")
        if self.gl is not None and self.gl not in GL_BACKENDS:
            raise SimulatorError(
                f"simulator {self.name!r}: gl is {self.gl!r}; allowed are {list(GL_BACKENDS)} or null."
            )
        object.__setattr__(self, "variation", read_variation(self.variation))
        if "camera" in self.variation:
            external_cameras(self.cameras)  # raises if there is none

    def episodes(self, num_episodes: int, first_seed: int = 0) -> list[EpisodeSpec]:
        """Episodes spread evenly over the tasks, one of each task after the other.

        The k-th episode of every task has seed `first_seed + k` and, where there are recorded initial states, starts
        from number `(first_seed + k) % num_init_states`; so more tasks leave those of the others as they are.
        """
        if num_episodes < 1:
            raise SimulatorError(f"the number of episodes is {num_episodes}; it must be at least 1.")
        assert self.tasks != ["all"], "check_simulator names the tasks"
        return [
            self.episode(self.tasks[index % len(self.tasks)], first_seed + index // len(self.tasks))
            for index in range(num_episodes)
        ]

    def episode(self, task: str, seed: int) -> EpisodeSpec:
        """The episode of a task that a seed stands for; where there are recorded states, from number seed modulo n."""
        init_state = seed % self.num_init_states if self.num_init_states else None
        return EpisodeSpec(self.suite, task, seed, init_state)

    @property
    def interpreter(self) -> str:
        """Path of the Python that runs the workers."""
        return os.path.expanduser(self.python) if self.python else sys.executable

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `SimulatorConfig(**d)` is the way back."""
        return asdict(self)
