"""The command that runs one episode of an evaluation again."""

from __future__ import annotations

import shlex
from pathlib import Path

from rollouts import EpisodeResult
from videopolicy.evaluation.results_directory import PROTOCOL, Evaluation

POLICIES = ("scripted", "random", "zero")  # what `evaluate --policy` makes without a checkpoint


def command_of(evaluation: Evaluation, checkpoint: Path | None, result: EpisodeResult) -> str | None:
    """`videopolicy evaluate` for this one episode, with a video; None where no command makes the policy.

    The protocol is the file that the evaluation wrote: one of the same name may be another today, and no option says
    what a training's rollouts or a protocol of the user's own are.

    Args:
        evaluation: Which the episode is of.
        checkpoint: The policy's, where no ``protocol.json`` names one.
        result: The episode.
    """
    policy = evaluation.policy
    kind, path = policy.get("kind", "checkpoint"), policy.get("path") or checkpoint
    if kind == "checkpoint" and path:
        words = ["--checkpoint", str(path)]
    elif kind in POLICIES:
        words = ["--policy", kind]
    else:  # such as the demo's controls, which no option of `evaluate` makes
        return None
    for name, value in {**(policy.get("sampling") or {}), "precision": policy.get("precision")}.items():
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    folder = evaluation.path if evaluation.path.is_dir() else evaluation.path.parent
    words += ["--protocol", str(folder / PROTOCOL)] if evaluation.document else []
    words += ["--tasks", result.task, "--episodes", "1", "--first-seed", str(result.seed), "--workers", "1"]
    words += ["--output", str(folder / "repeat" / f"{result.task}_seed{result.seed}")]
    return shlex.join(["videopolicy", "evaluate", *words])
