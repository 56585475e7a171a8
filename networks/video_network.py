"""What a video model needs of the network that denoises its latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import register_dataclass

from files.errors import UserError


@dataclass(frozen=True)
class TapShape:
    """Size of the feature map at one tap."""

    channels: int
    height: int
    width: int


@dataclass
class VideoNetworkOutput:
    """What one pass gives.

    Attributes:
        sample: Raw network output (B, F, C, h, w).
        taps: Feature map (B, F, C, h, w) by tap position.
        emb: Embedding of the noise level (B, E), without the ids.
    """

    sample: Tensor
    taps: dict[int, Tensor]
    emb: Tensor


register_dataclass(VideoNetworkOutput)  # so that what compiles the network sees the tensors inside


class VideoNetwork(nn.Module, ABC):
    """Denoise the rows of a multi-camera video, and show feature maps from the inside.

    A *tap* is a position in the list of blocks that run one after the other, counted from 0.

    Attributes:
        config: The constructor's arguments that shape the network; among them ``in_channels`` (noisy latents plus
            condition latents), ``out_channels`` and ``cross_attention_dim`` (size of a text token).
        gradient_checkpointing: Recompute each block in the backward pass to save memory.
        emb_dim: Size of the noise-level embedding.
        num_taps: Number of positions.
    """

    config: dict[str, Any]
    gradient_checkpointing: bool
    emb_dim: int
    num_taps: int

    @property
    @abstractmethod
    def core(self) -> Any:  # noqa: ANN401 - diffusers is untyped
        """Diffusers' network inside, in which adapters are installed."""

    @abstractmethod
    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, time_ids: Tensor, taps: Sequence[int] = ()
    ) -> VideoNetworkOutput:
        """Run the whole network.

        Args:
            x: Noisy and condition latents (B, F, C, h, w).
            timestep: c_noise of each sample (B,).
            context: Text tokens of each frame (B, F, L, D).
            time_ids: The three ids of Stable Video Diffusion (B, 3).
            taps: Positions whose feature maps are wanted.
        """

    @abstractmethod
    def features(
        self, x: Tensor, timestep: Tensor, context: Tensor, time_ids: Tensor, taps: Sequence[int]
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Run only as far as the last wanted tap; arguments as in `forward`.

        Returns:
            Feature map (B, F, C, h, w) by tap position, and the noise-level embedding (B, E).
        """

    @abstractmethod
    def time_embedding(self, c_noise: Tensor) -> Tensor:
        """Embed noise levels (B,) as (B, E), without the ids; adapter and action network share it."""

    @abstractmethod
    def tap_shapes(self, latent_size: int | tuple[int, int]) -> dict[int, TapShape]:
        """Channels and size at every tap.

        Args:
            latent_size: Height and width of the latents.
        """

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

    def require_taps(self, taps: Sequence[int]) -> None:
        """Refuse positions that are not there.

        Raises:
            UserError: A tap is not among the positions.
        """
        if missing := sorted(set(taps) - set(range(self.num_taps))):
            raise UserError(
                f"video network: no tap {missing}; {type(self).__name__} has taps 0 to {self.num_taps - 1}. "
                "Choose taps among these."
            )
