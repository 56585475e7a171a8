"""Stage 1: the video U-Net learns to film the robot doing the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from datamodules import Batch
from lightning_modules.stage import Stage, adam_1e5
from networks import Conditioning, LogNormalNoise, ResidualPreconditioning, Sampler, VideoModel, seeded_noise


class VideoStage(Stage):
    """Fine-tune (or train from scratch) the video U-Net on demos; nothing else is trained.

    Logs ``train/loss``; on validation ``val/loss`` (mean over fixed noise levels with fixed noise, so that epochs can
    be compared), ``val/loss_sigma_<s>`` for each of them, and PSNR and SSIM of sampled against true videos.

    Args:
        video: The video model.
        optimizer: Called with the U-Net's parameters; the paper's is Adam with a constant 1e-5.
        lr_scheduler: Called with the optimizer, stepped after every optimizer step.
        noise: Distribution of the noise level in training.
        condition_dropout: Chance that a frame's text, and independently its condition latents, is dropped, which is
            what guidance needs at sampling time.
        sampler: How validation videos are sampled.
        val_sigmas: Noise levels of the validation losses.
        num_predicted: Videos to sample in a validation epoch; 0 leaves PSNR and SSIM out.
        preconditioning_windows: Windows measured before training where the preconditioning has statistics to fit.
    """

    learns_actions = False

    def __init__(
        self,
        video: VideoModel,
        optimizer: OptimizerCallable = adam_1e5,
        lr_scheduler: LRSchedulerCallable | None = None,
        noise: LogNormalNoise | None = None,
        condition_dropout: float = 0.1,
        sampler: Sampler | None = None,
        val_sigmas: Sequence[float] = (0.1, 0.5, 2.0, 10.0, 100.0),
        num_predicted: int = 4,
        preconditioning_windows: int = 512,
    ) -> None:
        super().__init__(video, optimizer, lr_scheduler)
        self.noise = noise or LogNormalNoise()
        self.condition_dropout = condition_dropout
        self.sampler = sampler or Sampler()
        self.val_sigmas = tuple(val_sigmas)
        self.num_predicted = num_predicted
        self.preconditioning_windows = preconditioning_windows
        self.psnr = PeakSignalNoiseRatio(data_range=(-1.0, 1.0))
        self.ssim = StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0))
        self.predicted: tuple[Tensor, Tensor] | None = None  # true and sampled videos, for PredictedVideos to show

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The U-Net alone, at the optimizer's own rate."""
        return [{"params": self.video.trainable_parameters(), "lr_scale": 1.0}]

    @torch.no_grad()
    def on_fit_start(self) -> None:
        """Measure what the preconditioning needs to know of the data; the same windows on every rank."""
        preconditioning = self.video.preconditioning
        if not isinstance(preconditioning, ResidualPreconditioning) or preconditioning.fitted:
            return
        windows = self.trainer.datamodule.train_set  # type: ignore[attr-defined]
        every = max(1, len(windows) // self.preconditioning_windows)
        subset = Subset(windows, range(0, len(windows), every))
        for batch in DataLoader(subset, batch_size=32, collate_fn=Batch.collate):
            frames = self.data.to_float(batch.frames.to(self.device))
            anchor = self.video.condition(frames[:, :, 0], batch.instructions).anchor
            preconditioning.update(self.video.encode(frames), anchor)
        preconditioning.finish()

    # --- training -----------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One denoising step on latents of true videos."""
        latents, conditioning = self.encode(batch)
        sigma = self.noise.sample(len(batch), device=latents.device)
        conditioning = conditioning.dropout(self.condition_dropout)
        loss = self.video.loss(latents, torch.randn_like(latents), sigma, conditioning).mean()
        self.log_batch({"train/loss": loss}, batch, train=True)
        return loss

    @torch.no_grad()
    def encode(self, batch: Batch) -> tuple[Tensor, Conditioning]:
        """Latents (B, F, c, h, w) of the true frames, and what they are conditioned on."""
        return self.video.encode(batch.frames), self.conditioning(batch)

    # --- validation ---------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget the videos of the last epoch."""
        self.predicted = None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Losses at fixed levels with noise seeded by window; sampled videos for the first windows."""
        latents, conditioning = self.encode(batch)
        noise = seeded_noise(latents.shape[1:], batch.windows.tolist(), latents.device)
        losses = {}
        for level in self.val_sigmas:
            sigma = latents.new_full((len(batch),), level)
            losses[f"val/loss_sigma_{level:g}"] = self.video.loss(latents, noise, sigma, conditioning).mean()
        self.log_batch({**losses, "val/loss": torch.stack(list(losses.values())).mean()}, batch)
        if batch_idx == 0 and self.num_predicted:
            self._predict(batch, conditioning, noise)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Test as validation does."""
        self.validation_step(batch, batch_idx)

    def _predict(self, batch: Batch, conditioning: Conditioning, noise: Tensor) -> None:
        count = min(self.num_predicted, len(batch))
        latents = self.video.predict_video(conditioning[:count], self.sampler, noise[:count])
        predicted = self.video.decode(latents).clamp(-1.0, 1.0)
        true = batch.frames[:count]
        flat = [video.flatten(0, 2).float() for video in (predicted, true)]
        for name, metric in (("val/psnr", self.psnr), ("val/ssim", self.ssim)):
            metric(*flat)
            self.log(name, metric, on_epoch=True, batch_size=count)
        self.predicted = (true.cpu(), predicted.float().cpu())
