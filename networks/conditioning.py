"""What a video is generated from: the current observation and the instruction, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Conditioning:
    """Condition of every video row.

    Attributes:
        latents: Current observation (B, F, c, h, w), concatenated to the noisy latents; 0 where dropped.
        context: Text token (B, F, 1, D); 0 where dropped.
        anchor: The observation's latents again, never dropped: a residual preconditioning is centred on them.
    """

    latents: Tensor
    context: Tensor
    anchor: Tensor

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.latents)

    def __getitem__(self, index: slice | Tensor) -> Conditioning:
        """Some of the samples."""
        return Conditioning(self.latents[index], self.context[index], self.anchor[index])

    def unconditional(self) -> Conditioning:
        """No observation and no instruction, for guidance."""
        return Conditioning(torch.zeros_like(self.latents), torch.zeros_like(self.context), self.anchor)

    def with_unconditional(self) -> Conditioning:
        """Twice the batch: these conditions, then none of them. One pass serves both halves of guidance."""
        other = self.unconditional()
        return Conditioning(
            torch.cat([self.latents, other.latents]),
            torch.cat([self.context, other.context]),
            torch.cat([self.anchor, other.anchor]),
        )

    def dropout(self, p: float, generator: torch.Generator | None = None) -> Conditioning:
        """Zero text and observation with probability p, each drawn on its own for every frame (published training)."""
        keep = [self._keep(p, generator) for _ in range(2)]
        latents = self.latents * keep[0][:, :, None, None, None].to(self.latents)
        context = self.context * keep[1][:, :, None, None].to(self.context)
        return Conditioning(latents, context, self.anchor)

    def _keep(self, p: float, generator: torch.Generator | None) -> Tensor:
        device = generator.device if generator is not None else self.latents.device
        return torch.rand(self.latents.shape[:2], generator=generator, device=device) >= p
