"""The published names of the autoencoders' weights, from diffusers', and what differs in the weights themselves.

`first_stage` is the video autoencoder (`AutoencoderKLTemporalDecoder`), `condition_encoder` the separate image
autoencoder (`AutoencoderKL`) of the conditioning frame. Names are those inside a part.
"""

import re

import torch
from torch import Tensor

from videopolicy.conversion.names import res_block_name, swap_start

MIDDLE = {"resnets.0": "block_1", "resnets.1": "block_2", "attentions.0": "attn_1"}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
RESAMPLER = {"downsamplers.0": "downsample", "upsamplers.0": "upsample"}
ENDS = {"conv_norm_out": "norm_out", "time_conv_out": "conv_out.time_mix_conv"}


def autoencoder_name(key: str, num_levels: int = 4) -> str:
    """Published key of a key in `AutoencoderKLTemporalDecoder` or `AutoencoderKL`."""
    found = re.fullmatch(r"(encoder|decoder)\.(mid|down|up)_blocks?\.(?:(\d+)\.)?(\w+\.\d+)\.(.+)", key)
    if found is None:
        side, _, rest = key.partition(".")
        return f"{side}.{swap_start(rest, ENDS)}" if side in ("encoder", "decoder") else key
    side, place, level, module, rest = found.groups()
    if place == "mid":
        inner = swap_start(rest, ATTENTION) if module == "attentions.0" else _res_block(rest)
        return f"{side}.mid.{MIDDLE[module]}.{inner}"
    block = f"{side}.{place}.{num_levels - 1 - int(level) if place == 'up' else level}"
    if module.startswith("resnets."):
        return f"{block}.block.{module.removeprefix('resnets.')}.{_res_block(rest)}"
    return f"{block}.{RESAMPLER[module]}.{rest}"


def _res_block(rest: str) -> str:
    return "mix_factor" if rest == "time_mixer.mix_factor" else res_block_name(rest, {"conv_shortcut": "nin_shortcut"})


def is_attention_matrix(published: str) -> bool:
    """Whether a published weight is a 1x1 convolution where diffusers has a matrix."""
    return re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", published) is not None


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
