"""Stage 2: the video network is frozen; a small action head learns to read its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules import Batch, Preprocessing
from lightning_modules.stage import Stage, adam_1e5
from networks import (
    ActionUNet,
    CNNAdapter,
    Conditioning,
    FeatureStandardizer,
    LogNormalNoise,
    NetworkError,
    PolicyModel,
    Sampler,
    TapShape,
    VideoModel,
    config_of,
    seeded_noise,
)

AdapterFactory = Callable[[Sequence[TapShape], int, int, int], CNNAdapter]
ActionUNetFactory = Callable[[int, int, int, int], ActionUNet]
Features = list[Tensor]  # one (B, V, T, C, h, w) a tap, fine to coarse


class ActionStage(Stage):
    """Train the adapter and the action U-Net on features of the frozen video U-Net.

    Two ways to choose the noise level of the video that the features are read from:

    - ``shared`` (the paper): video and action have one noise level. Training noises the true video; sampling
      denoises video and action together, one pass of the video U-Net (two with guidance) for every step.
    - ``independent``: the video enters as pure noise at ``video_sigma``, in training and at rollout alike, so that the
      features depend on the current frames only. One pass serves every action step, and features can be cached.

    Logs ``train/loss``; on validation ``val/loss`` at fixed noise levels and, from sampled actions of the first batch,
    ``val/action_error`` (mean absolute error in the demos' units) and ``val_action_error/step_<k>`` along the horizon.

    Args:
        video: The video model; its weights come from the handoff.
        adapter: Makes the adapter from tap shapes, views, frames and embedding size.
        action_unet: Makes the action U-Net from action size, horizon, conditioning size and embedding size.
        taps: Feature taps to read, by position over the U-Net's input and output blocks.
        noise_levels: `shared` or `independent`, see above.
        video_sigma: Noise level of the features where the levels are independent.
        standardize_features: Shift and scale features to zero mean and unit variance a channel, with statistics
            measured on the training windows (independent levels only).
        optimizer: Called with the parameters of adapter and action U-Net.
        lr_scheduler: Called with the optimizer, stepped after every optimizer step.
        adapter_lr_scale: Factor on the optimizer's rate for the adapter (paper: 5).
        action_lr_scale: The same for the action U-Net.
        noise: Distribution of the action's (or shared) noise level in training.
        condition_dropout: As in stage 1.
        mask_padding: Leave padded action steps out of the loss (paper: they count).
        sampler: How actions, and with shared levels videos, are sampled.
        video_sampler: How a rollout's predicted videos are sampled where the levels are independent.
        val_sigmas: Noise levels of the validation loss.
        num_predicted: Windows whose actions are sampled in a validation epoch.
    """

    def __init__(
        self,
        video: VideoModel,
        adapter: AdapterFactory = CNNAdapter,
        action_unet: ActionUNetFactory = ActionUNet,
        taps: Sequence[int] = (9, 13, 16, 19, 22),
        noise_levels: Literal["shared", "independent"] = "shared",
        video_sigma: float = 20.0,
        standardize_features: bool = False,
        optimizer: OptimizerCallable = adam_1e5,
        lr_scheduler: LRSchedulerCallable | None = None,
        adapter_lr_scale: float = 5.0,
        action_lr_scale: float = 5.0,
        noise: LogNormalNoise | None = None,
        condition_dropout: float = 0.1,
        mask_padding: bool = False,
        sampler: Sampler | None = None,
        video_sampler: Sampler | None = None,
        val_sigmas: Sequence[float] = (0.1, 0.5, 2.0, 10.0),
        num_predicted: int = 32,
    ) -> None:
        super().__init__(video, optimizer, lr_scheduler)
        if standardize_features and noise_levels == "shared":
            raise NetworkError(
                "model.init_args.standardize_features is true with noise_levels: shared; features change with the "
                "noise level there. Set standardize_features: false or noise_levels: independent."
            )
        video.freeze()
        self.taps = tuple(taps)
        self.noise_levels = noise_levels
        self.video_sigma = video_sigma
        self.standardize_features = standardize_features
        self.lr_scales = (adapter_lr_scale, action_lr_scale)
        self.noise = noise or LogNormalNoise()
        self.condition_dropout = condition_dropout
        self.mask_padding = mask_padding
        self.sampler = sampler or Sampler()
        self.video_sampler = video_sampler or self.sampler
        self.val_sigmas = tuple(val_sigmas)
        self.num_predicted = num_predicted
        self._factories = (adapter, action_unet)
        self._network: tuple[PolicyModel, ...] = ()  # in a tuple, or every weight would be registered twice
        self.standardizer: FeatureStandardizer | None = None
        self.cached_features: Callable[[Tensor, bool], Features] | None = None  # set by the FeatureCache callback

    def attach(self, preprocessing: Preprocessing) -> None:
        """Build adapter and action U-Net for the data's cameras, frames, image size and actions."""
        super().attach(preprocessing)
        if self._network:
            return
        unet = self.video.unet
        available = unet.tap_shapes(self.video.latent_size(preprocessing.image_size))
        if unknown := sorted(set(self.taps) - set(available)):
            raise NetworkError(
                f"model.init_args.taps: no tap {unknown} in this U-Net; it has {sorted(available)}. Choose among these."
            )
        shapes = [available[tap] for tap in sorted(self.taps, reverse=True)]  # fine to coarse
        make_adapter, make_action_unet = self._factories
        adapter = make_adapter(shapes, preprocessing.num_views, preprocessing.num_frames, unet.emb_dim)
        action_unet = make_action_unet(
            preprocessing.action_dim, preprocessing.action_horizon, adapter.cond_dim, unet.emb_dim
        )
        self.adapter, self.action_unet = adapter, action_unet
        self._network = (PolicyModel(self.video, adapter, action_unet, self.taps),)
        if self.standardize_features:
            self.standardizer = FeatureStandardizer([shape.channels for shape in shapes])

    @property
    def network(self) -> PolicyModel:
        """The joint network; only valid once attached."""
        assert self._network, "configure_model or attach comes first"
        return self._network[0]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Adapter and action U-Net; the frozen video network gets no optimizer state."""
        modules = (self.network.adapter, self.network.action_unet)
        return [
            {"params": list(module.parameters()), "lr_scale": scale}
            for module, scale in zip(modules, self.lr_scales, strict=True)
        ]

    # --- features of the frozen network ---------------------------------------------------------------------------

    @torch.no_grad()
    def imagine(self, conditioning: Conditioning) -> tuple[Features, Tensor]:
        """Features of one pass over pure noise at `video_sigma`, and the embedding of that level (B, E).

        Every window and every replan sees the same noise draw, so the features depend on the conditions alone.
        """
        noise = self.fixed_noise(len(conditioning))
        features, emb = self.video.imagine_features(conditioning, self.video_sigma, noise, self.taps)
        return (self.standardizer(features) if self.standardizer is not None else features), emb

    def fixed_noise(self, batch_size: int) -> Tensor:
        """The one noise draw, repeated (B, F, c, h, w)."""
        shape = self.video.latent_shape(self.data.image_size)
        return seeded_noise(shape, [0], self.device).expand(batch_size, *shape)

    @torch.no_grad()
    def batch_features(self, batch: Batch) -> tuple[Features, Tensor]:
        """Features of a batch from the cache where there is one, else from the video network."""
        if self.cached_features is not None:
            sigma = torch.full((len(batch),), self.video_sigma, device=self.device)
            return self.cached_features(batch.windows, self.training), self.video.level_embedding(sigma)
        conditioning = self.conditioning(batch)
        return self.imagine(conditioning.dropout(self.condition_dropout) if self.training else conditioning)

    @torch.no_grad()
    def true_video_features(self, batch: Batch, sigma: Tensor) -> tuple[Features, Tensor]:
        """Features of the true video noised to the action's level (shared levels)."""
        conditioning = self.conditioning(batch)
        latents = self.video.encode(batch.frames)
        if self.training:
            conditioning = conditioning.dropout(self.condition_dropout)
            noise = torch.randn_like(latents)
        else:
            noise = seeded_noise(latents.shape[1:], batch.windows.tolist(), latents.device)
        noisy = latents + sigma.view(-1, 1, 1, 1, 1) * noise
        return self.video.features(noisy, sigma, conditioning, self.taps)

    # --- training and validation --------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Denoise action chunks; gradients reach the adapter and the action U-Net only."""
        sigma = self.noise.sample(len(batch), device=self.device)
        loss = self.loss(batch, sigma, torch.randn_like(batch.actions))
        self.log_batch({"train/loss": loss}, batch, train=True)
        return loss

    def loss(self, batch: Batch, sigma: Tensor, noise: Tensor) -> Tensor:
        """Weighted denoising error of the action chunk, mean over steps and dimensions.

        Args:
            batch: The batch.
            sigma: Noise levels (B,).
            noise: Unit noise (B, A, D).
        """
        noisy = batch.actions + sigma.view(-1, 1, 1) * noise
        if self.noise_levels == "independent":
            features, emb = self.batch_features(batch)
        else:
            features, emb = self.true_video_features(batch, sigma)
        denoised = self.network.denoise_action(noisy, sigma, features, emb)
        weight = self.network.action_loss_weight(sigma).view(-1, 1)
        rows = weight * (denoised - batch.actions).square().mean(dim=-1)  # (B, A)
        if not self.mask_padding:
            return rows.mean()
        real = (~batch.action_is_pad).float()
        return (rows * real).sum() / real.sum().clamp(min=1.0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss at fixed levels with noise seeded by window; errors of sampled actions in the first batch."""
        noise = seeded_noise(batch.actions.shape[1:], batch.windows.tolist(), self.device)
        losses = [self.loss(batch, batch.actions.new_full((len(batch),), level), noise) for level in self.val_sigmas]
        self.log_batch({"val/loss": torch.stack(losses).mean()}, batch)
        if batch_idx == 0 and self.num_predicted:
            self._log_action_error(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Test as validation does."""
        self.validation_step(batch, batch_idx)

    def _log_action_error(self, batch: Batch) -> None:
        part = _first(batch, min(self.num_predicted, len(batch)))
        seeds = part.windows.tolist()
        if self.noise_levels == "shared":
            actions, _ = self.sample_jointly(self.conditioning(part), seeds)
        elif self.cached_features is not None:
            actions = self.sample_from_features(*self.batch_features(part), seeds)
        else:
            actions = self.sample_independently(self.conditioning(part), seeds)
        predicted, true = (self.data.denormalize_actions(value.float()) for value in (actions, part.actions))
        real = (~part.action_is_pad).float()
        error = ((predicted - true).abs().mean(dim=-1) * real).sum(dim=0) / real.sum(dim=0).clamp(min=1.0)
        self.log_batch({"val/action_error": error.mean()}, part)
        self.log_batch({f"val_action_error/step_{step:02d}": value for step, value in enumerate(error)}, part)

    # --- sampling -----------------------------------------------------------------------------------------------

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
        noise = seeded_noise((self.data.action_horizon, self.data.action_dim), seeds, self.device)
        return self.network.sample_actions(features, emb, noise, self.sampler, unconditional)

    @torch.no_grad()
    def sample_jointly(self, conditioning: Conditioning, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Denoise action chunk (B, A, D) and video latents (B, F, c, h, w) together (the paper)."""
        action_shape = (self.data.action_horizon, self.data.action_dim)
        video_noise = seeded_noise(self.video.latent_shape(self.data.image_size), seeds, self.device)
        action_noise = seeded_noise(action_shape, [seed + 1 for seed in seeds], self.device)
        video, action = self.network.sample(conditioning, video_noise, action_noise, self.sampler)
        return action, video

    # --- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add how to build the policy without the experiment file."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["policy"] = self.policy_config()

    def policy_config(self) -> dict[str, Any]:
        """Plain description of the networks and of sampling, read by `load_policy`."""
        parts = {
            "video": self.video,
            "adapter": self.network.adapter,
            "action_unet": self.network.action_unet,
            "sampler": self.sampler,
            "video_sampler": self.video_sampler,
        }
        return {name: config_of(part) for name, part in parts.items()} | {
            "taps": list(self.taps),
            "noise_levels": self.noise_levels,
            "video_sigma": self.video_sigma,
            "standardize_features": self.standardize_features,
        }


def _first(batch: Batch, count: int) -> Batch:
    tensors = {
        name: getattr(batch, name)[:count] for name in ("frames", "actions", "action_is_pad", "frame_is_pad", "windows")
    }
    return Batch(**tensors, instructions=batch.instructions[:count])
