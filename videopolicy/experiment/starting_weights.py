"""`lightning fit --ckpt_path FILE` where FILE has no optimizer state: where to start, not a run to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callbacks import CheckpointHandoff
from callbacks.starting_weights import StartingWeights
from lightning_modules import ActionStage
from networks import read_checkpoint
from videopolicy.experiment.stage_cli import StageCLI


def starting_weights(config: Mapping[str, Any]) -> Path | None:
    """The checkpoint that a stage's config names, if it has no optimizer state.

    Raises:
        CheckpointError: It is damaged or holds code.
    """
    path = Path(config.get("ckpt_path") or "")
    if not path.is_file():
        return None  # none, or one of Lightning's words, or missing, which Lightning's reader says
    return None if "optimizer_states" in read_checkpoint(path, mapped=True) else path


def start_from(cli: StageCLI, weights: Path, goes_on: bool) -> None:
    """Let a stage that was built begin with these weights.

    An action stage without a handoff takes the frozen video network from the same file.

    Args:
        cli: The stage.
        weights: What `starting_weights` gave.
        goes_on: Whether the run has a checkpoint of its own by now, which brings the weights that it trains.
    """
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, CheckpointHandoff) and isinstance(cli.model, ActionStage):
            callback.folder = callback.folder if callback.folder.exists() else weights
    if not goes_on:
        callbacks.insert(0, StartingWeights(str(weights)))
