"""Stage 2: the video network is frozen; a small action head learns to read its features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules import Batch, Preprocessing
from lightning_modules.policy_stage import ActionUNetFactory, AdapterFactory, PolicyStage
from lightning_modules.stage import adam_1e5
from networks import (
    ActionUNet,
    CNNAdapter,
    Conditioning,
    FeatureStandardizer,
    LogNormalNoise,
    NetworkError,
    Sampler,
    VideoModel,
    config_of,
    seeded_noise,
)
from networks.conditioning import DropoutScope
from networks.noise import partly_denoised

Features = list[Tensor]  # one (B, V, T, C, h, w) a tap, fine to coarse


class ActionStage(PolicyStage):
    """Train the adapter and the action U-Net on features of the frozen video U-Net.

    Two ways to choose the noise level of the video that the features are read from:

    - ``shared`` (the paper): video and action have one noise level. Training noises the true video; sampling
      denoises video and action together, one pass of the video U-Net (two with guidance) for every step.
    - ``independent``: the video enters as pure noise at ``video_sigma``, in training and at rollout alike, so that the
      features depend on the current frames only. One pass serves every action step, and features can be cached.
      ``video_steps`` denoises the video a little first; ``video_noise`` draws the level anew for every window.

    Logs ``train/loss``; on validation ``val/loss`` at fixed noise levels and, from sampled actions of the first batch,
    ``val/action_error`` (mean absolute error in the demos' units) and ``val_action_error/step_<k>`` along the horizon.

    Args:
        video: The video model; its weights come from the handoff.
        adapter: Makes the adapter from tap shapes, views, frames and embedding size.
        action_unet: Makes the action U-Net from action size, horizon, conditioning size and embedding size.
        taps: Feature taps to read, by position over the U-Net's input and output blocks.
        noise_levels: `shared` or `independent`, see above.
        video_sigma: Noise level of the features where the levels are independent.
        video_noise: Distribution of that level in training, so that one network serves several `video_sigma` at
            rollout; None keeps it at `video_sigma`. Validation and rollouts always use `video_sigma`.
        video_steps: Euler steps from pure noise at `video_sigma` down to `video_sigma_end` before the pass that the
            features are read from: n + 1 U-Net passes. 0 reads the first pass (independent levels only).
        video_sigma_end: Level of the features where `video_steps` is not 0.
        action_draws: Noise levels and noises drawn of each window's actions in a training step; they share one
            computation of the features and one pass of the adapter (independent levels only).
        standardize_features: Shift and scale features to zero mean and unit variance a channel, with statistics
            measured on the training windows (independent levels only).
        optimizer: Called with the parameters of adapter and action U-Net.
        lr_scheduler: Called with the optimizer, stepped after every optimizer step.
        adapter_lr_scale: Factor on the optimizer's rate for the adapter (paper: 5).
        action_lr_scale: The same for the action U-Net.
        noise: Distribution of the action's (or shared) noise level in training.
        condition_dropout: As in stage 1.
        dropout_scope: As in stage 1.
        action_weight: Factor on the loss that is trained; None is the actions' share of the rows, A / (F + A), as the
            published loss has it (32/57). Adam divides a constant factor out again, but for its epsilon of 1e-8 and
            for half precision, so 1 and None train all but the same. What is logged stays unweighted.
        mask_padding: Leave padded action steps out of the loss (paper: they count).
        sampler: How actions, and with shared levels videos, are sampled.
        video_sampler: How a rollout's predicted videos are sampled where the levels are independent.
        val_sigmas: Noise levels of the validation loss.
        num_predicted: Windows whose actions are sampled in a validation epoch, rounded up to equally many a rank.
    """

    def __init__(
        self,
        video: VideoModel,
        adapter: AdapterFactory = CNNAdapter,
        action_unet: ActionUNetFactory = ActionUNet,
        taps: Sequence[int] = (9, 13, 16, 19, 22),
        noise_levels: Literal["shared", "independent"] = "shared",
        video_sigma: float = 20.0,
        video_noise: LogNormalNoise | None = None,
        video_steps: int = 0,
        video_sigma_end: float = 1.0,
        action_draws: int = 1,
        standardize_features: bool = False,
        optimizer: OptimizerCallable = adam_1e5,
        lr_scheduler: LRSchedulerCallable | None = None,
        adapter_lr_scale: float = 5.0,
        action_lr_scale: float = 5.0,
        noise: LogNormalNoise | None = None,
        condition_dropout: float = 0.1,
        dropout_scope: DropoutScope = "frame",
        action_weight: float | None = 1.0,
        mask_padding: bool = False,
        sampler: Sampler | None = None,
        video_sampler: Sampler | None = None,
        val_sigmas: Sequence[float] = (0.1, 0.5, 2.0, 10.0),
        num_predicted: int = 32,
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
        if action_weight is not None and action_weight <= 0:
            raise NetworkError(
                f"model.init_args.action_weight is {action_weight}; it must be positive, or null for the actions' "
                "share of the rows."
            )
        video.freeze()
        self.noise_levels = noise_levels
        self.video_sigma = video_sigma
        self.video_noise = video_noise
        self.video_steps = video_steps
        self.video_sigma_end = video_sigma_end
        self.action_draws = action_draws
        self.standardize_features = standardize_features
        self.action_weight = action_weight
        self.video_sampler = video_sampler or self.sampler
        self.val_sigmas = tuple(val_sigmas)
        self.num_predicted = num_predicted
        self.standardizer: FeatureStandardizer | None = None
        self.require_consistent_levels()

    def require_consistent_levels(self) -> None:
        """Fail where the settings of the video's noise level contradict one another.

        Raises:
            NetworkError: Something that only `independent` levels have is set with `shared` ones, a number is out of
                range, or features whose level changes are to be standardised or denoised.
        """
        self._require_independent_levels_for_their_settings()
        if self.action_draws < 1 or self.video_steps < 0 or self.video_sigma <= 0:
            raise NetworkError(
                f"model.init_args: action_draws {self.action_draws}, video_steps {self.video_steps}, video_sigma "
                f"{self.video_sigma}; needed are action_draws >= 1, video_steps >= 0 and video_sigma > 0."
            )
        if self.video_steps and not 0 < self.video_sigma_end < self.video_sigma:
            raise NetworkError(
                f"model.init_args.video_sigma_end is {self.video_sigma_end}; with video_steps {self.video_steps} it "
                f"must lie between 0 and video_sigma {self.video_sigma}."
            )
        if self.video_noise is not None and (self.video_steps or self.standardize_features):
            other = "video_steps" if self.video_steps else "standardize_features"
            raise NetworkError(
                f"model.init_args.video_noise draws the level of the features, and {other} needs a fixed one; set "
                "video_noise: null, or video_steps: 0 and standardize_features: false."
            )

    def _require_independent_levels_for_their_settings(self) -> None:
        settings = {
            "standardize_features": self.standardize_features,
            "action_draws": self.action_draws > 1,
            "video_steps": self.video_steps != 0,
            "video_noise": self.video_noise is not None,
        }
        if self.noise_levels == "shared" and (used := [name for name, is_set in settings.items() if is_set]):
            raise NetworkError(
                f"model.init_args.{used[0]} is set with noise_levels: shared; features change with the action's noise "
                f"level there. Leave {used[0]} out or set noise_levels: independent."
            )

    def attach(self, preprocessing: Preprocessing) -> None:
        """Add the standardizer to what is built for the data."""
        super().attach(preprocessing)
        if self.standardize_features and self.standardizer is None:
            self.standardizer = FeatureStandardizer([shape.channels for shape in self.tap_shapes()])

    # --- features of the frozen network ---------------------------------------------------------------------------

    @torch.no_grad()
    def imagine(self, conditioning: Conditioning, sigma: Tensor | None = None) -> tuple[Features, Tensor]:
        """Features of the film that begins as pure noise, and the embedding (B, E) of the level they are read at.

        Every window and every replan sees the same noise draw, so the features depend on the conditions alone.

        Args:
            conditioning: Conditions of B samples.
            sigma: Levels (B,) of the pure noise; None is `video_sigma`. Without effect on `video_steps`.
        """
        noise = self.fixed_noise(len(conditioning))
        if self.video_steps:
            features, emb = self._partly_denoised_features(conditioning, noise)
        else:
            level = self.video_sigma if sigma is None else sigma
            features, emb = self.video.imagine_features(conditioning, level, noise, self.taps)
        return self._standardized(features), emb

    def _standardized(self, features: Features) -> Features:
        return features if self.standardizer is None else self.standardizer(features)

    def _partly_denoised_features(self, conditioning: Conditioning, noise: Tensor) -> tuple[Features, Tensor]:
        """Features of the pass that follows `video_steps` Euler steps, spaced as a sampler spaces them."""
        levels = self.feature_levels()
        first = noise.new_full((len(noise),), levels[0])
        start = self.video.preconditioning.pure_noise(noise, first, conditioning.anchor)
        noisy = partly_denoised(lambda x, sigma: self.video.denoise(x, sigma, conditioning), start, levels)
        return self.video.features(noisy, noise.new_full((len(noise),), levels[-1]), conditioning, self.taps)

    def feature_levels(self) -> list[float]:
        """Levels of the video network's passes for the features; they are read from the last."""
        if not self.video_steps:
            return [self.video_sigma]
        path = Sampler(self.video_steps + 1, self.video_sigma, self.video_sigma_end, self.video_sampler.rho)
        levels: list[float] = path.sigmas()[:-1].tolist()
        return levels

    @property
    def uses_future_frames(self) -> bool:
        """Whether frames after the current one are looked at; the datamodule reads none if not."""
        return self.noise_levels == "shared"

    def fixed_noise(self, batch_size: int) -> Tensor:
        """The one noise draw, repeated (B, F, c, h, w): a constant of every policy, so it must never change."""
        shape = self.video.latent_shape(self.data.image_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device).expand(batch_size, *shape)

    @torch.no_grad()
    def batch_features(self, batch: Batch) -> tuple[Features, Tensor]:
        """Features of a batch from the cache where there is one, else from the video network."""
        if batch.features is not None:
            features = [feature.to(self.device, torch.float32) for feature in batch.features]
            sigma = torch.full((len(batch),), self.feature_levels()[-1], device=self.device)
            return self._standardized(features), self.video.level_embedding(sigma)
        conditioning = self.conditioning(batch)
        if not self.training:
            return self.imagine(conditioning)
        drawn = None if self.video_noise is None else self.video_noise.sample(len(batch), device=self.device)
        return self.imagine(self.drop(conditioning), drawn)

    @torch.no_grad()
    def true_video_features(self, batch: Batch, sigma: Tensor) -> tuple[Features, Tensor]:
        """Features of the true video noised to the action's level (shared levels)."""
        conditioning = self.conditioning(batch)
        latents = self.true_latents(batch)
        if self.training:
            conditioning = self.drop(conditioning)
            noise = torch.randn_like(latents)
        else:
            noise = seeded_noise(latents.shape[1:], batch.windows.tolist(), "video", latents.device)
        noisy = latents + sigma.view(-1, 1, 1, 1, 1) * noise
        return self.video.features(noisy, sigma, conditioning, self.taps)

    # --- training and validation --------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Denoise action chunks; gradients reach the adapter and the action U-Net only."""
        sigma = self.noise.sample(self.action_draws * len(batch), device=self.device)
        loss = self.loss(batch, sigma, torch.randn_like(batch.actions.repeat(self.action_draws, 1, 1)))
        self.log_batch({"train/loss": loss}, batch, train=True)
        return self.loss_weight * loss

    @property
    def loss_weight(self) -> float:
        """Factor on the loss that is trained."""
        if self.action_weight is not None:
            return self.action_weight
        return self.data.action_horizon / (self.video.num_rows + self.data.action_horizon)

    def loss(self, batch: Batch, sigma: Tensor, noise: Tensor) -> Tensor:
        """Weighted denoising error of the action chunk, mean over draws, steps and dimensions.

        Args:
            batch: B windows.
            sigma: Noise levels (K * B,): the first draw of every window, then the second, and so on.
            noise: Unit noise (K * B, A, D).
        """
        draws = len(sigma) // len(batch)
        actions = batch.actions.repeat(draws, 1, 1)
        noisy = actions + sigma.view(-1, 1, 1) * noise
        if self.noise_levels == "independent":
            features, emb = self.batch_features(batch)
        else:
            features, emb = self.true_video_features(batch, sigma)
        denoised = self.network.denoise_action(noisy, sigma, features, emb)
        weight = self.network.action_loss_weight(sigma).view(-1, 1)
        rows = weight * (denoised - actions).square().mean(dim=-1)  # (K * B, A)
        return self.mean_action_loss(rows.unflatten(0, (draws, len(batch))).mean(dim=0), batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss at fixed levels with draws named by the window; errors of actions sampled for the first windows."""
        if not len(batch):  # no demo is held out, but rollouts hang on the validation
            return
        noise = seeded_noise(batch.actions.shape[1:], batch.windows.tolist(), "action", self.device)
        losses = [self.loss(batch, batch.actions.new_full((len(batch),), level), noise) for level in self.val_sigmas]
        self.log_batch({"val/loss": torch.stack(losses).mean()}, batch)
        if (part := self.to_predict(batch)) is not None:
            self._log_sampled(part)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Test as validation does."""
        self.validation_step(batch, batch_idx)

    def _log_sampled(self, batch: Batch) -> None:
        seeds = batch.windows.tolist()
        if batch.features is not None:
            actions = self.sample_from_features(*self.batch_features(batch), seeds)
        else:
            actions, _ = self.sample(self.conditioning(batch), seeds)
        self.log_action_error(actions, batch)

    # --- sampling -----------------------------------------------------------------------------------------------

    def sample(
        self, conditioning: Conditioning, seeds: Sequence[int], filmed: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Sample in the way that `noise_levels` says; with independent levels a video costs passes of its own."""
        if self.noise_levels == "shared":
            return super().sample(conditioning, seeds, filmed)
        actions = self.sample_independently(conditioning, seeds)
        if not filmed:
            return actions, None
        noise, its_seeds = self.fixed_noise(len(filmed)), [seeds[index] for index in filmed]
        return actions, self.video.predict_video(conditioning[list(filmed)], self.video_sampler, noise, its_seeds)

    @torch.no_grad()
    def sample_independently(self, conditioning: Conditioning, seeds: Sequence[int]) -> Tensor:
        """Sample normalised action chunks (B, A, D): one pass of the video network, then the action network's steps."""
        features, emb = self.imagine(conditioning)
        unconditional = None if self.sampler.guidance == 1.0 else self.imagine(conditioning.unconditional())[0]
        return self.sample_from_features(features, emb, seeds, unconditional)

    @torch.no_grad()
    def sample_from_features(
        self, features: Features, emb: Tensor, seeds: Sequence[int], unconditional: Features | None = None
    ) -> Tensor:
        """Sample normalised action chunks (B, A, D) from features that are there already."""
        noise = seeded_noise((self.data.action_horizon, self.data.action_dim), seeds, "action", self.device)
        return self.network.sample_actions(features, emb, noise, self.sampler, unconditional, seeds)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def policy_config(self) -> dict[str, Any]:
        """Add where the features come from."""
        return super().policy_config() | {
            "video_sampler": config_of(self.video_sampler),
            "noise_levels": self.noise_levels,
            "video_sigma": self.video_sigma,
            "video_steps": self.video_steps,
            "video_sigma_end": self.video_sigma_end,
            "standardize_features": self.standardize_features,
        }
