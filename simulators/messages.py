"""What crosses the border between a simulator and everything else.

Plain frozen dataclasses of numbers, strings and numpy arrays: they travel between processes (`wire.py`), which may run
different Python and numpy versions. Images are uint8 (H, W, 3), RGB, upright; actions are raw environment units.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

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
        past: Observations of the steps before, the oldest first, as many as were asked for and the episode has.
    """

    images: Images
    proprio: dict[str, Array]
    instruction: str
    step: int
    action_dim: int = 0
    max_steps: int = 0
    past: list[Observation] = field(default_factory=list)


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
        proprio: Name -> (L, n) float32, what `Observation.proprio` is at each picture.
    """

    success: bool
    num_steps: int
    actions: Array | None
    images: Images
    states: Array | None
    instruction: str
    attrs: dict[str, str]
    proprio: dict[str, Array] = field(default_factory=dict)


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
