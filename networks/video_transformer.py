"""A video network that trains from scratch in minutes: Wan's diffusion transformer, small, with learned positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from files.errors import UserError
from networks.video_network import TapShape, VideoNetwork, VideoNetworkOutput

LEVEL_SCALE = 1000.0  # Wan embeds times from 0 to 1000, c_noise runs from about -2 to 2
POSITION_STD = 0.5  # of the learned positions at the start, beside patch embeddings of about that size


class VideoTransformer(VideoNetwork):
    """Transformer over the patches of all rows of a multi-camera video together, so that cameras see one another.

    The blocks are diffusers' (Wan 2.1, arXiv 2503.20314): self-attention with rotary positions, cross-attention to the
    text, a feed-forward network, all scaled and shifted by the noise level. Rotary positions are relative, which leaves
    a small network to find out by itself which row is which camera; learned embeddings of row, height and width are
    added to the patches to tell it.

    A tap is a block, its feature map the block's tokens laid out as they lie in the picture. The three ids of Stable
    Video Diffusion are not read.

    Args:
        in_channels: Noisy latents plus condition latents, on channels.
        out_channels: Channels of the noisy latents.
        width: Channels of a token; a multiple of ``num_attention_heads``.
        num_layers: Blocks.
        num_attention_heads: Heads of each attention; width / heads must be even.
        patch_size: Side of the squares of latents that become one token.
        cross_attention_dim: Size of a text token.
        max_rows: Most video rows F.
        max_size: Most patches along height or width.
        gradient_checkpointing: Recompute each block in the backward pass to save memory.

    Raises:
        UserError: The numbers do not fit one another.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 192,
        num_layers: int = 4,
        num_attention_heads: int = 6,
        patch_size: int = 2,
        cross_attention_dim: int = 32,
        max_rows: int = 64,
        max_size: int = 32,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if width % num_attention_heads or (width // num_attention_heads) % 2:
            raise UserError(
                f"video transformer: width {width} with {num_attention_heads} heads; a head must have an even number "
                "of channels. Change one of the two."
            )
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "width": width,
            "num_layers": num_layers,
            "num_attention_heads": num_attention_heads,
            "patch_size": patch_size,
            "cross_attention_dim": cross_attention_dim,
            "max_rows": max_rows,
            "max_size": max_size,
        }
        self.gradient_checkpointing = gradient_checkpointing
        self.transformer = WanTransformer3DModel(
            patch_size=(1, patch_size, patch_size),
            num_attention_heads=num_attention_heads,
            attention_head_dim=width // num_attention_heads,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=cross_attention_dim,
            ffn_dim=4 * width,
            num_layers=num_layers,
            rope_max_seq_len=max(max_rows, max_size),
        )
        counts = (max_rows, max_size, max_size)
        self.positions = nn.ParameterList(POSITION_STD * torch.randn(count, 1, width) for count in counts)
        nn.init.zeros_(self.transformer.proj_out.weight)  # the first prediction is the preconditioned mean
        nn.init.zeros_(self.transformer.proj_out.bias)

    @property
    def core(self) -> Any:  # noqa: ANN401 - diffusers is untyped
        """Diffusers' network."""
        return self.transformer

    @property
    def emb_dim(self) -> int:  # type: ignore[override]
        """Size of the noise-level embedding."""
        return int(self.config["width"])

    @property
    def num_taps(self) -> int:  # type: ignore[override]
        """Number of blocks."""
        return int(self.config["num_layers"])

    def tap_shapes(self, latent_size: int | tuple[int, int]) -> dict[int, TapShape]:
        """The same at every block; see `VideoNetwork.tap_shapes`."""
        height, width = (latent_size, latent_size) if isinstance(latent_size, int) else latent_size
        patch = self.config["patch_size"]
        shape = TapShape(self.config["width"], height // patch, width // patch)
        return dict.fromkeys(range(self.num_taps), shape)

    def time_embedding(self, c_noise: Tensor) -> Tensor:
        """Embed noise levels (B,) as (B, E)."""
        embedder = self.transformer.condition_embedder
        sinusoids = embedder.timesteps_proj(LEVEL_SCALE * c_noise)
        embedded: Tensor = embedder.time_embedder(sinusoids.to(self.dtype))
        return embedded

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, time_ids: Tensor, taps: Sequence[int] = ()
    ) -> VideoNetworkOutput:
        """Run the whole network; see `VideoNetwork.forward`. The text is that of the sample's first row."""
        tokens, found, emb = self._run(x, timestep, context, taps, self.num_taps - 1)
        shift, scale = (self.transformer.scale_shift_table + emb.unsqueeze(1)).chunk(2, dim=1)
        tokens = self.transformer.norm_out(tokens.float()) * (1 + scale) + shift
        patches: Tensor = self._as_map(self.transformer.proj_out(tokens.to(emb.dtype)), x)  # (B, F, p * p * c, h', w')
        return VideoNetworkOutput(self._unpatched(patches), found, emb)

    def features(
        self, x: Tensor, timestep: Tensor, context: Tensor, time_ids: Tensor, taps: Sequence[int]
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Run only as far as the last wanted tap; see `VideoNetwork.features`."""
        _, found, emb = self._run(x, timestep, context, taps, max(taps))
        return found, emb

    def _run(
        self, x: Tensor, timestep: Tensor, context: Tensor, taps: Sequence[int], last: int
    ) -> tuple[Tensor, dict[int, Tensor], Tensor]:
        """Run block after block up to `last`: its tokens, the taps, and the noise-level embedding."""
        self.require_taps(taps)
        emb = self.time_embedding(timestep)
        found: dict[int, Tensor] = {}
        for position, tokens in self._blocks(x, emb, context):
            if position in taps:
                found[position] = self._as_map(tokens, x)
            if position == last:
                break
        return tokens, found, emb

    def _blocks(self, x: Tensor, emb: Tensor, context: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield each block's number with its tokens (B, F * h' * w', width)."""
        inner = self.transformer
        rows = x.transpose(1, 2).to(self.dtype)  # (B, C, F, h, w)
        rotary = inner.rope(rows)
        embedded = inner.patch_embedding(rows) + self._positions(x)
        tokens = embedded.flatten(2).transpose(1, 2).contiguous()
        level = inner.condition_embedder.time_proj(nn.functional.silu(emb)).unflatten(1, (6, -1))
        text = inner.condition_embedder.text_embedder(context[:, 0].to(self.dtype))
        for position, block in enumerate(inner.blocks):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, text, level, rotary, use_reentrant=False)
            else:
                tokens = block(tokens, text, level, rotary)
            yield position, tokens

    def _positions(self, x: Tensor) -> Tensor:
        """Embedding (1, width, F, h', w') of every patch's place."""
        patch = self.config["patch_size"]
        sizes = (x.shape[1], x.shape[-2] // patch, x.shape[-1] // patch)
        limits = (self.config["max_rows"], self.config["max_size"], self.config["max_size"])
        if x.shape[-2] % patch or x.shape[-1] % patch or any(map(int.__gt__, sizes, limits)):
            raise UserError(
                f"video transformer: latents of {x.shape[1]} rows of {x.shape[-2]}x{x.shape[-1]}; height and width "
                f"must be multiples of patch_size {patch}, with at most {limits[0]} rows (max_rows) and {limits[1]} "
                "patches a side (max_size)."
            )
        row, height, width = (learned[:count, 0] for learned, count in zip(self.positions, sizes, strict=True))
        places = row[:, None, None] + height[None, :, None] + width[None, None]  # (F, h', w', width)
        result: Tensor = places.movedim(-1, 0).unsqueeze(0)
        return result

    def _as_map(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Lay tokens (B, F * h' * w', C) out as (B, F, C, h', w')."""
        patch = self.config["patch_size"]
        laid_out: Tensor = tokens.unflatten(1, (x.shape[1], x.shape[-2] // patch, x.shape[-1] // patch)).movedim(-1, 2)
        return laid_out

    def _unpatched(self, patches: Tensor) -> Tensor:
        """(B, F, p * p * c, h', w') -> (B, F, c, h, w); Wan's output has the patch's place before the channel."""
        patch = self.config["patch_size"]
        squares: Tensor = patches.unflatten(2, (patch, patch, -1))  # (B, F, p, p, c, h', w')
        return squares.permute(0, 1, 4, 5, 2, 6, 3).flatten(5, 6).flatten(3, 4)
