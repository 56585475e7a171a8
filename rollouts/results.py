"""Episode results, one JSON line each; what may be quoted from them is in `statistics.py`."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from simulators.errors import SimulatorError
from simulators.messages import Array, EpisodeSpec


@dataclass(frozen=True)
class Prediction:
    """Frames (V, T, H, W, 3) uint8 that the policy foresaw when it planned at `step`."""

    step: int
    frames: Array


@dataclass
class Recording:
    """Executed and predicted pictures of one episode.

    Args:
        cameras: Names, in the order of the data.
        steps: Episode step of each executed frame; the first is 0.
        frames: One camera -> (H, W, 3) uint8 dictionary per entry of `steps`.
        predictions: One for every replan, if the policy predicts.
        stride: Steps between frames (the last step of the episode is kept as well).
    """

    cameras: list[str]
    steps: list[int]
    frames: list[dict[str, Array]]
    predictions: list[Prediction]
    stride: int


@dataclass
class EpisodeResult:
    """One line of a results file.

    Args:
        suite: See `EpisodeSpec`.
        task: See `EpisodeSpec`.
        seed: See `EpisodeSpec`.
        init_state: See `EpisodeSpec`.
        success: Whether the task was solved; None if the episode could not be run, which is neither.
        steps: Control steps executed.
        replans: Action chunks asked of the policy.
        wall_s: Seconds from reset to end.
        policy_s: Seconds of policy time; a batched call is split evenly among its episodes.
        error: Why there is no outcome.
        attempts: How often the episode was begun; more than once if it lost its worker.
        variation: Kind of variation -> level; empty is the standard protocol.
        execute_steps: Actions executed of every chunk.
        max_steps: Step limit.
        instruction: The task in words, as the policy was given it.
        fingerprint: Of the policy and protocol that the episode belongs to; set by whoever keeps the file.
        recording: Pictures, if this episode was recorded; not written to the file.
    """

    suite: str
    task: str
    seed: int
    init_state: int | None
    success: bool | None
    steps: int = 0
    replans: int = 0
    wall_s: float = 0.0
    policy_s: float = 0.0
    error: str | None = None
    attempts: int = 1
    variation: dict[str, float] = field(default_factory=dict)
    execute_steps: int = 0
    max_steps: int = 0
    instruction: str = ""
    fingerprint: str = ""
    recording: Recording | None = field(default=None, compare=False, repr=False)

    @property
    def spec(self) -> EpisodeSpec:
        """The episode this is the result of."""
        return EpisodeSpec(self.suite, self.task, self.seed, self.init_state)

    @property
    def key(self) -> str:
        """See `EpisodeSpec.key`."""
        return self.spec.key

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content of the line."""
        content = asdict(self)
        del content["recording"]
        return content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> EpisodeResult:
        """Undo `to_dict`; what an older file lacks takes its default, what a newer one adds is left out.

        Raises:
            KeyError: If the episode or its outcome is missing.
        """
        episode = {name: content[name] for name in _REQUIRED}
        return cls(**episode, **{name: content[name] for name in _OPTIONAL & content.keys()})


_REQUIRED = ("suite", "task", "seed", "init_state", "success")
_OPTIONAL = {item.name for item in fields(EpisodeResult)} - {*_REQUIRED, "recording"}


class ResultsFile:
    """A file of JSON lines that survives being killed: every result is flushed, a half-written last line is cut off.

    Args:
        path: The file; made with its folder when the first result comes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def load(self) -> dict[str, EpisodeResult]:
        """Episode key -> its latest result.

        Raises:
            SimulatorError: If a line is not a result.
        """
        if not self.path.exists():
            return {}
        lines = self.path.read_text().split("\n")
        results = {}
        for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was cut short
            try:
                result = EpisodeResult.from_dict(json.loads(line))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise SimulatorError(
                    f"{self.path}: line {number} is not an episode result ({error!r}); move the file away."
                ) from error
            results[result.key] = result
        return results

    def append(self, result: EpisodeResult) -> None:
        """Add one line and flush it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.repair():
            warnings.warn(f"{self.path}: the last line was cut short by a kill; its episode runs again", stacklevel=2)
        with self.path.open("a") as file:
            file.write(json.dumps(result.to_dict()) + "\n")
            file.flush()

    def repair(self) -> bool:
        """Take a half-written last line away; returns whether there was one."""
        if not self.path.exists():
            return False
        with self.path.open("r+b") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            if file.read() == b"\n":
                return False
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        return True
