"""Noise levels for training, and noise that is the same on every device."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from files.errors import UserError
from networks.component_config import describe
from networks.randomness import generators


class LogNormalNoise:
    """Noise levels of training: ln(sigma) ~ N(mean, std²).

    Args:
        mean: Mean of ln(sigma).
        std: Standard deviation of ln(sigma).
    """

    def __init__(self, mean: float = 1.0, std: float = 1.6) -> None:
        if std < 0:
            raise UserError(f"noise levels: std is {std}; it must be 0 or more.")
        self.mean = mean
        self.std = std

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, {"mean": self.mean, "std": self.std})

    def sample(self, n: int, device: torch.device | str | None = None) -> Tensor:
        """Draw one level a sample, (n,), from torch's global stream."""
        return (self.mean + self.std * torch.randn(n, device=device)).exp()


class ReadLevelNoise(LogNormalNoise):
    """A share of the samples at the one level at which a policy reads features, the rest log-normal.

    For policies of one pass (`FixedLevel`): at their level, where the network sees no trace of the video, log-normal
    levels seldom fall. The rest still teaches the network to sample in many steps.

    Args:
        level: The level that is read; `FixedLevel.video_sigma`.
        share: Of the samples, within [0, 1].
        mean: Mean of ln(sigma) of the rest.
        std: Standard deviation of ln(sigma) of the rest.
    """

    def __init__(self, level: float = 20.0, share: float = 0.5, mean: float = 1.0, std: float = 1.6) -> None:
        super().__init__(mean, std)
        if level <= 0 or not 0 <= share <= 1:
            raise UserError(f"noise levels: level {level}, share {share}; needed are level > 0 and share from 0 to 1.")
        self.level = level
        self.share = share

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, {name: getattr(self, name) for name in ("level", "share", "mean", "std")})

    def sample(self, n: int, device: torch.device | str | None = None) -> Tensor:
        """Draw one level a sample, (n,), from torch's global stream."""
        levels = super().sample(n, device)
        return levels.masked_fill(torch.rand(n, device=device) < self.share, self.level)


def seeded_noise(
    shape: Sequence[int], seeds: Sequence[int], stream: str, device: torch.device | str | None = None
) -> Tensor:
    """Unit Gaussian noise (len(seeds), *shape), each sample from its own seed (see `generators`).

    Args:
        shape: Shape of one sample.
        seeds: One seed a sample.
        stream: What the noise is for: noise of one seed for two things has nothing in common.
        device: Where the result is wanted.
    """
    draws = [torch.randn(*shape, generator=generator) for generator in generators(seeds, stream)]
    return torch.stack(draws).to(device or "cpu")


def partly_denoised(denoise: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, levels: Sequence[float]) -> Tensor:
    """Walk down some noise levels by Euler steps and stop at the last (Karras et al. 2022, algorithm 1 without churn).

    Args:
        denoise: (noisy (B, ...), sigma (B,)) -> clean (B, ...); called once for each level but the last.
        noisy: Data at the first level (B, ...).
        levels: Descending, all above 0.
    """
    for level, following in pairwise(levels):
        clean = denoise(noisy, noisy.new_full((len(noisy),), level))
        noisy = clean + following / level * (noisy - clean)
    return noisy
