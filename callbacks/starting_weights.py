"""Training that starts at step 0 from the weights of a checkpoint without optimizer state."""

from __future__ import annotations

import warnings
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.stage_file import PARTS, POLICY_PARTS, StageFile, part_of, require_same_network
from files.differences import differing_keys
from lightning_modules import ActionStage, Stage


class StartingWeights(Callback):
    """Load the weights of a checkpoint file before training; parts that it lacks keep theirs.

    Where the video network is frozen (the action stage) only the adapter and the action network are loaded here: the
    video network comes through `CheckpointHandoff`.

    Args:
        path: A checkpoint, for instance a converted one.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load, and say so in a line."""
        if stage != "fit" or not isinstance(pl_module, Stage):
            return
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is not None and pl_module.preprocessing is None:
            pl_module.attach(datamodule.preprocessing)
        file = StageFile(self.path)
        require_same_network(file, pl_module)
        if file.data is not None and (wrong := differing_keys(file.data, pl_module.data.to_dict())):
            warnings.warn(f"{self.path}: its weights were made for other data: {'; '.join(wrong)}.", stacklevel=2)
        frozen = isinstance(pl_module, ActionStage)
        there = {part_of(name) for name in pl_module.state_dict()}
        of_video = [] if frozen else [part for part in PARTS.values() if part not in POLICY_PARTS]
        used = of_video + [part for part in POLICY_PARTS if part in there]
        kept = file.load(pl_module, used)
        if trainer.is_global_zero:
            rest = f"; not in the file, so they keep their own: {', '.join(kept)}" if kept else ""
            print(f"starting at step 0 from the weights of {self.path}, which has no optimizer state{rest}", flush=True)
