"""What a video is generated from: the current observation and the instruction, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from files.errors import UserError

DropoutScope = Literal["frame", "sample"]


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

    def __getitem__(self, index: slice | Tensor | list[int]) -> Conditioning:
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

    def dropout(self, p: float, scope: DropoutScope = "frame") -> Conditioning:
        """Zero text and observation at random; the anchor stays.

        Args:
            p: Probability of a draw to drop what it is drawn for.
            scope: ``frame`` draws for every frame, and separately for text and observation (published). All of a
                sample's conditions are then gone with probability p^(2F), which is never, so the unconditional case
                that guidance extrapolates from is not trained. ``sample`` draws once a sample, for text and
                observation of all its frames together, so it is trained on a share p of the samples.

        Raises:
            UserError: An unknown scope.
        """
        if scope not in get_args(DropoutScope):
            raise UserError(f"condition dropout: scope is {scope!r}; it must be one of {get_args(DropoutScope)}.")
        if scope == "sample":
            keep_latents = keep_text = self._keep((len(self), 1), p)
        else:
            keep_latents, keep_text = (self._keep(self.latents.shape[:2], p) for _ in range(2))
        latents = self.latents * keep_latents[:, :, None, None, None].to(self.latents)
        context = self.context * keep_text[:, :, None, None].to(self.context)
        return Conditioning(latents, context, self.anchor)

    def _keep(self, shape: Sequence[int], p: float) -> Tensor:
        return torch.rand(*shape, device=self.latents.device) >= p
