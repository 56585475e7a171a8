"""The published names of the autoencoders' weights, and diffusers', in both directions.

`first_stage` is the video autoencoder (`AutoencoderKLTemporalDecoder`), `condition_encoder` the separate image
autoencoder (`AutoencoderKL`) of the conditioning frame. Names are those inside a part (see
`networks.checkpoints.keys.split_parts`).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from networks.checkpoints.keys import RES_BLOCK, inverse, swap_start

MIDDLE = {"block_1": "resnets.0", "block_2": "resnets.1", "attn_1": "attentions.0"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
RESAMPLER = {"downsample": "downsamplers.0", "upsample": "upsamplers.0"}
ENDS = {"norm_out": "conv_norm_out", "conv_out.time_mix_conv": "time_conv_out"}


def first_stage_key(published: str, num_levels: int = 4) -> str:
    """Turn a published first-stage key into the key in `AutoencoderKLTemporalDecoder`."""
    return _key(published, num_levels, over_time=published.startswith("decoder."))


def published_first_stage_key(key: str, num_levels: int = 4) -> str:
    """Turn a key in `AutoencoderKLTemporalDecoder` into the published one; the inverse of `first_stage_key`."""
    return _published_key(key, num_levels)


def condition_encoder_key(published: str, num_levels: int = 4) -> str:
    """Turn a published condition-encoder key into the key in `AutoencoderKL`."""
    return _key(published, num_levels, over_time=False)


def published_condition_encoder_key(key: str, num_levels: int = 4) -> str:
    """Turn a key in `AutoencoderKL` into the published one; the inverse of `condition_encoder_key`."""
    return _published_key(key, num_levels)


def first_stage_weights(published: Mapping[str, Tensor], num_levels: int = 4) -> dict[str, Tensor]:
    """Weights for `AutoencoderKLTemporalDecoder`; the `quant_conv` that the published one lacks is the identity."""
    weights = {first_stage_key(key, num_levels): _as_linear(key, value) for key, value in published.items()}
    weights["quant_conv.weight"], weights["quant_conv.bias"] = quant_conv(published["encoder.conv_out.weight"])
    return weights


def published_first_stage_weights(weights: Mapping[str, Tensor], num_levels: int = 4) -> dict[str, Tensor]:
    """Published weights of an `AutoencoderKLTemporalDecoder`; `quant_conv` is folded into the convolution before it."""
    folded = dict(weights)
    ends = [folded.pop(name) for name in ("quant_conv.weight", "quant_conv.bias")]
    ends += [folded[name] for name in ("encoder.conv_out.weight", "encoder.conv_out.bias")]
    folded["encoder.conv_out.weight"], folded["encoder.conv_out.bias"] = fold_quant_conv(*ends)
    named = {published_first_stage_key(key, num_levels): value for key, value in folded.items()}
    return {key: _as_convolution(key, value) for key, value in named.items()}


def quant_conv(like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the `quant_conv` that the published first stage lacks: the identity.

    Args:
        like: Weight of the convolution before it, which decides channels and dtype.
    """
    channels = len(like)
    eye = torch.eye(channels, dtype=like.dtype, device=like.device)[:, :, None, None]
    return eye, torch.zeros(channels, dtype=like.dtype, device=like.device)


def fold_quant_conv(mix: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution that does what a convolution and the `quant_conv` after it do.

    Where `quant_conv` is the identity nothing is computed: a product would turn -0.0 into 0.0.
    """
    identity = quant_conv(mix)
    if torch.equal(mix, identity[0]) and torch.equal(shift, identity[1]) and not shift.signbit().any():
        return weight, bias
    mix, shift = mix[:, :, 0, 0].float(), shift.float()
    folded = torch.einsum("oc,cihw->oihw", mix, weight.float()), mix @ bias.float() + shift
    return folded[0].to(weight.dtype), folded[1].to(bias.dtype)


def condition_encoder_weights(published: Mapping[str, Tensor], num_levels: int = 4) -> dict[str, Tensor]:
    """Weights for `AutoencoderKL`."""
    return {condition_encoder_key(key, num_levels): _as_linear(key, value) for key, value in published.items()}


def published_condition_encoder_weights(weights: Mapping[str, Tensor], num_levels: int = 4) -> dict[str, Tensor]:
    """Published weights of an `AutoencoderKL`; the inverse of `condition_encoder_weights`."""
    named = {published_condition_encoder_key(key, num_levels): value for key, value in weights.items()}
    return {key: _as_convolution(key, value) for key, value in named.items()}


def _key(published: str, num_levels: int, over_time: bool) -> str:
    found = re.fullmatch(r"(encoder|decoder)\.(mid|down|up)\.(?:(\d+)\.)?(.+)", published)
    if found is None:
        side, _, rest = published.partition(".")
        return f"{side}.{swap_start(rest, ENDS)}" if side in ("encoder", "decoder") else published
    side, place, level, rest = found.groups()
    if place == "mid":
        name, _, inner = rest.partition(".")
        inner = swap_start(inner, ATTENTION) if name == "attn_1" else _res_block(inner, over_time)
        return f"{side}.mid_block.{MIDDLE.get(name, name)}.{inner}"
    block = f"{side}.{place}_blocks.{num_levels - 1 - int(level) if place == 'up' else level}"
    if not rest.startswith("block."):
        return f"{block}.{swap_start(rest, RESAMPLER)}"
    layer, _, inner = rest.removeprefix("block.").partition(".")
    return f"{block}.resnets.{layer}.{_res_block(inner, over_time)}"


def _published_key(key: str, num_levels: int) -> str:
    found = re.fullmatch(r"(encoder|decoder)\.(mid|down|up)_blocks?\.(?:(\d+)\.)?(\w+\.\d+)\.(.+)", key)
    if found is None:
        side, _, rest = key.partition(".")
        return f"{side}.{swap_start(rest, inverse(ENDS))}" if side in ("encoder", "decoder") else key
    side, place, level, module, rest = found.groups()
    if place == "mid":
        inner = swap_start(rest, inverse(ATTENTION)) if module == "attentions.0" else _published_res_block(rest)
        return f"{side}.mid.{inverse(MIDDLE).get(module, module)}.{inner}"
    block = f"{side}.{place}.{num_levels - 1 - int(level) if place == 'up' else level}"
    if module.startswith("resnets."):
        return f"{block}.block.{module.removeprefix('resnets.')}.{_published_res_block(rest)}"
    return f"{block}.{inverse(RESAMPLER).get(module, module)}.{rest}"


def _res_block(rest: str, over_time: bool) -> str:
    if not over_time:
        return swap_start(rest, {"nin_shortcut": "conv_shortcut"})
    if rest == "mix_factor":
        return "time_mixer.mix_factor"
    if rest.startswith("time_stack."):
        return "temporal_res_block." + swap_start(rest.removeprefix("time_stack."), RES_BLOCK)
    return "spatial_res_block." + swap_start(rest, {"nin_shortcut": "conv_shortcut"})


def _published_res_block(rest: str) -> str:
    if rest == "time_mixer.mix_factor":
        return "mix_factor"
    if rest.startswith("temporal_res_block."):
        return "time_stack." + swap_start(rest.removeprefix("temporal_res_block."), inverse(RES_BLOCK))
    return swap_start(rest.removeprefix("spatial_res_block."), {"conv_shortcut": "nin_shortcut"})


def is_attention_matrix(published: str) -> bool:
    """Whether a published weight is a 1x1 convolution where diffusers has a matrix."""
    return re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", published) is not None


def _as_linear(published: str, weight: Tensor) -> Tensor:
    """Published attention is made of 1x1 convolutions, diffusers' of linear layers."""
    return weight[:, :, 0, 0] if is_attention_matrix(published) and weight.dim() == 4 else weight


def _as_convolution(published: str, weight: Tensor) -> Tensor:
    return weight[:, :, None, None] if is_attention_matrix(published) else weight
