"""What crosses the border between a simulator and everything else.

Plain frozen dataclasses of numbers, strings and numpy arrays: they travel between processes (`wire.py`), which may run
different Python and numpy versions. Images are uint8 (H, W, 3), RGB, upright; actions are raw environment units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    from simulators.config import SimulatorConfig
    from simulators.experts.base import Expert

Array = NDArray[Any]
"""A numpy array; docstrings give shape and type."""
Images = dict[str, Array]
"""Camera name -> uint8 (H, W, 3)."""


@dataclass(frozen=True)
class EpisodeSpec:
    """Everything that decides how an episode starts.

    Args:
        suite: Group of tasks, for instance `robosuite` or `libero_object`.
        task: Task within the suite.
        seed: Seeds the initial state and, through the engine, the policy's noise.
        init_state: Index of a recorded initial state, where the suite has them; None lets the seed decide.
    """

    suite: str
    task: str
    seed: int
    init_state: int | None = None

    @property
    def key(self) -> str:
        """Name of the episode, the same in every run: results and pairs are matched by it."""
        start = "" if self.init_state is None else f"/init{self.init_state}"
        return f"{self.suite}/{self.task}/seed{self.seed}{start}"


def policy_seed(spec: EpisodeSpec, replan: int) -> int:
    """Seed of the policy's noise at one replan, the same in every run and for every number of workers."""
    digest = hashlib.sha256(f"{spec.key}/replan{replan}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # 63 bits: fits torch's generators


@dataclass(frozen=True)
class Observation:
    """What a policy may see.

    Args:
        images: One uint8 (H, W, 3) picture a camera; empty if rendering was not asked for.
        proprio: Float32 vectors such as `eef_pos` (3,), `eef_quat` (4, xyzw), `gripper_qpos` (2,).
        instruction: The task in words.
        step: Control steps since the episode began.
        action_dim: Width of an action of this task, which the worker fills in; 0 if it is not known.
        max_steps: The episode's step limit, which the worker fills in; 0 if it is not known.
    """

    images: Images
    proprio: dict[str, Array]
    instruction: str
    step: int
    action_dim: int = 0
    max_steps: int = 0


@dataclass(frozen=True)
class Transition:
    """What an action chunk led to.

    Args:
        observation: After the last executed action; None when it was not asked for or the episode is over.
        success: The task is solved (the chunk is cut at the first success).
        done: Solved, or out of steps.
        num_steps: Actions of the chunk that were executed.
        frames: Pictures after every `record_stride`-th step of the episode and after its last one, when recording.
    """

    observation: Observation | None
    success: bool
    done: bool
    num_steps: int
    frames: list[Images] = field(default_factory=list)


@dataclass(frozen=True)
class DemoEpisode:
    """One scripted episode; arrays are kept for successes only.

    Args:
        success: The expert solved the task.
        num_steps: Recorded steps L.
        actions: (L, D) float32 clean expert actions (labels), or None after a failure.
        images: Camera -> (L, H, W, 3) uint8, the picture each action was chosen for.
        states: (L, S) float64 flattened simulator states.
        instruction: The task in words.
        attrs: Strings to store beside the demo: `model_file`, `env_args` and the like.
    """

    success: bool
    num_steps: int
    actions: Array | None
    images: Images
    states: Array | None
    instruction: str
    attrs: dict[str, str]


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

    def state(self) -> Array:
        """The flattened simulator state (S,) float64."""

    def restore(self, state: Array) -> None:
        """Go to a state of this episode, so that `render` shows it."""

    def demo_attrs(self) -> dict[str, str]:
        """Strings a robomimic file stores: `env_args` (JSON) and `model_file` (XML)."""


@dataclass(frozen=True)
class PolicyRequest:
    """One observation that waits for actions.

    Args:
        observation: The current observation, rendered.
        episode: The episode it belongs to.
        replan: How many times this episode has asked before.
        seed: For the policy's noise; made of episode and replan only, so it does not depend on the workers.
        want_prediction: The episode is being recorded: predicted frames are welcome.
    """

    observation: Observation
    episode: EpisodeSpec
    replan: int
    seed: int
    want_prediction: bool = False


@dataclass(frozen=True)
class PolicyReply:
    """A policy's answer.

    Args:
        actions: (A, D) float32 in raw environment units; the engine executes the first `execute_steps`.
        prediction: Predicted frames uint8 (V, T, H, W, 3), if wanted and there are any.
    """

    actions: Array
    prediction: Array | None = None


class Policy(Protocol):
    """Anything that turns observations into action chunks."""

    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        """Answer every request, in order; the requests come from different episodes."""


Header = Mapping[str, Any]
"""A decoded wire message: JSON values with numpy arrays in their places."""
