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
        # torchvision's colour operations are defined on [0, 1]
        jitter = v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue)
        clips = [jitter(clip) for clip in ((frames + 1) / 2).flatten(0, 1)]
        return (torch.stack(clips) * 2 - 1).view_as(frames)


PAPER_JITTER = ColourJitter()
