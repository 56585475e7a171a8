"""How close sampled videos come to the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from networks.picture_errors import moving, skill, squared_errors

NUM_SHOWN = 4  # windows whose videos are kept to be looked at


class Skill(Metric):
    """Skill of everything seen, summed over windows and ranks before the ratio is taken; the mean of some cameras'.

    Args:
        num_views: Cameras.
    """

    full_state_update = False
    higher_is_better = True
    predicted: Tensor
    held: Tensor

    def __init__(self, num_views: int = 1) -> None:
        super().__init__()
        for name in ("predicted", "held"):
            self.add_state(name, torch.zeros(num_views), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, held: Tensor) -> None:
        """Add squared errors (V,)."""
        self.predicted = self.predicted + predicted
        self.held = self.held + held

    def compute(self) -> Tensor:
        """The mean over the cameras before which anything changed."""
        return skill(self.predicted, self.held).nanmean()


class VideoScores(nn.Module):
    """PSNR, SSIM and skill of a stage's sampled videos; a part of the stage, so that Lightning finds the metrics.

    All are of the future frames: the first one is given.

    Args:
        num_views: Cameras.

    Attributes:
        videos: The first few true and sampled videos since they were last set to None, both (N, V, T, 3, H, W) in
            [-1, 1] on the CPU.
    """

    def __init__(self, num_views: int) -> None:
        super().__init__()
        self.psnr = PeakSignalNoiseRatio(data_range=(-1.0, 1.0))
        self.ssim = StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0))
        self.skills = nn.ModuleDict({name: Skill(num_views) for name in ("skill", "skill_moving")})
        self.skills.update({f"{name}_{view}": Skill() for name in [*self.skills] for view in range(num_views)})
        self.videos: tuple[Tensor, Tensor] | None = None

    def compare(self, stage: LightningModule, true: Tensor, predicted: Tensor, cameras: Sequence[str]) -> None:
        """Log ``val/psnr``, ``val/ssim``, ``val/skill`` and ``val/skill_moving`` for the stage; keep the first videos.

        Args:
            stage: The stage in its validation step.
            true: (B, V, T, 3, H, W) in [-1, 1].
            predicted: The same of the sampled videos.
            cameras: Names of the V cameras.
        """
        self._keep(true.cpu(), predicted.float().cpu())
        if true.shape[2] == 1:  # a window without a future
            return
        flat = [video[:, :, 1:].flatten(0, 2).float() for video in (predicted, true)]
        metrics: dict[str, Any] = {"psnr": self.psnr, "ssim": self.ssim}
        for metric in metrics.values():
            metric(*flat)  # not `update`, which writes into what an earlier validation left as an inference tensor
        for name, where in (("skill", None), ("skill_moving", moving(true))):
            errors = squared_errors(true, predicted, where)
            sums = [value.sum(dim=(0, 2)) for value in (errors.predicted, errors.held)]
            metrics[name] = self.skills[name]
            metrics[name](*sums)
            for view, camera in enumerate(cameras):
                one = metrics[f"{name}/{camera}"] = self.skills[f"{name}_{view}"]
                one(*(value[view : view + 1] for value in sums))
        for name, metric in metrics.items():
            stage.log(f"val/{name}", metric, on_epoch=True, batch_size=len(true))

    def _keep(self, true: Tensor, predicted: Tensor) -> None:
        old = self.videos or (true[:0], predicted[:0])
        self.videos = (torch.cat([old[0], true])[:NUM_SHOWN], torch.cat([old[1], predicted])[:NUM_SHOWN])
