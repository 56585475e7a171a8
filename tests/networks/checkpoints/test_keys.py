"""Every published key and shape has its place in our networks, and the way back gives the same key."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from networks.action_unet import ActionUNet
from networks.adapter import CNNAdapter
from networks.checkpoints.autoencoder_keys import (
    condition_encoder_key,
    condition_encoder_weights,
    first_stage_key,
    first_stage_weights,
    published_condition_encoder_key,
    published_condition_encoder_weights,
    published_first_stage_key,
    published_first_stage_weights,
)
from networks.checkpoints.keys import (
    PREFIX_BY_PART,
    action_unet_key,
    adapter_key,
    join_parts,
    published_action_unet_key,
    published_adapter_key,
    published_unet_key,
    rename,
    split_parts,
    unet_key,
)
from networks.errors import NetworkError
from networks.video_unet import TapShape, VideoUNet

Shapes = dict[str, tuple[int, ...]]
PAPER_TAPS = [(320, 32), (640, 16), (1280, 8), (1280, 4), (1280, 4)]


@pytest.fixture(scope="module")
def published(reference_keys: dict[str, Any]) -> dict[str, Shapes]:
    """Published shapes by key, by part."""
    shapes = {key: torch.empty(shape, device="meta") for key, shape in reference_keys["full_size_keys"].items()}
    return {part: {k: tuple(v.shape) for k, v in weights.items()} for part, weights in split_parts(shapes).items()}


def shapes_of(build: Callable[[], nn.Module]) -> Shapes:
    with torch.device("meta"):
        return {key: tuple(weight.shape) for key, weight in build().state_dict().items()}


def paper_adapter() -> CNNAdapter:
    return CNNAdapter([TapShape(channels, size, size) for channels, size in PAPER_TAPS], 3, 8, 1280)


@pytest.mark.parametrize(
    ("part", "build", "key", "back", "count"),
    [
        ("unet", VideoUNet, unet_key, published_unet_key, 1428),
        ("adapter", paper_adapter, adapter_key, published_adapter_key, 1137),
        ("action_unet", ActionUNet, action_unet_key, published_action_unet_key, 146),
    ],
)
def test_every_published_key_and_shape_is_in_our_network(
    published: dict[str, Shapes],
    part: str,
    build: Callable[[], nn.Module],
    key: Callable[[str], str],
    back: Callable[[str], str],
    count: int,
) -> None:
    assert len(published[part]) == count
    own = shapes_of(build)
    assert {key(name): shape for name, shape in published[part].items()} == own
    assert {back(name): shape for name, shape in own.items()} == published[part]


def test_unet_keys_are_diffusers_names(reference_keys: dict[str, Any]) -> None:
    table: dict[str, str] = reference_keys["unet_to_diffusers"]
    assert all(unet_key(name.removeprefix(PREFIX_BY_PART["unet"])) == f"unet.{want}" for name, want in table.items())


def test_tiny_keys_are_those_of_the_tiny_networks(reference_keys: dict[str, Any]) -> None:
    names = [name for name in reference_keys["tiny_joint_keys"] if not name.startswith(("vision_", "pose_"))]
    assert len(names) == 1428
    assert [published_unet_key(unet_key(name)) for name in names] == names


def test_unet_keys_follow_the_layers_per_block() -> None:
    unet = VideoUNet(block_out_channels=(32, 64, 64), layers_per_block=1, num_attention_heads=(2, 2, 2))
    names = [published_unet_key(name, layers_per_block=1) for name in unet.state_dict()]
    assert len(set(names)) == len(names)
    assert [unet_key(name, layers_per_block=1) for name in names] == list(unet.state_dict())
    assert "input_blocks.4.0.op.weight" in names  # the second level's downsampler: tap 4
    assert "output_blocks.3.2.conv.weight" in names


def test_first_stage_keys_are_diffusers_names(reference_keys: dict[str, Any], published: dict[str, Shapes]) -> None:
    table: dict[str, str] = reference_keys["first_stage_to_diffusers"]
    assert len(table) == len(published["first_stage"]) == 372
    for name, want in table.items():
        inner = name.removeprefix(PREFIX_BY_PART["first_stage"])
        assert first_stage_key(inner) == want
        assert published_first_stage_key(want) == inner


LEVELS = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4}
DOWN = {"down_block_types": ("DownEncoderBlock2D",) * 4}
UP = {"up_block_types": ("UpDecoderBlock2D",) * 4}


def test_every_autoencoder_key_and_shape_has_its_place(published: dict[str, Shapes]) -> None:
    def weights(part: str) -> dict[str, Tensor]:
        return {key: torch.zeros(()).expand(shape) for key, shape in published[part].items()}  # takes no memory

    first_stage = first_stage_weights(weights("first_stage"))
    own = shapes_of(lambda: AutoencoderKLTemporalDecoder(**LEVELS, **DOWN))
    assert {key: tuple(weight.shape) for key, weight in first_stage.items()} == own
    back = published_first_stage_weights(first_stage)
    assert {key: tuple(weight.shape) for key, weight in back.items()} == published["first_stage"]

    encoder = condition_encoder_weights(weights("condition_encoder"))
    own = shapes_of(lambda: AutoencoderKL(**LEVELS, **DOWN, **UP))
    assert len(encoder) == 248
    assert {key: tuple(weight.shape) for key, weight in encoder.items()} == own
    back = published_condition_encoder_weights(encoder)
    assert {key: tuple(weight.shape) for key, weight in back.items()} == published["condition_encoder"]
    assert all(published_condition_encoder_key(condition_encoder_key(key)) == key for key in back)


def test_a_quant_conv_is_multiplied_into_the_encoder_when_written_in_the_published_layout() -> None:
    torch.manual_seed(0)
    small = {"block_out_channels": (32, 32), "layers_per_block": 1, "down_block_types": ("DownEncoderBlock2D",) * 2}
    vae = AutoencoderKLTemporalDecoder(**small).requires_grad_(False)
    again = AutoencoderKLTemporalDecoder(**small).requires_grad_(False)
    weights = first_stage_weights(published_first_stage_weights(vae.state_dict(), num_levels=2), num_levels=2)
    again.load_state_dict(weights)
    image = torch.randn(1, 3, 16, 16)
    want = vae.quant_conv(vae.encoder(image))
    assert torch.allclose(again.encoder(image), want, atol=1e-5)
    assert torch.allclose(again.quant_conv(again.encoder(image)), want, atol=1e-5)
    latent = torch.randn(3, 4, 8, 8)
    assert torch.equal(vae.decode(latent, num_frames=3).sample, again.decode(latent, num_frames=3).sample)


def test_text_tower_keeps_open_clip_names(published: dict[str, Shapes]) -> None:
    text = dict(published["text"])
    assert text.pop("logit_scale") == ()  # of the contrastive loss; the tower has none
    assert text == shapes_of(lambda: TextTransformer(width=1024, heads=16, layers=24, output_dim=1024))


def test_parts_join_to_the_published_table(reference_keys: dict[str, Any], published: dict[str, Shapes]) -> None:
    joined = join_parts(
        {part: {k: torch.empty(s, device="meta") for k, s in w.items()} for part, w in published.items()}
    )
    assert {key: list(weight.shape) for key, weight in joined.items()} == reference_keys["full_size_keys"]


def test_a_key_of_another_model_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"`resnet\.conv1\.weight` belongs to no part"):
        split_parts({"resnet.conv1.weight": torch.zeros(1)})


def test_rename_keeps_the_weights() -> None:
    weight = torch.ones(2)
    assert rename({"time_embed.0.weight": weight}, unet_key)["unet.time_embedding.linear_1.weight"] is weight
