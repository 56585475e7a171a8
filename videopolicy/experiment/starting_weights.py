"""`lightning fit --ckpt_path FILE` where FILE has no optimizer state: where to start, not a run to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callbacks import CheckpointHandoff
from callbacks.starting_weights import StartingWeights
from files.errors import UserError
from lightning_modules import ActionStage
from networks import read_checkpoint
from videopolicy.experiment.stage_run import StageRun

LIGHTNINGS_WORDS = ("best", "last", "hpc")


def starting_weights(config: Mapping[str, Any]) -> Path | None:
    """The checkpoint that a stage's config names, if it has no optimizer state.

    Raises:
        UserError: It is damaged or holds code.
    """
    given = config.get("ckpt_path")
    if not given or given in LIGHTNINGS_WORDS:
        return None
    path = Path(given).expanduser()
    document = read_checkpoint(path, mapped=True)
    if not isinstance(document.get("state_dict"), Mapping):
        raise UserError(
            f"--ckpt_path {path}: holds no state_dict but {sorted(map(str, document))[:3]}; convert a table of weights "
            "first: videopolicy convert --to native."
        )
    return None if "optimizer_states" in document else path


def start_from(run: StageRun, weights: Path, goes_on: bool) -> None:
    """Let a stage that was built begin with these weights.

    An action stage without a handoff takes the frozen video network from the same file.

    Args:
        run: The stage, built.
        weights: What `starting_weights` gave.
        goes_on: Whether the run has a checkpoint of its own by now, which brings the weights that it trains.
    """
    callbacks: list[Any] = run.trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, CheckpointHandoff) and isinstance(run.model, ActionStage):
            callback.folder = callback.folder if callback.folder.exists() else weights
    if not goes_on:
        callbacks.insert(0, StartingWeights(str(weights)))
