"""The method: an action head that reads the features of a video generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datamodules import Batch, Observations, Preprocessing
from files.errors import UserError
from networks import (
    ActionUNet,
    CNNAdapter,
    Conditioning,
    FeatureStandardizer,
    JointDenoiser,
    LogNormalNoise,
    Sampler,
    TapShape,
    VideoModel,
    config_of,
    describe,
    seeded_noise,
)
from networks.conditioning import DropoutScope
from networks.noise import partly_denoised
from policies.feature_levels import FeatureLevels, FixedLevel, ObservationFeatures, RandomLevel, SharedLevels
from policies.policy import Policy, mean_action_loss
from policies.video_inputs import conditioning_of, draw_seeds, latents_of, require_fit

NETWORK_KEYS = ("video", "adapter", "action_unet", "taps")  # of the config: what weights depend on
AdapterFactory = Callable[[Sequence[TapShape], int, int, int], CNNAdapter]
ActionUNetFactory = Callable[[int, int, int, int], ActionUNet]
Features = list[Tensor]  # one (B, V, T, C, h, w) a tap, fine to coarse


class VideoPolicy(Policy):
    """Video model, adapter on its features, action U-Net; the video model is frozen before the head is trained.

    Args:
        video: The video model.
        adapter: Makes the adapter from tap shapes, views, frames and embedding size; or the adapter.
        action_unet: Makes the action U-Net from action size, horizon, conditioning size and embedding size; or it.
        taps: Feature taps to read, by position over the U-Net's input and output blocks.
        features: At which noise level of the video the features are read; None is `SharedLevels` (the paper).
        noise: Distribution of the action's (or shared) noise level in training.
        condition_dropout: Chance that a frame's text, and independently its condition latents, is dropped in training.
        dropout_scope: ``frame`` (the paper) or ``sample``, see `Conditioning.dropout`.
        action_weight: Factor on the loss that is trained; None is the actions' share of the rows, A / (F + A), as the
            published loss has it (32/57). Adam divides a constant factor out again, but for its epsilon of 1e-8 and
            for half precision, so 1 and None train all but the same. What is logged stays unweighted.
        mask_padding: Leave padded action steps out of the loss (paper: they count).
        adapter_lr_scale: Factor on the optimizer's rate for the adapter (paper: 5).
        action_lr_scale: The same for the action U-Net.
        sampler: How actions, and with shared levels videos, are sampled.
        video_sampler: How a rollout's predicted videos are sampled where the levels are not shared; None is `sampler`.
        val_sigmas: Noise levels of the validation loss.

    Raises:
        UserError: A value is out of range.
    """

    def __init__(
        self,
        video: VideoModel,
        adapter: AdapterFactory = CNNAdapter,
        action_unet: ActionUNetFactory = ActionUNet,
        taps: Sequence[int] = (9, 13, 16, 19, 22),
        features: FeatureLevels | None = None,
        noise: LogNormalNoise | None = None,
        condition_dropout: float = 0.1,
        dropout_scope: DropoutScope = "frame",
        action_weight: float | None = 1.0,
        mask_padding: bool = False,
        adapter_lr_scale: float = 5.0,
        action_lr_scale: float = 5.0,
        sampler: Sampler | None = None,
        video_sampler: Sampler | None = None,
        val_sigmas: Sequence[float] = (0.1, 0.5, 2.0, 10.0),
    ) -> None:
        super().__init__()
        if action_weight is not None and action_weight <= 0:
            raise UserError(
                f"model.init_args.action_weight is {action_weight}; it must be positive, or null for the actions' "
                "share of the rows."
            )
        self.video = video
        self.taps = tuple(taps)
        self.features: FeatureLevels = features or SharedLevels()
        self.noise = noise or LogNormalNoise()
        self.condition_dropout = condition_dropout
        self.dropout_scope: DropoutScope = dropout_scope
        self.action_weight = action_weight
        self.mask_padding = mask_padding
        self.lr_scales = (adapter_lr_scale, action_lr_scale)
        self.sampler = sampler or Sampler()
        self.video_sampler = video_sampler or self.sampler
        self.val_sigmas = tuple(val_sigmas)
        self.standardizer: FeatureStandardizer | None = None
        self.denoiser: JointDenoiser | None = None
        self._factories = (adapter, action_unet)  # in a tuple: what is a network is registered by `attach`

    def attach(self, preprocessing: Preprocessing) -> None:
        """Build adapter and action U-Net for the data's cameras, frames, image size and actions.

        Raises:
            UserError: The number of cameras or frames is not the video model's.
            UserError: The U-Net has no such tap, or a part does not fit another.
        """
        require_fit(self.video, preprocessing)
        super().attach(preprocessing)
        if self.denoiser is not None:
            return
        shapes, emb_dim = self.tap_shapes(), self.video.unet.emb_dim
        adapter: Any = self._factories[0]
        if not isinstance(adapter, nn.Module):
            adapter = adapter(shapes, preprocessing.num_views, preprocessing.num_frames, emb_dim)
        action_unet: Any = self._factories[1]
        if not isinstance(action_unet, nn.Module):
            sizes = (preprocessing.action_dim, preprocessing.action_horizon, adapter.cond_dim, emb_dim)
            action_unet = action_unet(*sizes)
        self.adapter, self.action_unet = adapter, action_unet
        channels = [shape.channels for shape in shapes]
        self.denoiser = JointDenoiser(self.video, adapter, action_unet, self.taps, channels=channels)
        if isinstance(self.features, FixedLevel) and self.features.standardize:
            self.standardizer = FeatureStandardizer(channels)

    def tap_shapes(self) -> list[TapShape]:
        """Channels and sizes of the features that are read, fine to coarse.

        Raises:
            UserError: The U-Net has no such tap.
        """
        available = self.video.unet.tap_shapes(self.video.latent_size(self.data.image_size))
        if unknown := sorted(set(self.taps) - set(available)):
            raise UserError(
                f"model.init_args.taps: no tap {unknown} in this U-Net; it has {sorted(available)}. Choose among these."
            )
        shapes = [available[tap] for tap in sorted(self.taps, reverse=True)]
        if isinstance(self.features, ObservationFeatures):
            return self.features.shapes(self.video, shapes, self.data.image_size)
        return shapes

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments, networks included."""
        parts = ("video", "adapter", "action_unet")
        more = ("features", "sampler", "video_sampler")
        described = {name: config_of(getattr(self, name)) for name in parts} | {"taps": list(self.taps)}
        return describe(self, described | {name: config_of(getattr(self, name)) for name in more})

    def network_config(self) -> dict[str, Any]:
        """The networks, and where they are joined."""
        return {name: value for name, value in super().network_config().items() if name in NETWORK_KEYS}

    @property
    def needs_future_frames(self) -> bool:  # type: ignore[override]
        """Whether the features are of the true video."""
        return isinstance(self.features, SharedLevels)

    @property
    def loss_weight(self) -> float:  # type: ignore[override]
        """Factor on the loss that is trained."""
        if self.action_weight is not None:
            return self.action_weight
        return self.data.action_horizon / (self.video.num_rows + self.data.action_horizon)

    def networks(self) -> list[nn.Module]:
        """Video U-Net, adapter, action U-Net."""
        return [self.video.unet, self.adapter, self.action_unet]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Adapter and action U-Net, each with its own factor on the learning rate."""
        pairs = zip((self.adapter, self.action_unet), self.lr_scales, strict=True)
        return [{"params": list(module.parameters()), "lr_scale": scale} for module, scale in pairs]

    @property
    def joint(self) -> JointDenoiser:
        """What is computed with the three networks; only valid once attached."""
        assert self.denoiser is not None, "attach comes first"
        return self.denoiser

    # --- conditions and features ----------------------------------------------------------------------------------

    def condition(self, observations: Observations, seeds: Sequence[int]) -> Conditioning:
        """Condition latents and text tokens, see `Policy.condition`."""
        result: Conditioning = self.video.condition(observations.current, observations.instructions, seeds=seeds)
        return result

    def drop(self, conditioning: Conditioning) -> Conditioning:
        """Conditions with some of them dropped, which is what guidance needs at sampling time."""
        return conditioning.dropout(self.condition_dropout, scope=self.dropout_scope)

    @torch.no_grad()
    def features_of_noise(self, conditioning: Conditioning, sigma: Tensor | None = None) -> tuple[Features, Tensor]:
        """Features of a video that begins as pure noise, and the embedding (B, E) of the level they are read at.

        Every window and every replan sees the same noise draw, so the features depend on the conditions alone.

        Args:
            conditioning: Conditions of B samples.
            sigma: Levels (B,) of the pure noise; None is the one of `features`, of which `steps` lead down.
        """
        if isinstance(self.features, ObservationFeatures):
            given = self.features.read(self.video, conditioning, self.tap_shapes())
            levels_given = torch.full((len(conditioning),), self.features.sigma, device=self.device)
            return self._standardized(given), self.video.level_embedding(levels_given)
        levels, noise = self.feature_levels(), self.fixed_noise(len(conditioning))
        if len(levels) == 1:
            level = levels[0] if sigma is None else sigma
            features, emb = self.video.features_of_noise(conditioning, level, noise, self.taps)
        else:
            first = noise.new_full((len(noise),), levels[0])
            start = self.video.preconditioning.pure_noise(noise, first, conditioning.anchor)
            noisy = partly_denoised(lambda x, level: self.video.denoise(x, level, conditioning), start, levels)
            last = noise.new_full((len(noise),), levels[-1])
            features, emb = self.video.features(noisy, last, conditioning, self.taps)
        return self._standardized(features), emb

    def feature_levels(self) -> list[float]:
        """Levels of the video network's passes where levels are not shared; the features are read from the last."""
        if isinstance(self.features, FixedLevel):
            return self.features.path(self.video_sampler.rho)
        assert isinstance(self.features, RandomLevel), "shared levels are the action's"
        return [self.features.sigma]

    def fixed_noise(self, batch_size: int) -> Tensor:
        """The one noise draw, repeated (B, F, c, h, w): a constant of every policy, so it must never change."""
        shape = self.video.latent_shape(self.data.image_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device).expand(batch_size, *shape)

    def _standardized(self, features: Features) -> Features:
        return features if self.standardizer is None else self.standardizer(features)

    @torch.no_grad()
    def batch_features(self, batch: Batch) -> tuple[Features, Tensor]:
        """Features of a batch and their level's embedding: from the cache where there is one, else of pure noise."""
        if batch.features is not None:
            features = [feature.to(self.device, torch.float32) for feature in batch.features]
            sigma = torch.full((len(batch),), self.feature_levels()[-1], device=self.device)
            return self._standardized(features), self.video.level_embedding(sigma)
        conditioning = conditioning_of(self.video, batch, draw_seeds(batch, self.training))
        if not self.training:
            return self.features_of_noise(conditioning)
        is_random = isinstance(self.features, RandomLevel)
        drawn = self.features.noise.sample(len(batch), device=self.device) if is_random else None  # type: ignore[attr-defined]
        return self.features_of_noise(self.drop(conditioning), drawn)

    @torch.no_grad()
    def true_video_features(self, batch: Batch, sigma: Tensor) -> tuple[Features, Tensor]:
        """Features of the true video noised to the action's level (shared levels)."""
        seeds = draw_seeds(batch, self.training)
        conditioning = conditioning_of(self.video, batch, seeds)
        latents = latents_of(self.video, batch, seeds)
        if self.training:
            conditioning = self.drop(conditioning)
            noise = torch.randn_like(latents)
        else:
            noise = seeded_noise(latents.shape[1:], batch.windows.tolist(), "video", latents.device)
        noisy = latents + sigma.view(-1, 1, 1, 1, 1) * noise
        return self.video.features(noisy, sigma, conditioning, self.taps)

    # --- loss -----------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Denoising error of action chunks, in evaluation mode the mean over `val_sigmas`; see `Policy.loss`.

        Gradients reach the adapter and the action U-Net only.
        """
        if self.training:
            draws = self.features.draws
            sigma = self.noise.sample(draws * len(batch), device=self.device)
            noise = torch.randn_like(batch.actions.repeat(draws, 1, 1))
            return {"loss": self.action_loss(batch, sigma, noise)}
        noise = seeded_noise(batch.actions.shape[1:], batch.windows.tolist(), "action", self.device)
        levels = [batch.actions.new_full((len(batch),), level) for level in self.val_sigmas]
        read = None if isinstance(self.features, SharedLevels) else self.batch_features(batch)  # once for all levels
        return {"loss": torch.stack([self.action_loss(batch, sigma, noise, read) for sigma in levels]).mean()}

    def action_loss(
        self, batch: Batch, sigma: Tensor, noise: Tensor, read: tuple[Features, Tensor] | None = None
    ) -> Tensor:
        """Weighted denoising error of the action chunk, mean over draws, steps and dimensions.

        Args:
            batch: B windows.
            sigma: Noise levels (K * B,): the first draw of every window, then the second, and so on.
            noise: Unit noise (K * B, A, D).
            read: The features and their level's embedding, where they are there already.
        """
        draws = len(sigma) // len(batch)
        actions = batch.actions.repeat(draws, 1, 1)
        noisy = actions + sigma.view(-1, 1, 1) * noise
        if read is None:
            shared = isinstance(self.features, SharedLevels)
            read = self.true_video_features(batch, sigma) if shared else self.batch_features(batch)
        features, emb = read
        denoised = self.joint.denoise_action(noisy, sigma, features, emb)
        weight = self.joint.action_loss_weight(sigma).view(-1, 1)
        rows = weight * (denoised - actions).square().mean(dim=-1)  # (K * B, A)
        return mean_action_loss(rows.unflatten(0, (draws, len(batch))).mean(dim=0), batch, self.mask_padding)

    # --- sampling -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        conditioning: Conditioning,
        seeds: Sequence[int],
        pictured: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor | None]:
        """One replan, see `Policy.sample`; unless levels are shared, a predicted video costs passes of its own."""
        chosen = list(pictured)
        if isinstance(self.features, SharedLevels):
            actions, video = self.sample_jointly(conditioning, seeds)
            return actions, self.video.decode(video[chosen]) if chosen else None
        features, emb = self.features_of_noise(conditioning)
        guided = self.sampler.guidance != 1.0
        unconditional = self.features_of_noise(conditioning.unconditional())[0] if guided else None
        actions = self.sample_actions(features, emb, seeds, unconditional)
        return actions, self._video([seeds[index] for index in chosen], conditioning[chosen]) if chosen else None

    def sample_jointly(self, conditioning: Conditioning, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Denoise action chunk (B, A, D) and video latents (B, F, c, h, w) together (the paper)."""
        video_noise = seeded_noise(self.video.latent_shape(self.data.image_size), seeds, "video", self.device)
        noise = self._action_noise(seeds)
        video, actions = self.joint.sample(conditioning, video_noise, noise, self.sampler, seeds)
        return actions, video

    @torch.no_grad()
    def sample_actions(
        self, features: Features, emb: Tensor, seeds: Sequence[int], unconditional: Features | None = None
    ) -> Tensor:
        """Sample normalised action chunks (B, A, D) from features that are there already."""
        noise = self._action_noise(seeds)
        return self.joint.sample_actions(features, emb, noise, self.sampler, unconditional, seeds)

    def sample_batch(self, batch: Batch, pictured: Sequence[int] = ()) -> tuple[Tensor, Tensor | None]:
        """`sample` for the windows of a batch, of which there may be pictures, latents or features."""
        seeds = batch.windows.tolist()
        if batch.features is not None:
            return self.sample_actions(*self.batch_features(batch), seeds), None
        return self.sample(conditioning_of(self.video, batch, seeds), seeds, pictured)

    def _action_noise(self, seeds: Sequence[int]) -> Tensor:
        return seeded_noise((self.data.action_horizon, self.data.action_dim), seeds, "action", self.device)

    def _video(self, seeds: Sequence[int], conditioning: Conditioning) -> Tensor:
        noise = self.fixed_noise(len(seeds))
        return self.video.decode(self.video.predict_video(conditioning, self.video_sampler, noise, seeds))
