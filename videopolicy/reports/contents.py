"""What a path holds: one evaluation, a folder of several, or a run directory with its rollouts and evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from files.errors import UserError
from videopolicy.evaluation.results_directory import Evaluation, is_evaluation, read_evaluation, read_json

STAGES = ("video", "action", "joint")


@dataclass(frozen=True)
class Titled:
    """An evaluation that gets a section of the page.

    Args:
        title: What the page calls it.
        evaluation: It.
        checkpoint: The policy's checkpoint, where no ``protocol.json`` names one.
    """

    title: str
    evaluation: Evaluation
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Contents:
    """What a page is about.

    Args:
        path: Where it was read from.
        sections: Evaluations without variation first, the newest of them at the top; the headline quotes the first.
        stages: Stage of a run directory -> its state in words; empty where the path is none.
        rollouts: Optimizer step -> the episodes of that validation.
        config: The merged experiment as YAML text.
    """

    path: Path
    sections: list[Titled]
    stages: dict[str, str] = field(default_factory=dict)
    rollouts: dict[int, Evaluation] = field(default_factory=dict)
    config: str = ""

    @property
    def several(self) -> bool:
        """Whether the page is about more than one evaluation."""
        return bool(self.stages) or len(self.sections) > 1


def read_contents(path: Path) -> Contents:
    """Read a results directory, a file of results, a folder of several, or a run directory, finished or not.

    Raises:
        UserError: The path is none of these, or a file in it is damaged.
        SimulatorError: A line is not an episode's result.
    """
    if is_evaluation(path):
        return Contents(path, [Titled(path.name if path.is_dir() else path.stem, read_evaluation(path))])
    if any((path / stage).is_dir() for stage in STAGES):
        return _read_run(path)
    inside = path.glob("*") if path.is_dir() else ()
    found = [Titled(item.name, read_evaluation(item)) for item in inside if item.is_dir() and is_evaluation(item)]
    if found:
        return Contents(path, standard_first(found))
    what = "neither a results file nor a folder" if path.is_file() else "neither an evaluation nor a run directory"
    raise UserError(
        f"{path}: {what if path.exists() else 'no such file or folder'}; give what `videopolicy evaluate --output` "
        "wrote (it holds results.jsonl), or a run directory of `lightning fit` (it holds video/ or action/)."
    )


def _read_run(path: Path) -> Contents:
    states: dict[str, str] = {}
    rollouts: dict[int, Titled] = {}
    evaluations: list[Titled] = []
    for stage in (path / name for name in STAGES if (path / name).is_dir()):
        limits = read_json(stage / "finished.json").get("limits", {})
        done = ", ".join(f"{name} {value}" for name, value in limits.items())
        states[stage.name] = f"finished ({done})" if (stage / "finished.json").is_file() else "not finished"
        checkpoint = stage / "checkpoints" / "last.ckpt"
        for file in sorted((stage / "rollouts").glob("step_*.jsonl")):
            step = int(file.stem.removeprefix("step_"))
            title = f"Rollouts at step {step:,} of the {stage.name} stage"
            rollouts[step] = Titled(title, read_evaluation(file), checkpoint)
        found = [item for item in (stage / "evaluations").glob("*") if is_evaluation(item)]
        evaluations += [Titled(f"Evaluation {item.stem}", read_evaluation(item), checkpoint) for item in found]
    config = path / "config.yaml"
    ordered = standard_first(evaluations)
    last = [rollouts[max(rollouts)]] if rollouts else []
    return Contents(
        path,
        [*(item for item in ordered if not item.evaluation.variation), *last,
         *(item for item in ordered if item.evaluation.variation)],
        states,
        {step: rollouts[step].evaluation for step in sorted(rollouts)},
        config.read_text() if config.is_file() else "",
    )  # fmt: skip


def standard_first(sections: Sequence[Titled]) -> list[Titled]:
    """Those without variation before the others, the newest first."""
    return sorted(sections, key=lambda item: (sorted(item.evaluation.variation.items()), -item.evaluation.last_written))
