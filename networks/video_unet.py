"""The video network: Stable Video Diffusion's U-Net with per-frame contexts and feature taps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from networks.pretrained_unet import read_config
from networks.svd_unet import build_unet
from networks.video_network import TapShape, VideoNetwork, VideoNetworkOutput


class VideoUNet(VideoNetwork):
    """Spatio-temporal U-Net over the rows of a multi-camera video.

    A *tap* is a position in the list of input blocks followed by output blocks, counted from 0. An input block is the
    first convolution, one layer, or one downsampler; an output block is one layer, before any upsampler. The paper's
    taps are 9, 13, 16, 19 and 22.

    Args:
        in_channels: Noisy latents plus condition latents, on channels.
        out_channels: Channels of the noisy latents.
        block_out_channels: Width of each level, multiples of 32.
        layers_per_block: Layers of a level on the way down; one more on the way up.
        num_attention_heads: Heads of each level.
        cross_attention_dim: Size of a text token.
        addition_time_embed_dim: Sinusoids per id.
        down_block_types: diffusers' block names; None is SVD's: attention everywhere but at the deepest level.
        up_block_types: The same for the way up, deepest first.
        transformer_layers_per_block: Transformer blocks in an attention layer.
        pretrained: Hub id or folder whose weights are loaded; its configuration must equal the arguments.
        gradient_checkpointing: Recompute each layer in the backward pass to save memory.
        zero_init: Start every residual branch and the output at zero, as latent diffusion does; pretrained weights
            replace it.

    Attributes:
        config: The constructor's arguments that shape the network.

    Raises:
        UserError: The arguments contradict one another or the pretrained network.
    """

    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 4,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        num_attention_heads: Sequence[int] = (5, 10, 20, 20),
        cross_attention_dim: int = 1024,
        addition_time_embed_dim: int = 256,
        down_block_types: Sequence[str] | None = None,
        up_block_types: Sequence[str] | None = None,
        transformer_layers_per_block: int = 1,
        pretrained: str | None = None,
        gradient_checkpointing: bool = False,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        num_levels = len(block_out_channels)
        down = down_block_types or ["CrossAttnDownBlockSpatioTemporal"] * (num_levels - 1) + ["DownBlockSpatioTemporal"]
        up = up_block_types or ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * (num_levels - 1)
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "block_out_channels": list(block_out_channels),
            "layers_per_block": layers_per_block,
            "num_attention_heads": list(num_attention_heads),
            "cross_attention_dim": cross_attention_dim,
            "addition_time_embed_dim": addition_time_embed_dim,
            "down_block_types": list(down),
            "up_block_types": list(up),
            "transformer_layers_per_block": transformer_layers_per_block,
        }
        self.gradient_checkpointing = gradient_checkpointing
        self.unet = build_unet(self.config, pretrained, zero_init)

    @classmethod
    def from_pretrained(cls, source: str, gradient_checkpointing: bool = False) -> VideoUNet:
        """Build the network that a hub id or folder describes, with its weights.

        Args:
            source: Hub id of a video pipeline, or a folder that holds `config.json` or `unet/config.json`.
            gradient_checkpointing: As in the constructor.
        """
        return cls(**read_config(source), pretrained=source, gradient_checkpointing=gradient_checkpointing)

    @property
    def core(self) -> Any:  # noqa: ANN401 - diffusers is untyped
        """Diffusers' network."""
        return self.unet

    @property
    def emb_dim(self) -> int:  # type: ignore[override]
        """Size of the noise-level embedding."""
        return int(4 * self.config["block_out_channels"][0])

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        time_ids: Tensor,
        taps: Sequence[int] = (),
    ) -> VideoNetworkOutput:
        """Run the whole network.

        Args:
            x: Noisy and condition latents (B, F, C, h, w).
            timestep: c_noise of each sample (B,).
            context: Text tokens of each frame (B, F, L, D). Spatial attention reads each frame's own, temporal
                attention those of the sample's first frame.
            time_ids: The three ids (B, 3).
            taps: Positions whose feature maps are wanted.
        """
        self.require_taps(taps)
        emb = self.time_embedding(timestep)
        hidden, found = self._run(x, emb, context, time_ids, taps, None)
        sample = self.unet.conv_out(self.unet.conv_act(self.unet.conv_norm_out(hidden)))
        return VideoNetworkOutput(sample.unflatten(0, x.shape[:2]), found, emb)

    def features(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        time_ids: Tensor,
        taps: Sequence[int],
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Run only as far as the last wanted tap; arguments as in `forward`.

        Returns:
            Feature map (B, F, C, h, w) by tap position, and the noise-level embedding (B, E).
        """
        self.require_taps(taps)
        emb = self.time_embedding(timestep)
        return self._run(x, emb, context, time_ids, taps, max(taps))[1], emb

    def time_embedding(self, c_noise: Tensor) -> Tensor:
        """Embed noise levels (B,) as (B, E), without the ids; adapter and action network share it."""
        sinusoids = self.unet.time_proj(c_noise)
        embedded: Tensor = self.unet.time_embedding(sinusoids.to(self.dtype))
        return embedded

    @property
    def num_taps(self) -> int:  # type: ignore[override]
        """Number of positions: input blocks plus output blocks."""
        levels, layers = len(self.config["block_out_channels"]), self.config["layers_per_block"]
        num_input = 1 + levels * layers + (levels - 1)  # first convolution, layers, downsamplers
        num_output = levels * (layers + 1)
        return int(num_input + num_output)

    def tap_shapes(self, latent_size: int | tuple[int, int]) -> dict[int, TapShape]:
        """Channels and size at every tap.

        Args:
            latent_size: Height and width of the latents.
        """
        height, width = (latent_size, latent_size) if isinstance(latent_size, int) else latent_size
        widths, layers = self.config["block_out_channels"], self.config["layers_per_block"]
        sizes = [(height, width)]
        for _ in widths[1:]:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        shapes = [TapShape(widths[0], *sizes[0])]
        for level, channels in enumerate(widths):
            shapes += [TapShape(channels, *sizes[level])] * layers
            if level + 1 < len(widths):
                shapes.append(TapShape(channels, *sizes[level + 1]))
        for level in reversed(range(len(widths))):
            shapes += [TapShape(widths[level], *sizes[level])] * (layers + 1)
        return dict(enumerate(shapes))

    def _run(
        self,
        x: Tensor,
        emb: Tensor,
        context: Tensor,
        time_ids: Tensor,
        taps: Sequence[int],
        last: int | None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run block after block, until position `last` if there is one; the last output (B*F, C, h, w) and the taps."""
        b, f = x.shape[:2]
        emb = emb + self._id_embedding(time_ids)
        emb = emb.repeat_interleave(f, dim=0, output_size=b * f)
        context = context.flatten(0, 1).to(emb.dtype)
        found: dict[int, Tensor] = {}
        rows = x.flatten(0, 1).to(self.dtype)
        for position, hidden in self._blocks(rows, emb, context, (b, f)):
            if position in taps:
                found[position] = hidden.unflatten(0, (b, f))
            if position == last:
                break
        return hidden, found

    def _blocks(self, x: Tensor, emb: Tensor, context: Tensor, shape: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
        """Yield each position with its output (B*F, C, h, w)."""
        unet = self.unet
        video = torch.zeros(shape, dtype=x.dtype, device=x.device)  # diffusers' flag: 0 is a video, 1 a lone image

        def run(resnet: nn.Module, attention: nn.Module | None, x: Tensor) -> Tensor:
            args = (resnet, attention, x, emb, context, video)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                checkpointed: Tensor = checkpoint(_run_layer, *args, use_reentrant=False)
                return checkpointed
            return _run_layer(*args)

        hidden = unet.conv_in(x)
        position = 0
        yield position, hidden
        skips = [hidden]
        for block in unet.down_blocks:
            for resnet, attention in _layers(block):
                hidden = run(resnet, attention, hidden)
                skips.append(hidden)
                yield (position := position + 1), hidden
            for downsampler in block.downsamplers or ():
                hidden = downsampler(hidden)
                skips.append(hidden)
                yield (position := position + 1), hidden
        hidden = run(unet.mid_block.resnets[0], unet.mid_block.attentions[0], hidden)
        hidden = run(unet.mid_block.resnets[1], None, hidden)
        for block in unet.up_blocks:
            for resnet, attention in _layers(block):
                hidden = run(resnet, attention, torch.cat([hidden, skips.pop()], dim=1))
                yield (position := position + 1), hidden
            for upsampler in block.upsamplers or ():
                size = skips[-1].shape[-2:]
                exact = size[0] == 2 * hidden.shape[-2] and size[1] == 2 * hidden.shape[-1]
                hidden = upsampler(hidden, None if exact else size)  # an odd size was halved upwards

    def _id_embedding(self, time_ids: Tensor) -> Tensor:
        sinusoids = self.unet.add_time_proj(time_ids.flatten()).reshape(len(time_ids), -1)
        embedded: Tensor = self.unet.add_embedding(sinusoids.to(self.dtype))
        return embedded


def _run_layer(
    resnet: nn.Module,
    attention: nn.Module | None,
    x: Tensor,
    emb: Tensor,
    context: Tensor,
    video: Tensor,
) -> Tensor:
    x = resnet(x, emb, image_only_indicator=video)
    if attention is None:
        return x
    attended: Tensor = attention(x, context, image_only_indicator=video, return_dict=False)[0]
    return attended


def _layers(block: Any) -> list[tuple[nn.Module, nn.Module | None]]:  # noqa: ANN401 - diffusers is untyped
    """Pair a block's res blocks with their attention, None at a level without."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, attentions, strict=True))
