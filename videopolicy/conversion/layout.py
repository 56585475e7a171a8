"""What a checkpoint of some networks holds: every weight, under its published name, under ours, with its shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from torch import nn

from videopolicy.conversion.autoencoder_names import autoencoder_name, is_attention_matrix
from videopolicy.conversion.names import PREFIX_BY_PART, action_unet_name, adapter_name, unet_name

Shape = tuple[int, ...]
Naming = Literal["published", "native"]
LABEL_BY_PART = {
    "unet": "video U-Net",
    "first_stage": "video autoencoder",
    "condition_encoder": "condition encoder",
    "text": "text tower",
    "adapter": "adapter",
    "action_unet": "action U-Net",
}
NATIVE_PREFIX_BY_PART = {  # names in the state dict of a stage
    "unet": "video.unet.",
    "first_stage": "video.autoencoder.vae.",
    "condition_encoder": "video.autoencoder.condition_encoder.",
    "text": "video.text_encoder.tower.",
    "adapter": "adapter.",
    "action_unet": "action_unet.",
}


@dataclass(frozen=True)
class Weight:
    """One weight that a checkpoint must hold.

    Attributes:
        part: A key of `LABEL_BY_PART`.
        native: Name in a stage's state dict; None where our networks have no such weight.
        published: Name in a published checkpoint; None where that has none (`quant_conv` of the first stage).
        native_shape: Shape under the native name.
        published_shape: Shape under the published name.
    """

    part: str
    native: str | None
    published: str | None
    native_shape: Shape
    published_shape: Shape

    def name(self, naming: Naming) -> str | None:
        """Its name in a file; a weight that our networks lack keeps its published one in a native file."""
        return self.published if naming == "published" else self.native or self.published

    def shape(self, naming: Naming) -> Shape:
        """Its shape in a file."""
        return self.published_shape if naming == "published" or self.native is None else self.native_shape


def part_of(name: str, naming: Naming) -> str | None:
    """The part that a name belongs to, known or unknown inside it."""
    prefixes = PREFIX_BY_PART if naming == "published" else NATIVE_PREFIX_BY_PART
    return next((part for part, prefix in prefixes.items() if name.startswith(prefix)), None)


def expected_weights(model: Any) -> list[Weight]:  # noqa: ANN401 - anything with these networks
    """Every weight of a model's networks.

    Args:
        model: A stage, a `VideoPolicy`, or anything that has `video`, and where it acts `adapter` and `action_unet`; on
            the meta device, or not.
    """
    model = getattr(model, "policy", model)
    video, autoencoder = model.video, model.video.autoencoder
    layers = video.unet.config["layers_per_block"]
    weights = _weights("unet", video.unet, lambda key: unet_name(key, layers))
    if (vae := getattr(autoencoder, "vae", None)) is not None:
        levels = len(vae.config.block_out_channels)
        weights += _weights("first_stage", vae, lambda key: autoencoder_name(key, levels))
        if autoencoder.condition_encoder is not None:
            image_vae = _image_autoencoder(vae.config)
            weights += _weights("condition_encoder", image_vae, lambda key: autoencoder_name(key, levels))
    if (tower := getattr(video.text_encoder, "tower", None)) is not None:
        weights += _weights("text", tower, str)
        weights.append(Weight("text", None, PREFIX_BY_PART["text"] + "logit_scale", (), ()))
    if (adapter := getattr(model, "adapter", None)) is not None:
        depth = len(adapter.branches[0].stages)
        weights += _weights("adapter", adapter, lambda key: adapter_name(key, depth))
        weights += _weights("action_unet", model.action_unet, action_unet_name)
    return weights


def is_extra(weight: Weight) -> bool:
    """Whether a whole checkpoint may lack it: the decoder half of the condition encoder, which nobody runs."""
    return weight.part == "condition_encoder" and weight.native is None


def _weights(part: str, network: nn.Module, published_key: Callable[[str], str]) -> list[Weight]:
    result = []
    for key, tensor in network.state_dict().items():
        inner, shape = published_key(key), tuple(tensor.shape)
        published: str | None = PREFIX_BY_PART[part] + inner
        if part == "first_stage" and key.startswith("quant_conv."):
            published = None
        native: str | None = NATIVE_PREFIX_BY_PART[part] + key
        if part == "condition_encoder" and not key.startswith(("encoder.", "quant_conv.")):
            native = None
        outer = (*shape, 1, 1) if is_attention_matrix(inner) else shape
        result.append(Weight(part, native, published, shape, outer))
    return result


def _image_autoencoder(config: Any) -> nn.Module:  # noqa: ANN401 - diffusers' own
    """The published condition encoder whole: ours has its encoder only."""
    levels = len(config.block_out_channels)
    with torch.device("meta"):
        image_vae: nn.Module = AutoencoderKL(
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )
    return image_vae
