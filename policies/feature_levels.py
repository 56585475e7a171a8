"""At which noise level of the video an action head reads the video network's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from files.errors import UserError
from networks import Conditioning, LogNormalNoise, Sampler, TapShape, VideoModel, describe

FORMER_ARGUMENTS = {  # of ActionStage before version 0.2, and how the same is said now
    "noise_levels": "features: {class_path: SharedLevels} or FixedLevel",
    "standardize_features": "features: {class_path: FixedLevel, init_args: {standardize: true}}",
    "action_draws": "features: {class_path: FixedLevel, init_args: {draws: ...}}",
    "video_sigma": "features: {class_path: FixedLevel, init_args: {sigma: ...}}",
    "video_steps": "features: {class_path: FixedLevel, init_args: {steps: ...}}",
    "video_sigma_end": "features: {class_path: FixedLevel, init_args: {sigma_end: ...}}",
    "video_noise": "features: {class_path: RandomLevel, init_args: {noise: ...}}",
}


class FeatureLevels:
    """Base of the variants, which an experiment names under ``model.init_args.features``.

    Attributes:
        draws: Noise levels and noises drawn of each window's actions in a training step.
    """

    draws: int = 1

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments: the attributes of the same names."""
        return describe(self, vars(self))


class SharedLevels(FeatureLevels):
    """Video and action have one noise level (the paper).

    Training noises the true video to the action's level; sampling denoises video and action together, one pass of the
    video U-Net (two with guidance) for every step.
    """


class FixedLevel(FeatureLevels):
    """The video enters as pure noise at one level, in training and at rollout alike.

    The features then depend on the current frames only: one pass serves every action step, and features can be cached.

    Args:
        sigma: Noise level of the video.
        steps: Euler steps from pure noise at `sigma` down to `sigma_end` before the pass that the features are read
            from: n + 1 U-Net passes. 0 reads the first pass.
        sigma_end: Level of the features where `steps` is not 0.
        draws: Noise levels and noises drawn of each window's actions in a training step; they share one computation of
            the features and one pass of the adapter.
        standardize: Shift and scale features to zero mean and unit variance a channel, with statistics measured on the
            training windows.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(
        self,
        sigma: float = 20.0,
        steps: int = 0,
        sigma_end: float = 1.0,
        draws: int = 1,
        standardize: bool = False,
    ) -> None:
        _require_in_range(sigma, draws)
        if steps < 0 or (steps and not 0 < sigma_end < sigma):
            raise UserError(
                f"model.init_args.features: steps {steps}, sigma_end {sigma_end}, sigma {sigma}; needed are steps >= 0 "
                "and, with steps, 0 < sigma_end < sigma."
            )
        self.sigma = sigma
        self.steps = steps
        self.sigma_end = sigma_end
        self.draws = draws
        self.standardize = standardize

    def path(self, rho: float) -> list[float]:
        """Levels of the video network's passes, descending and spaced as a sampler spaces them; read from the last."""
        if not self.steps:
            return [self.sigma]
        levels: list[float] = Sampler(self.steps + 1, self.sigma, self.sigma_end, rho).sigmas()[:-1].tolist()
        return levels


class ObservationFeatures(FixedLevel):
    """What the video network is given, in place of what it says: a control that has no video network.

    The autoencoder's latents of each camera's current frame, with the instruction's embedding beside every pixel, are
    brought to the size of every tap and repeated for every frame, so that adapter and action head stay as they are. A
    smaller tap has the latents of several pixels as channels of one, so nothing is lost.

    Args:
        sigma: Level whose embedding the adapter is given.
        draws: As `FixedLevel`.
        standardize: As `FixedLevel`.
    """

    def __init__(self, sigma: float = 20.0, draws: int = 1, standardize: bool = False) -> None:
        super().__init__(sigma, draws=draws, standardize=standardize)

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, {name: getattr(self, name) for name in ("sigma", "draws", "standardize")})

    def shapes(self, video: VideoModel, taps: Sequence[TapShape], image_size: int) -> list[TapShape]:
        """Shapes of the features in place of those of the video network's taps."""
        channels, words = video.autoencoder.latent_channels, video.text_encoder.embed_dim
        size = video.latent_size(image_size)
        folded = [channels * _fold(size, tap) ** 2 + words for tap in taps]
        return [TapShape(width, tap.height, tap.width) for width, tap in zip(folded, taps, strict=True)]

    def read(self, video: VideoModel, conditioning: Conditioning, taps: Sequence[TapShape]) -> list[Tensor]:
        """Features (B, V, T, C, h, w), one a tap."""
        latents = video.views(conditioning.latents)  # (B, V, T, c, h, w)
        text = video.views(conditioning.context)[..., 0, :, None, None].to(latents)  # (B, V, T, D, 1, 1)
        features = []
        for tap in taps:
            size = (tap.height, tap.width)
            maps = F.pixel_unshuffle(latents.flatten(0, 2), _fold((latents.shape[-2], latents.shape[-1]), tap))
            maps = F.interpolate(maps, size, mode="area").unflatten(0, latents.shape[:3])
            features.append(torch.cat([maps, text.expand(*text.shape[:-2], *size)], dim=3))
        return features


class RandomLevel(FeatureLevels):
    """As `FixedLevel`, with the level drawn anew for every window of a training step.

    One network then serves several levels at rollout.

    Args:
        noise: Distribution of the level in training.
        sigma: Level in validation and rollouts.
        draws: As `FixedLevel`.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(self, noise: LogNormalNoise, sigma: float = 20.0, draws: int = 1) -> None:
        _require_in_range(sigma, draws)
        self.noise = noise
        self.sigma = sigma
        self.draws = draws

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, {**vars(self), "noise": self.noise.config})


def _fold(size: tuple[int, int], tap: TapShape) -> int:
    """Latents on a side that become one pixel of a tap; 1 where they do not divide, and are averaged or repeated."""
    factor = size[0] // tap.height
    return factor if factor > 0 and (tap.height * factor, tap.width * factor) == size else 1


def _require_in_range(sigma: float, draws: int) -> None:
    if sigma <= 0 or draws < 1:
        raise UserError(f"model.init_args.features: sigma {sigma}, draws {draws}; needed are sigma > 0, draws >= 1.")
