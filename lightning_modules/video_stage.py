"""Stage 1: the video U-Net learns to generate videos of the robot doing the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules import Batch, Preprocessing
from lightning_modules.stage import Stage, adam_1e5
from lightning_modules.video_scores import VideoScores
from networks import LogNormalNoise, LoRA, Sampler, VideoModel, seeded_noise
from networks.conditioning import DropoutScope
from policies.video_inputs import conditioning_of, draw_seeds, encoded, require_fit


class VideoStage(Stage):
    """Fine-tune (or train from scratch) the video U-Net on demos; nothing else is trained.

    Logs ``train/loss``; on validation ``val/loss`` (mean over fixed noise levels with fixed noise, so that epochs can
    be compared), ``val/loss_sigma_<s>`` for each of them, and `VideoScores` of sampled against true videos.

    Args:
        video: The video model.
        optimizer: Called with the U-Net's parameters; the paper's is Adam with a constant 1e-5.
        lr_scheduler: Called with the optimizer, stepped after every optimizer step.
        noise: Distribution of the noise level in training.
        condition_dropout: Chance that a frame's text, and independently its condition latents, is dropped, which is
            what guidance needs at sampling time.
        dropout_scope: ``frame`` drops as just said (the paper); ``sample`` drops text and condition latents of all
            frames of a sample together, which is the case that guidance extrapolates from.
        sampler: How validation videos are sampled.
        val_sigmas: Noise levels of the validation losses.
        num_predicted: Videos to sample in a validation epoch, rounded up to equally many a rank; 0 leaves the scores
            of sampled videos out.
        preconditioning_windows: Windows measured before training where the preconditioning has statistics to fit.
        lora: Adapters to train in place of the U-Net's own weights; handoff and checkpoints hold their sum.
    """

    learns_actions = False

    def __init__(
        self,
        video: VideoModel,
        optimizer: OptimizerCallable = adam_1e5,
        lr_scheduler: LRSchedulerCallable | None = None,
        noise: LogNormalNoise | None = None,
        condition_dropout: float = 0.1,
        dropout_scope: DropoutScope = "frame",
        sampler: Sampler | None = None,
        val_sigmas: Sequence[float] = (0.1, 0.5, 2.0, 10.0, 100.0),
        num_predicted: int = 16,
        preconditioning_windows: int = 512,
        lora: LoRA | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.video = video
        self.noise = noise or LogNormalNoise()
        self.condition_dropout = condition_dropout
        self.dropout_scope: DropoutScope = dropout_scope
        self.sampler = sampler or Sampler()
        self.val_sigmas = tuple(val_sigmas)
        self.num_predicted = num_predicted
        self.preconditioning_windows = preconditioning_windows
        self.scores = VideoScores(video.num_views)
        self.lora = lora

    @property
    def predicted(self) -> tuple[Tensor, Tensor] | None:
        """The first true and sampled videos of this validation epoch, for `PredictedVideos` to show."""
        return self.scores.videos

    def attach(self, preprocessing: Preprocessing) -> None:
        """Check that the video model has the data's views and frames.

        Raises:
            UserError: It has others; the message lists the keys.
        """
        require_fit(self.video, preprocessing)
        super().attach(preprocessing)

    def networks(self) -> list[nn.Module]:
        """The U-Net."""
        return [self.video.unet]

    def network_config(self) -> dict[str, Any]:
        """The video model's."""
        return {"video": self.video.config}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The U-Net alone, at the optimizer's own rate."""
        return [{"params": self.video.trainable_parameters(), "lr_scale": 1.0}]

    def on_fit_start(self) -> None:
        """Give the preconditioning its statistics."""
        self.fit_preconditioning(self.preconditioning_windows)

    # --- training -----------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One denoising step on latents of true videos."""
        latents, conditioning = encoded(self.video, batch, draw_seeds(batch, self.training))
        sigma = self.noise.sample(len(batch), device=latents.device)
        conditioning = conditioning.dropout(self.condition_dropout, scope=self.dropout_scope)
        loss = self.video.loss(latents, torch.randn_like(latents), sigma, conditioning).mean()
        self.log_batch({"train/loss": loss}, batch, train=True)
        return loss

    # --- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the video network is, so that an action stage may take it out of this file."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["network"] = self.video.config

    # --- validation ---------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget the videos of the last epoch."""
        super().on_validation_epoch_start()
        self.scores.videos = None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Losses at fixed levels with draws named by the window; sampled videos for the first windows."""
        seeds = batch.windows.tolist()
        latents, conditioning = encoded(self.video, batch, seeds)
        noise = seeded_noise(latents.shape[1:], seeds, "video", latents.device)
        losses = {}
        for level in self.val_sigmas:
            sigma = latents.new_full((len(batch),), level)
            losses[f"val/loss_sigma_{level:g}"] = self.video.loss(latents, noise, sigma, conditioning).mean()
        self.log_batch({**losses, "val/loss": torch.stack(list(losses.values())).mean()}, batch)
        if (part := self.to_predict(batch)) is not None:
            self._predict(part)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Test as validation does."""
        self.validation_step(batch, batch_idx)

    def _predict(self, batch: Batch) -> None:
        seeds = batch.windows.tolist()
        noise = seeded_noise(self.video.latent_shape(self.data.image_size), seeds, "video", self.device)
        latents = self.video.predict_video(conditioning_of(self.video, batch, seeds), self.sampler, noise, seeds)
        predicted = self.video.decode(latents).clamp(-1.0, 1.0)
        self.scores.compare(self, batch.frames, predicted, self.data.cameras)
