"""A training run as it lies on disk: stages, curves, rollouts of every validation, evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from videopolicy.reports.evaluations import Evaluation, is_evaluation, read_evaluation, read_json, standard_first

STAGES = ("video", "action", "joint")
Curve = list[tuple[int, float]]  # (optimizer step, value)


@dataclass(frozen=True)
class Stage:
    """One stage's folder.

    Args:
        name: ``video``, ``action`` or ``joint``.
        path: Its folder.
        versions: Content of ``versions.json``.
        finished: Content of ``finished.json``; empty while it is not.
        curves: Scalars of TensorBoard by tag.
        seconds: From the first to the last logged value, pauses between two starts included.
        clips: Predicted-above-recorded videos of the last validation.
    """

    name: str
    path: Path
    versions: dict[str, Any] = field(default_factory=dict)
    finished: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    seconds: float = 0.0
    clips: list[Path] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        """The last step that anything was logged at."""
        return max((curve[-1][0] for curve in self.curves.values() if curve), default=0)


@dataclass(frozen=True)
class TrainingRun:
    """What a run directory holds.

    Args:
        path: The run directory.
        stages: Those that were started.
        rollouts: Step -> episodes of that validation.
        evaluations: What `videopolicy evaluate` wrote into it, as `standard_first` orders them.
        config: The merged experiment as YAML text.
        profile: Content of ``profile.json``, if `videopolicy profile` left one.
    """

    path: Path
    stages: list[Stage]
    rollouts: dict[int, Evaluation]
    evaluations: list[Evaluation]
    config: str
    profile: dict[str, Any]

    @cached_property
    def sections(self) -> list[Evaluation]:
        """What gets a section of its own, the one that the headline quotes first: none that was varied."""
        last = [self.rollouts[max(self.rollouts)]] if self.rollouts else []
        varied = [item for item in self.evaluations if item.variation]
        return [*(item for item in self.evaluations if not item.variation), *last, *varied]


def is_training_run(path: Path) -> bool:
    """Whether a folder is a run directory of `lightning fit`."""
    return any((path / name).is_dir() for name in STAGES)


def read_training_run(path: Path) -> TrainingRun:
    """Read a run directory, finished or not."""
    stages = [_read_stage(path / name) for name in STAGES if (path / name).is_dir()]
    rollouts: dict[int, Evaluation] = {}
    evaluations: list[Evaluation] = []
    for stage in stages:
        checkpoint = stage.path / "checkpoints" / "last.ckpt"
        for file in sorted((stage.path / "rollouts").glob("step_*.jsonl")):
            step = int(file.stem.removeprefix("step_"))
            rollouts[step] = read_evaluation(file, f"Rollouts at step {step:,} of the {stage.name} stage", checkpoint)
        found = [item for item in (stage.path / "evaluations").glob("*") if is_evaluation(item)]
        evaluations += [read_evaluation(item, f"Evaluation {item.stem}", checkpoint) for item in found]
    config = path / "config.yaml"
    text = config.read_text() if config.is_file() else ""
    return TrainingRun(path, stages, rollouts, standard_first(evaluations), text, read_json(path / "profile.json"))


def _read_stage(path: Path) -> Stage:
    versions, finished = (read_json(path / name) for name in ("versions.json", "finished.json"))
    curves, seconds = read_curves(path)
    clips = sorted((path / "videos").glob("*.mp4"))
    last = clips[-1].stem.rpartition("_")[0] if clips else ""
    return Stage(
        path.name,
        path,
        versions,
        finished,
        curves,
        seconds,
        [clip for clip in clips if clip.stem.rpartition("_")[0] == last],
    )


def read_curves(folder: Path) -> tuple[dict[str, Curve], float]:
    """Scalars of all event files of a folder, and the seconds that they span.

    Steps that were run twice, because the run was killed after its last checkpoint, are taken once, the later value.
    """
    if not list(folder.glob("events.out.tfevents.*")):
        return {}, 0.0
    sizes = {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1, "audio": 1}  # 0 keeps all of them
    events = EventAccumulator(str(folder), size_guidance=sizes)
    events.Reload()
    curves, times = {}, []
    for tag in events.Tags()["scalars"]:
        scalars = events.Scalars(tag)
        curves[tag] = sorted({item.step: float(item.value) for item in scalars}.items())
        times += [item.wall_time for item in scalars]
    return curves, max(times) - min(times) if times else 0.0
