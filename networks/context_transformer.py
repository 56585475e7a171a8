"""diffusers' spatio-temporal transformer, without attention where the context is one token.

Softmax over one element is 1 whatever the query is, so cross-attention to a single token gives every position the same
vector: to_out(to_v(token)). It needs neither queries nor keys, and it does not change from one denoising step to the
next (`LayerConstants`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerConstants:
    """What one transformer layer computes from its context and frame count alone.

    Attributes:
        frames: Embedding of each frame's number (T, C).
        spatial: Output of each block's cross-attention to its own frame's token (B*T, 1, C); None where attention is
            needed.
        temporal: The same for the first frame's token, which all frames read (B, 1, C).
    """

    frames: Tensor
    spatial: tuple[Tensor | None, ...]
    temporal: tuple[Tensor | None, ...]


class _CrossAttending:
    """What the two kinds of blocks share."""

    attn2: Any
    norm2: nn.Module
    always_attends: bool = False

    def cross_value(self, context: Tensor) -> Tensor | None:
        """What every position gets from contexts (N, 1, D): (N, 1, C). None of several tokens, or if told to attend.

        In training, queries, keys and their normalisation get the gradient that they get from attention: zero.
        """
        if self.always_attends or context.shape[1] != 1:
            return None
        value: Tensor = self.attn2.to_out[0](self.attn2.to_v(context))
        if torch.is_grad_enabled():
            unused = [p for part in (self.attn2.to_q, self.attn2.to_k, self.norm2) for p in part.parameters()]
            value = _WithZeroGradients.apply(value, *(p for p in unused if p.requires_grad))
        return value

    def cross(self, x: Tensor, context: Tensor, value: Tensor | None) -> Tensor:
        """Cross-attention of x (N, S, C) to contexts (N or fewer, L, D), or the value that stands for it."""
        value = self.cross_value(context) if value is None else value
        repeats = len(x) // len(context)
        if value is not None:
            return value.repeat_interleave(repeats, dim=0, output_size=len(x)) if repeats > 1 else value
        attended: Tensor = self.attn2(
            self.norm2(x), encoder_hidden_states=context.repeat_interleave(repeats, dim=0, output_size=len(x))
        )
        return attended


class SpatialBlock(_CrossAttending, BasicTransformerBlock):
    """Attention over the positions of one frame."""

    def forward(self, x: Tensor, context: Tensor, value: Tensor | None) -> Tensor:
        """Map x (B*T, S, C), given contexts (B*T, L, D)."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.cross(x, context, value)
        result: Tensor = x + self.ff(self.norm3(x))
        return result


class TemporalBlock(_CrossAttending, TemporalBasicTransformerBlock):
    """Attention over the frames at one position."""

    def forward(self, x: Tensor, context: Tensor, value: Tensor | None) -> Tensor:
        """Map x (B*S, T, C), given contexts (B, L, D)."""
        x = x + self.ff_in(self.norm_in(x))
        x = x + self.attn1(self.norm1(x))
        x = x + self.cross(x, context, value)
        result: Tensor = x + self.ff(self.norm3(x))
        return result


class ContextTransformer(TransformerSpatioTemporalModel):
    """Spatial and temporal blocks by turns, mixed; parameters and their names are diffusers'."""

    def constants(self, context: Tensor, num_frames: int) -> LayerConstants:
        """What does not depend on the picture.

        Args:
            context: Text tokens of each frame (B*T, L, D).
            num_frames: T.
        """
        return LayerConstants(
            self.frame_embedding(num_frames, context),
            tuple(block.cross_value(context) for block in self.transformer_blocks),
            tuple(block.cross_value(context[::num_frames]) for block in self.temporal_transformer_blocks),
        )

    def frame_embedding(self, num_frames: int, like: Tensor) -> Tensor:
        """Embedding (T, C) of the frames' numbers."""
        numbers = torch.arange(num_frames, device=like.device)
        embedded: Tensor = self.time_pos_embed(self.time_proj(numbers).to(like.dtype))
        return embedded

    def forward(self, x: Tensor, context: Tensor, is_image: Tensor, constants: LayerConstants | None = None) -> Tensor:
        """Map x (B*T, C, h, w).

        Args:
            x: Feature map.
            context: Text tokens of each frame (B*T, L, D).
            is_image: diffusers' flag of lone images (B, T), 0 for a video's frames.
            constants: From `constants`, where they are already there.
        """
        b, t = is_image.shape
        size, first_context = x.shape[-2:], context[::t]
        frames = self.frame_embedding(t, context) if constants is None else constants.frames
        hidden = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # (B*T, S, C)
        for i, (spatial, temporal) in enumerate(
            zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)
        ):
            hidden = spatial(hidden, context, constants and constants.spatial[i])
            mixed = (hidden.unflatten(0, (b, t)) + frames[:, None]).transpose(1, 2).flatten(0, 1)  # (B*S, T, C)
            mixed = temporal(mixed, first_context, constants and constants.temporal[i])
            mixed = mixed.unflatten(0, (b, -1)).transpose(1, 2).flatten(0, 1)
            hidden = self.time_mixer(x_spatial=hidden, x_temporal=mixed, image_only_indicator=is_image)
        result: Tensor = x + self.proj_out(hidden).transpose(1, 2).unflatten(2, size)
        return result


def install(unet: nn.Module) -> None:
    """Give diffusers' transformer layers the forward of this file; weights, names and modules stay what they are."""
    ours: dict[type, Any] = {
        TransformerSpatioTemporalModel: ContextTransformer,
        BasicTransformerBlock: SpatialBlock,
        TemporalBasicTransformerBlock: TemporalBlock,
    }
    for module in unet.modules():
        if type(module) in ours:
            module.__class__ = ours[type(module)]


class _WithZeroGradients(torch.autograd.Function):
    """The value as it is; parameters that it does not depend on get a gradient of zero rather than none.

    So they look to optimizers (AdamW's decay) and to DDP (which waits for every gradient) as they do with attention.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, *unused: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        ctx.save_for_backward(*unused)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        needed = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return gradients[0], *(torch.zeros_like(p) if needs else None for p, needs in needed)
