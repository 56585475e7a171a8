"""Stage 1 to look at: what the model predicted beside what happened."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.clips import log_clip, predicted_and_true, write_clip
from callbacks.run_folder import run_folder
from files.errors import UserError
from lightning_modules import JointStage, VideoStage


class PredictedVideos(Callback):
    """Show the videos that a validation epoch of the video or joint stage sampled, above the true ones.

    They appear in TensorBoard under ``predicted/<k>`` and as mp4 files, one column a camera: top row predicted, bottom
    row recorded.

    Args:
        folder: Where the mp4 files go; `videos` beside the logger's files if None.
        fps: Frames a second.
    """

    def __init__(self, folder: str | None = None, fps: float = 2.0) -> None:
        self.folder = Path(folder) if folder is not None else None
        self.fps = fps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a stage that samples no videos."""
        if not isinstance(pl_module, VideoStage | JointStage):
            raise UserError(
                f"PredictedVideos needs the video or joint stage, not {type(pl_module).__name__}; "
                "move `videos` to stages.video."
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and log the epoch's videos."""
        assert isinstance(pl_module, VideoStage | JointStage)
        if trainer.sanity_checking:
            return
        folder = self.folder or run_folder(trainer) / "videos"
        if pl_module.predicted is None or not trainer.is_global_zero:
            return
        true, predicted = (pl_module.data.to_uint8(clip) for clip in pl_module.predicted)
        for index, pair in enumerate(zip(predicted, true, strict=True)):
            clip = predicted_and_true(*pair)
            name = f"step_{trainer.global_step:07d}_{index}"
            write_clip(folder / f"{name}.mp4", clip, fps=self.fps)
            log_clip(trainer.loggers, f"predicted/{index}", clip, trainer.global_step, fps=self.fps)
