"""What a checkpoint must hold: every weight of every part, under its published name, under ours, with its shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from networks.checkpoints import sizes
from networks.checkpoints.autoencoder_keys import (
    condition_encoder_key,
    first_stage_key,
    is_attention_matrix,
    published_condition_encoder_key,
    published_first_stage_key,
)
from networks.checkpoints.keys import (
    PREFIX_BY_PART,
    action_unet_key,
    adapter_key,
    published_action_unet_key,
    published_adapter_key,
    published_unet_key,
    unet_key,
)
from networks.checkpoints.sizes import Shape, Shapes, on_meta

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


def expected_weights(shapes: Shapes, naming: Naming) -> list[Weight]:
    """Every weight of the parts that are there at all, for the sizes that the shapes show.

    Args:
        shapes: Shapes by name in the file.
        naming: Whose names these are.

    Raises:
        CheckpointError: A part is too incomplete to tell its sizes.
        NetworkError: No network can have these sizes.
    """
    parts = _our_shapes(shapes, naming)
    unet = on_meta(sizes.unet_like, parts["unet"])
    config = unet.config
    assert isinstance(config, dict)
    weights = _weights("unet", unet, _with(published_unet_key, config["layers_per_block"]))
    emb_dim = 4 * config["block_out_channels"][0]
    if found := parts.get("first_stage"):
        vae = on_meta(sizes.first_stage_like, found)
        weights += _weights("first_stage", vae, _with(published_first_stage_key, _levels(found)))
    if found := parts.get("condition_encoder"):
        image_vae = on_meta(sizes.condition_encoder_like, found)
        weights += _weights("condition_encoder", image_vae, _with(published_condition_encoder_key, _levels(found)))
    if found := parts.get("text"):
        weights += _weights("text", on_meta(sizes.text_like, found, config["cross_attention_dim"]), str)
        weights.append(Weight("text", None, PREFIX_BY_PART["text"] + "logit_scale", (), ()))
    width = None
    if found := parts.get("adapter"):
        adapter = on_meta(sizes.adapter_like, found, emb_dim)
        depth = sizes.count(found, r"branches\.\d+\.stages\.(\d+)\.")
        weights += _weights("adapter", adapter, _with(published_adapter_key, depth))
        width = len(adapter.state_dict()["norm.weight"])
    if found := parts.get("action_unet"):
        action = on_meta(sizes.action_unet_like, found, emb_dim, width)
        weights += _weights("action_unet", action, published_action_unet_key)
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


def _our_shapes(shapes: Shapes, naming: Naming) -> dict[str, dict[str, Shape]]:
    """By part, shapes by the name inside our network."""
    prefixes = PREFIX_BY_PART if naming == "published" else NATIVE_PREFIX_BY_PART
    parts: dict[str, dict[str, Shape]] = {"unet": {}}
    for name, shape in shapes.items():
        if (part := part_of(name, naming)) is not None:
            parts.setdefault(part, {})[name.removeprefix(prefixes[part])] = shape
    return parts if naming == "native" else {part: _renamed(part, inside) for part, inside in parts.items()}


def _renamed(part: str, published: Shapes) -> dict[str, Shape]:
    keys: Mapping[str, Callable[[str], str]] = {
        "unet": _with(unet_key, sizes.unet_layers_per_block(published)),
        "first_stage": _with(first_stage_key, sizes.autoencoder_levels(published)),
        "condition_encoder": _with(condition_encoder_key, sizes.autoencoder_levels(published)),
        "text": str,
        "adapter": _with(adapter_key, sizes.adapter_branch_depth(published)),
        "action_unet": action_unet_key,
    }
    return {keys[part](name): shape for name, shape in published.items()}


def _with(key: Callable[[str, int], str], number: int) -> Callable[[str], str]:
    return lambda name: key(name, number)


def _levels(shapes: Shapes) -> int:
    return sizes.count(shapes, r"encoder\.down_blocks\.(\d+)\.")
