"""Colour jitter on the training device, one draw per camera clip."""

from __future__ import annotations

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

    def __call__(self, frames: Tensor) -> Tensor:
        """Jitter frames (B, V, T, 3, H, W) in [-1, 1]; B * V draws, made where the frames are."""
        jitter = self._transform()
        clips = [jitter(clip) for clip in ((frames + 1) / 2).flatten(0, 1)]
        return (torch.stack(clips) * 2 - 1).view_as(frames)

    def seeded(self, clip: Tensor, seed: int) -> Tensor:
        """Jitter one clip (T, 3, H, W) in [-1, 1] by the draw that belongs to a seed, however the clip is cut."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._transform()((clip + 1) / 2) * 2 - 1  # type: ignore[no-any-return]

    def _transform(self) -> v2.ColorJitter:
        """Torchvision's colour operations, which are defined on [0, 1]."""
        return v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue)


PAPER_JITTER = ColourJitter()
