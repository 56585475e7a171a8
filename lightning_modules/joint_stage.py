"""Both stages at once: one run trains video network, adapter and action network together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules import Batch, DatasetError
from lightning_modules.policy_stage import ActionUNetFactory, AdapterFactory, PolicyStage
from lightning_modules.stage import adam_1e5
from lightning_modules.video_scores import VideoScores
from networks import (
    ActionUNet,
    CNNAdapter,
    Conditioning,
    LogNormalNoise,
    LoRA,
    NetworkError,
    Sampler,
    VideoModel,
    config_of,
    seeded_noise,
)
from networks.conditioning import DropoutScope


class JointStage(PolicyStage):
    """Train the video U-Net, the adapter and the action U-Net on one loss (the paper's joint training, .57 for .63).

    Film and actions have one noise level, and the actions' gradient flows through the features into the video U-Net.
    There is no handoff: a run of this stage is a whole experiment, and its checkpoint rolls out like an action stage's.

    Logs ``train/loss`` with its parts ``train/video_loss`` and ``train/action_loss``; on validation the same three at
    fixed noise levels with fixed noise, and, from film and actions sampled together for the first windows, PSNR, SSIM,
    ``val/action_error`` and ``val_action_error/step_<k>``. ``val/loss`` is the published mean over all rows, whatever
    `video_weight` is, and ``val/action_loss`` can be compared with an action stage's ``val/loss``.

    Args:
        video: The video model, which is trained.
        adapter: Makes the adapter from tap shapes, views, frames and embedding size.
        action_unet: Makes the action U-Net from action size, horizon, conditioning size and embedding size.
        taps: Feature taps to read, by position over the U-Net's input and output blocks.
        optimizer: Called with three groups: video U-Net, adapter, action U-Net.
        lr_scheduler: Called with the optimizer, stepped after every optimizer step.
        adapter_lr_scale: Factor on the optimizer's rate for the adapter (paper: 5).
        action_lr_scale: The same for the action U-Net.
        noise: Distribution of the noise level in training.
        condition_dropout: Chance that a frame's text, and independently its condition latents, is dropped.
        dropout_scope: ``frame`` (the paper) or ``sample``, see `Conditioning.dropout`.
        video_weight: Weight of the video rows' mean in the loss that is trained, the rest goes to the actions' mean.
            None weighs by rows as published: F to A, 25 to 32.
        mask_padding: Leave padded action steps out of the loss (paper: they count).
        sampler: How film and actions are sampled.
        val_sigmas: Noise levels of the validation losses.
        num_predicted: Windows whose video and actions are sampled in a validation epoch, rounded up to equally many a
            rank.
        preconditioning_windows: Windows measured before training where the preconditioning has statistics to fit.
        lora: Adapters to train in place of the video U-Net's own weights; checkpoints hold their sum.
    """

    noise_levels: ClassVar[Literal["shared"]] = "shared"

    def __init__(
        self,
        video: VideoModel,
        adapter: AdapterFactory = CNNAdapter,
        action_unet: ActionUNetFactory = ActionUNet,
        taps: Sequence[int] = (9, 13, 16, 19, 22),
        optimizer: OptimizerCallable = adam_1e5,
        lr_scheduler: LRSchedulerCallable | None = None,
        adapter_lr_scale: float = 5.0,
        action_lr_scale: float = 5.0,
        noise: LogNormalNoise | None = None,
        condition_dropout: float = 0.1,
        dropout_scope: DropoutScope = "frame",
        video_weight: float | None = None,
        mask_padding: bool = False,
        sampler: Sampler | None = None,
        val_sigmas: Sequence[float] = (0.1, 0.5, 2.0, 10.0, 100.0),
        num_predicted: int = 4,
        preconditioning_windows: int = 512,
        lora: LoRA | None = None,
    ) -> None:
        super().__init__(
            video,
            adapter,
            action_unet,
            taps,
            optimizer,
            lr_scheduler,
            (adapter_lr_scale, action_lr_scale),
            noise,
            condition_dropout,
            dropout_scope,
            mask_padding,
            sampler,
        )
        if video_weight is not None and not 0.0 <= video_weight < 1.0:
            raise NetworkError(
                f"model.init_args.video_weight is {video_weight}; it must be at least 0 and less than 1, or null "
                "for the published weights by rows."
            )
        self.video_weight = video_weight
        self.val_sigmas = tuple(val_sigmas)
        self.num_predicted = num_predicted
        self.preconditioning_windows = preconditioning_windows
        self.scores = VideoScores()
        self.lora = lora

    @property
    def predicted(self) -> tuple[Tensor, Tensor] | None:
        """True and sampled videos of this validation epoch, for `PredictedVideos` to show."""
        return self.scores.videos

    def configure_model(self) -> None:
        """As every stage; windows without actions are no use here.

        Raises:
            DatasetError: The data names ``video_only_tasks``.
        """
        super().configure_model()
        if tasks := getattr(getattr(self.trainer, "datamodule", None), "video_only_tasks", None):
            raise DatasetError(
                f"data.init_args.video_only_tasks is {tasks}, but the joint stage learns film and actions of a window; "
                "train the two stages (experiments/robocasa.yaml), or put these tasks into evaluation_only_tasks."
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The video U-Net at the optimizer's own rate, then adapter and action U-Net at theirs."""
        return [{"params": self.video.trainable_parameters(), "lr_scale": 1.0}, *super().parameter_groups()]

    def on_fit_start(self) -> None:
        """Give the video's preconditioning its statistics."""
        self.fit_preconditioning(self.preconditioning_windows)

    # --- training -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One denoising step on true videos and actions at one noise level a sample."""
        latents, conditioning = self.encode(batch)
        sigma = self.noise.sample(len(batch), device=latents.device)
        conditioning = self.drop(conditioning)
        noise, action_noise = torch.randn_like(latents), torch.randn_like(batch.actions)
        video, action = self.means(batch, latents, noise, action_noise, sigma, conditioning)
        loss = self.balanced(video, action, self.video_weight)
        parts = {"train/video_loss": video.detach(), "train/action_loss": action.detach()}
        self.log_batch({"train/loss": loss}, batch, train=True)
        self.log_dict(parts, batch_size=len(batch))
        return loss

    def means(
        self,
        batch: Batch,
        latents: Tensor,
        video_noise: Tensor,
        action_noise: Tensor,
        sigma: Tensor,
        conditioning: Conditioning,
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of the video rows and of the action steps, at one noise level a sample (`PolicyModel.loss`)."""
        video, action = self.network.loss(latents, batch.actions, video_noise, action_noise, sigma, conditioning)
        return video.mean(), self.mean_action_loss(action, batch)

    def balanced(self, video: Tensor, action: Tensor, video_weight: float | None) -> Tensor:
        """One loss of the two means; None weighs them by their numbers of rows."""
        num_rows = self.video.num_rows
        weight = num_rows / (num_rows + self.data.action_horizon) if video_weight is None else video_weight
        return weight * video + (1.0 - weight) * action

    # --- validation -----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget the videos of the last epoch."""
        super().on_validation_epoch_start()
        self.scores.videos = None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Losses at fixed levels with draws named by the window; video and actions of the first windows."""
        if not len(batch):  # no demo is held out, but rollouts hang on the validation
            return
        latents, conditioning = self.encode(batch)
        seeds = batch.windows.tolist()
        noise = seeded_noise(latents.shape[1:], seeds, "video", self.device)
        action_noise = seeded_noise(batch.actions.shape[1:], seeds, "action", self.device)
        losses = []
        for level in self.val_sigmas:
            sigma = latents.new_full((len(batch),), level)
            video, action = self.means(batch, latents, noise, action_noise, sigma, conditioning)
            losses.append(torch.stack([self.balanced(video, action, None), video, action]))
        names = ("val/loss", "val/video_loss", "val/action_loss")
        self.log_batch(dict(zip(names, torch.stack(losses).mean(dim=0), strict=True)), batch)
        if (part := self.to_predict(batch)) is not None:
            self._log_sampled(part)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Test as validation does."""
        self.validation_step(batch, batch_idx)

    def _log_sampled(self, batch: Batch) -> None:
        actions, latents = self.sample_jointly(self.conditioning(batch), batch.windows.tolist())
        self.log_action_error(actions, batch)
        self.scores.compare(self, batch.frames, self.video.decode(latents).clamp(-1.0, 1.0))

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def policy_config(self) -> dict[str, Any]:
        """The policy of an action stage with shared noise levels, which is what it rolls out as."""
        return super().policy_config() | {
            "video_sampler": config_of(self.sampler),
            "noise_levels": self.noise_levels,
            "video_sigma": self.sampler.sigma_max,  # not used with shared levels
            "standardize_features": False,
        }
