"""Build diffusers' spatio-temporal U-Net with what Stable Video Diffusion needs of it."""

from typing import Any

from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import nn

from files.errors import UserError
from networks.pretrained_unet import load_pretrained

NUM_IDS = 3  # frames per second, motion bucket, noise on the conditioning frame
NUM_GROUPS = 32  # fixed in diffusers' blocks
RES_NORM_EPS = 1e-5  # as trained by Stability AI; diffusers has 1e-6 in some of its blocks


def build_unet(config: dict[str, Any], pretrained: str | None, zero_init: bool) -> Any:  # noqa: ANN401 - diffusers is untyped
    """The network that `VideoUNet` wraps.

    Args:
        config: diffusers' arguments.
        pretrained: Hub id or folder whose weights are loaded.
        zero_init: Start every residual branch and the output at zero; pretrained weights replace it.

    Raises:
        UserError: The arguments contradict one another or the pretrained network.
    """
    _check_widths(config)
    if pretrained is None:
        unet = UNetSpatioTemporalConditionModel(
            **config, projection_class_embeddings_input_dim=NUM_IDS * config["addition_time_embed_dim"]
        )
    else:
        unet = load_pretrained(pretrained, config)
    if zero_init and pretrained is None:
        _zero_residual_branches(unet)
    for module in unet.modules():
        if isinstance(module, SpatioTemporalResBlock):
            for norm in (m for m in module.modules() if isinstance(m, nn.GroupNorm)):
                norm.eps = RES_NORM_EPS
    return unet


def layers(network: nn.Module) -> list[nn.Module]:
    """The residual blocks and attentions of a U-Net that run one after the other; none of another network."""
    return [m for m in network.modules() if isinstance(m, (SpatioTemporalResBlock, TransformerSpatioTemporalModel))]


def _zero_residual_branches(unet: Any) -> None:  # noqa: ANN401 - diffusers is untyped
    last = [unet.conv_out]
    for module in unet.modules():
        if isinstance(module, SpatioTemporalResBlock):
            last += [module.spatial_res_block.conv2, module.temporal_res_block.conv2]
        elif isinstance(module, TransformerSpatioTemporalModel):
            last.append(module.proj_out)
    for layer in last:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def _check_widths(config: dict[str, Any]) -> None:
    widths, heads = config["block_out_channels"], config["num_attention_heads"]
    for name in ("num_attention_heads", "down_block_types", "up_block_types"):
        if len(config[name]) != len(widths):
            raise UserError(
                f"video U-Net: {name} has {len(config[name])} entries but block_out_channels has {len(widths)}; "
                "give one a level."
            )
    for width, num_heads in zip(widths, heads, strict=True):
        if width % NUM_GROUPS or width % num_heads:
            raise UserError(
                f"video U-Net: block_out_channels has {width} with {num_heads} heads; "
                f"a width must be a multiple of {NUM_GROUPS} and of its number of heads."
            )
