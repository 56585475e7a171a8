"""What a simulator's adapter is: a class that a worker process owns one instance of."""

from __future__ import annotations

from typing import Protocol

from simulators.config import SimulatorConfig
from simulators.experts.base import Expert
from simulators.messages import Array, EpisodeSpec, Images, Observation, Transition


class Simulator(Protocol):
    """One adapter. A worker process owns one instance, `Adapter(config)`, and asks it for one episode at a time.

    Simulator packages are imported inside methods only. `__init__` is cheap; `reset` builds (or reuses) the environment
    of `spec.task`. The same spec gives the same initial state whatever ran before in this worker.
    """

    uses_gl: bool
    """A class attribute: MUJOCO_GL has to be set before the simulator is imported."""
    max_steps: int
    """Step limit of the current task (`config.max_steps`, or the task's own)."""
    action_dim: int
    """Width of an action of the current task."""

    def __init__(self, config: SimulatorConfig) -> None: ...

    @classmethod
    def check(cls, config: SimulatorConfig) -> list[str]:
        """Return every task of `config.suite`; called in a worker process at set-up, builds no environment.

        The caller compares `config.tasks` with the answer.

        Raises:
            SimulatorError: Simulator not installed (say what to install), no OpenGL (`rendering.check_gl`), unknown
                suite (list them), bad `options`.
        """

    def reset(self, spec: EpisodeSpec, render: bool = True) -> Observation:
        """Begin an episode; settling steps belong in here and are not counted."""

    def step_chunk(self, actions: Array, render: bool, record_stride: int) -> Transition:
        """Execute (n, D) actions, stopping at success or the step limit.

        Args:
            actions: Raw environment units.
            render: Give an observation with pictures at the end, unless the episode is over.
            record_stride: Keep a frame at every step that is a multiple of it, and at the end; 0 keeps none.
        """

    def close(self) -> None:
        """Free the environment and its GL context."""


class DemoSimulator(Simulator, Protocol):
    """A simulator that scripted experts can drive (`experts/episode.py`)."""

    instruction: str

    def make_expert(self, spec: EpisodeSpec) -> Expert:
        """The expert of the current task, for the episode just reset; `SimulatorError` if there is none."""

    def step(self, action: Array) -> bool:
        """Execute one (D,) action; return whether the task is solved now."""

    def render(self) -> Images:
        """Pictures of the current state from every configured camera."""

    def proprio(self) -> dict[str, Array]:
        """What `Observation.proprio` is in the current state."""

    def state(self) -> Array:
        """The flattened simulator state (S,) float64."""

    def restore(self, state: Array) -> None:
        """Go to a state of this episode, so that `render` shows it."""

    def demo_attrs(self) -> dict[str, str]:
        """Strings a robomimic file stores: `env_args` (JSON) and `model_file` (XML)."""
