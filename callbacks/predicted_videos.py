"""Stage 1 to look at: what the model imagined beside what happened."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from callbacks.clips import log_clip, write_clip
from lightning_modules import VideoStage


class PredictedVideos(Callback):
    """Show the videos that a validation epoch of the video stage sampled, above the true ones.

    They appear in TensorBoard under ``predicted/<k>`` and as mp4 files, one column a camera: top row predicted, bottom
    row recorded.

    Args:
        folder: Where the mp4 files go; `videos` beside the logger's files if None.
        seconds_per_frame: Playing time of a predicted frame.
    """

    def __init__(self, folder: str | None = None, seconds_per_frame: float = 0.5) -> None:
        self.folder = Path(folder) if folder is not None else None
        self.seconds_per_frame = seconds_per_frame

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a stage that samples no videos."""
        if not isinstance(pl_module, VideoStage):
            raise MisconfigurationException(
                f"PredictedVideos needs the video stage, not {type(pl_module).__name__}; "
                "move it to stages.video.trainer.callbacks."
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and log the epoch's videos."""
        assert isinstance(pl_module, VideoStage)
        if trainer.sanity_checking or pl_module.predicted is None or not trainer.is_global_zero:
            return
        true, predicted = (pl_module.data.to_uint8(clip) for clip in pl_module.predicted)
        folder = self.folder or Path(trainer.log_dir or trainer.default_root_dir) / "videos"
        for index, pair in enumerate(zip(predicted, true, strict=True)):
            clip = stacked(*pair)
            name = f"step_{trainer.global_step:07d}_{index}"
            write_clip(folder / f"{name}.mp4", clip, fps=1.0 / self.seconds_per_frame)
            log_clip(trainer.loggers, f"predicted/{index}", clip, trainer.global_step, fps=1.0 / self.seconds_per_frame)


def stacked(predicted: Tensor, true: Tensor) -> Tensor:
    """Lay out two clips: cameras side by side, predicted above true.

    Args:
        predicted: uint8 (V, T, 3, H, W).
        true: The same.

    Returns:
        uint8 (T, 2 H, V W, 3).
    """
    rows = [torch.cat(list(clip), dim=-1) for clip in (predicted, true)]  # (T, 3, H, V W)
    return torch.cat(rows, dim=-2).movedim(1, -1)
