"""Every weight of our networks has the published name and shape, and no published one is left over."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder

from lightning_modules import Stage
from networks.video_unet import VideoUNet
from tests.goldens import published_autoencoder
from tests.videopolicy.conftest import ROOT
from videopolicy.conversion.autoencoder_names import autoencoder_name, fold_quant_conv
from videopolicy.conversion.description import Description
from videopolicy.conversion.layout import Weight, expected_weights
from videopolicy.conversion.names import PREFIX_BY_PART, unet_name

EXPERIMENTS = ROOT / "experiments"


@pytest.fixture(scope="module")
def paper() -> Stage:
    """`-c experiments/robocasa.yaml --model.video experiments/networks/reference.yaml`."""
    description = Description([EXPERIMENTS / "robocasa.yaml"], EXPERIMENTS / "networks" / "reference.yaml", None)
    return description.networks(acts=True, whole=False)


@pytest.fixture(scope="module")
def weights(paper: Stage) -> list[Weight]:
    """Of the full-size networks."""
    return expected_weights(paper)


def test_the_experiments_networks_are_the_published_ones_name_by_name_and_shape_by_shape(
    paper: Stage, weights: list[Weight], reference_keys: dict[str, Any]
) -> None:
    full = {name: tuple(shape) for name, shape in reference_keys["full_size_keys"].items()}
    assert len(full) == 3625
    published = [weight for weight in weights if weight.published is not None]
    assert {weight.published: weight.published_shape for weight in published} == full
    assert len(published) == len(full), "no two weights share a published name"
    own = {name: tuple(tensor.shape) for name, tensor in paper.state_dict().items()}
    assert {weight.native: weight.native_shape for weight in weights if weight.native is not None} == own
    assert [weight.part for weight in weights].count("unet") == 1428


@pytest.mark.parametrize(("part", "start"), [("unet", "unet."), ("first_stage", "")])
def test_names_are_diffusers_own(part: str, start: str, weights: list[Weight], reference_keys: dict[str, Any]) -> None:
    name_of_table = {"unet": "unet_to_diffusers", "first_stage": "first_stage_to_diffusers"}[part]
    table: dict[str, str] = reference_keys[name_of_table]
    native = {"unet": "video.unet.", "first_stage": "video.autoencoder.vae."}[part]
    ours = {weight.published: weight.native for weight in weights if weight.part == part}
    prefix = PREFIX_BY_PART[part]
    assert {name: ours[prefix + name.removeprefix(prefix)] for name in table} == {
        name: native + start + want for name, want in table.items()
    }


def test_names_follow_the_layers_per_block() -> None:
    with torch.device("meta"):
        unet = VideoUNet(block_out_channels=(32, 64, 64), layers_per_block=1, num_attention_heads=(2, 2, 2))
    names = [unet_name(name, layers_per_block=1) for name in unet.state_dict()]
    assert len(set(names)) == len(names)
    assert "input_blocks.4.0.op.weight" in names  # the second level's downsampler: tap 4
    assert "output_blocks.3.2.conv.weight" in names


def test_a_quant_conv_is_multiplied_into_the_encoder_when_written_in_the_published_layout() -> None:
    torch.manual_seed(0)
    small = {"block_out_channels": (32, 32), "layers_per_block": 1, "down_block_types": ("DownEncoderBlock2D",) * 2}
    vae = AutoencoderKLTemporalDecoder(**small).requires_grad_(False)
    again = AutoencoderKLTemporalDecoder(**small).requires_grad_(False)
    state = vae.state_dict()
    names = ("quant_conv.weight", "quant_conv.bias", "encoder.conv_out.weight", "encoder.conv_out.bias")
    folded = fold_quant_conv(*(state[name] for name in names))
    published = {autoencoder_name(key, 2): weight for key, weight in state.items() if not key.startswith("quant_conv.")}
    published |= dict(zip(names[2:], folded, strict=True))
    again.load_state_dict(published_autoencoder(again, published))
    image = torch.randn(1, 3, 16, 16)
    want = vae.quant_conv(vae.encoder(image))
    assert torch.allclose(again.encoder(image), want, atol=1e-5)
    assert torch.allclose(again.quant_conv(again.encoder(image)), want, atol=1e-5)
    latent = torch.randn(3, 4, 8, 8)
    assert torch.equal(vae.decode(latent, num_frames=3).sample, again.decode(latent, num_frames=3).sample)
