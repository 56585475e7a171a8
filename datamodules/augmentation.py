"""Colour jitter on the training device, one draw per camera clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2


@dataclass(frozen=True)
class ColourJitter:
    """Change the colours of every camera clip by one random draw, the same for all of its frames.

    The defaults are the paper's. A value r means a factor from [1 - r, 1 + r] (hue: a turn from [-r, r]).
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.05

    def __call__(self, frames: Tensor, seeds: Sequence[int]) -> Tensor:
        """Jitter frames (B, V, T, 3, H, W) in [-1, 1] where they are; a sample's V draws are of its own seed."""
        jitter, clips = self._transform(), []
        with torch.random.fork_rng(devices=[]):
            for sample, seed in zip((frames + 1) / 2, seeds, strict=True):
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed CUDA devices too
                clips.append(torch.stack([jitter(clip) for clip in sample]))
        return torch.stack(clips) * 2 - 1

    def seeded(self, clip: Tensor, seed: int) -> Tensor:
        """Jitter one clip (T, 3, H, W) in [-1, 1] by the draw that belongs to a seed, however the clip is cut."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._transform()((clip + 1) / 2) * 2 - 1  # type: ignore[no-any-return]

    def _transform(self) -> v2.ColorJitter:
        """Torchvision's colour operations, which are defined on [0, 1]."""
        return v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue)


PAPER_JITTER = ColourJitter()
