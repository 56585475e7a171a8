"""How close sampled videos come to the true ones."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure


class VideoScores(nn.Module):
    """PSNR and SSIM of a stage's sampled videos; a part of the stage, so that Lightning finds the metrics.

    Attributes:
        videos: True and sampled videos since they were last set to None, both (N, V, T, 3, H, W) in [-1, 1] on the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.psnr = PeakSignalNoiseRatio(data_range=(-1.0, 1.0))
        self.ssim = StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0))
        self.videos: tuple[Tensor, Tensor] | None = None

    def compare(self, stage: LightningModule, true: Tensor, predicted: Tensor) -> None:
        """Log ``val/psnr`` and ``val/ssim`` for the stage and keep the videos too.

        Args:
            stage: The stage in its validation step.
            true: (B, V, T, 3, H, W) in [-1, 1].
            predicted: The same of the sampled videos.
        """
        flat = [video.flatten(0, 2).float() for video in (predicted, true)]
        for name, metric in (("val/psnr", self.psnr), ("val/ssim", self.ssim)):
            metric(*flat)
            stage.log(name, metric, on_epoch=True, batch_size=len(true))
        new, old = (true.cpu(), predicted.float().cpu()), self.videos
        self.videos = new if old is None else (torch.cat([old[0], new[0]]), torch.cat([old[1], new[1]]))
