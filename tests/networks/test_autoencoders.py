import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from files.errors import UserError
from networks.autoencoders import Autoencoder, ConditionEncoder, PixelShuffleAutoencoder, SVDAutoencoder
from networks.component_config import build
from networks.text import SeededTextEncoder
from networks.video_model import VideoModel
from networks.video_unet import VideoUNet
from tests.goldens import check, published_autoencoder
from videopolicy.conversion.autoencoder_names import autoencoder_name, is_attention_matrix
from videopolicy.conversion.names import PREFIX_BY_PART

Fill = Callable[[Mapping[str, Sequence[int]]], dict[str, Tensor]]
SMALL: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1}


def images(n: int = 2, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


# --- pixel shuffle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_every_uint8_image_survives_pixel_shuffle_exactly(factor: int) -> None:
    autoencoder = PixelShuffleAutoencoder(factor, mean=(0.1, -0.2, 0.3), std=(0.5, 0.4, 0.3))
    pixels = torch.arange(256).repeat(3).reshape(1, 3, 16, 16)
    latents = autoencoder.encode(pixels / 127.5 - 1)
    assert latents.shape == (1, autoencoder.latent_channels, 16 // factor, 16 // factor)
    decoded = autoencoder.decode(latents, num_frames=1)
    assert torch.equal(((decoded + 1) * 127.5).round().long(), pixels)


def test_one_latent_element_holds_one_square_of_pixels() -> None:
    picture = torch.zeros(1, 3, 8, 8)
    picture[..., 4:, :4] = 1
    latents = PixelShuffleAutoencoder(4).encode(picture)
    assert latents[0, :, 1, 0].eq(2).all()
    assert latents.sum() == 2 * 48


def test_colour_statistics_normalise_the_latents() -> None:
    mean, std = torch.tensor([0.2, 0.0, -0.3]), torch.tensor([0.1, 0.5, 0.3])
    pictures = mean.view(3, 1, 1) + std.view(3, 1, 1) * torch.randn(64, 3, 16, 16)
    latents = PixelShuffleAutoencoder(8, mean.tolist(), std.tolist()).encode(pictures)
    assert latents.mean().item() == pytest.approx(0, abs=0.02)
    assert latents.std().item() == pytest.approx(1, abs=0.02)


def test_pixel_shuffle_condition_is_in_the_space_of_its_latents() -> None:
    autoencoder = PixelShuffleAutoencoder(4)
    assert autoencoder.same_space
    assert torch.equal(autoencoder.encode(images()), autoencoder.encode_condition(images()))


@pytest.mark.parametrize("autoencoder", [PixelShuffleAutoencoder(8), SVDAutoencoder(**SMALL)])
def test_image_size_must_divide(autoencoder: Autoencoder) -> None:
    with pytest.raises(UserError, match="multiples of"):
        autoencoder.encode(images(size=15))


def test_wrong_pixel_shuffle_settings_are_refused() -> None:
    with pytest.raises(UserError, match="std positive"):
        PixelShuffleAutoencoder(std=(1.0, 0.0, 1.0))


# --- Stable Video Diffusion -----------------------------------------------------------------------------------------


def part(keys: Mapping[str, Sequence[int]], name: str, fill: Fill) -> dict[str, Tensor]:
    """Weights of a part of the published checkpoint, by key inside it."""
    prefix = PREFIX_BY_PART[name]
    filled = fill({key: shape for key, shape in keys.items() if key.startswith(prefix)})
    return {key.removeprefix(prefix): value for key, value in filled.items()}


@pytest.mark.golden
def test_real_size_autoencoder_is_the_published_one(
    parity_arrays: Callable[[str], dict[str, Tensor]],
    unit: Callable[[str, Sequence[int]], Tensor],
    reference_keys: dict[str, Any],
    fill_by_rule: Fill,
) -> None:
    arrays, autoencoder = parity_arrays("vae_full"), SVDAutoencoder()
    weights = part(reference_keys["full_size_keys"], "first_stage", fill_by_rule)
    autoencoder.vae.load_state_dict(published_autoencoder(autoencoder.vae, weights))
    scale = autoencoder.scaling_factor
    pictures = 0.5 * unit("vae/image", (3, 3, 64, 64))
    mode = autoencoder.encode(pictures, sample=False) / scale
    check("vae_full moments: encode", mode, arrays["moments"][:, :4], 1e-4)
    check("vae_full moments: encode_condition", autoencoder.encode_condition(pictures), arrays["moments"][:, :4], 1e-4)
    with torch.no_grad():
        moments = autoencoder.vae.quant_conv(autoencoder.vae.encoder(pictures))
    check("vae_full moments", moments, arrays["moments"], 1e-4)
    decoded = autoencoder.decode(scale * unit("vae/latent", (9, 4, 8, 8)), num_frames=9)
    check("vae_full decoded", decoded, arrays["decoded"], 1e-4)


@pytest.mark.golden
def test_conditions_of_a_video_are_the_published_ones(
    parity_arrays: Callable[[str], dict[str, Tensor]],
    unit: Callable[[str, Sequence[int]], Tensor],
    fill_by_rule: Fill,
) -> None:
    """Row 0, then eight rows a camera, each from its own picture; the encoder is separate and its mode not scaled."""
    arrays, widths = parity_arrays("conditioner_tiny"), (32, 64, 128, 128)
    autoencoder = SVDAutoencoder(separate_condition_encoder=True, block_out_channels=widths)
    assert autoencoder.condition_encoder is not None
    own = autoencoder.condition_encoder.state_dict()
    shapes = {autoencoder_name(key): tuple(value.shape) for key, value in own.items()}
    shapes = {name: (*shape, 1, 1) if is_attention_matrix(name) else shape for name, shape in shapes.items()}
    prefix = PREFIX_BY_PART["condition_encoder"]
    filled = fill_by_rule({prefix + key: shape for key, shape in shapes.items()})
    weights = {key.removeprefix(prefix): value for key, value in filled.items()}
    autoencoder.condition_encoder.load_state_dict(published_autoencoder(autoencoder.condition_encoder, weights))
    unet = VideoUNet(block_out_channels=(32,), num_attention_heads=(2,), cross_attention_dim=16)
    video = VideoModel(unet, autoencoder, SeededTextEncoder(16), num_views=3, num_frames=8)
    names = ["cond/cond_frames", "cond/cond_frames_2", "cond/cond_frames_3", "cond/cond_frames_4"]
    pictures = torch.stack([0.5 * unit(name, (2, 3, 64, 64)) for name in names], dim=1)
    conditioning = video.condition_from_images(pictures, ["lift"] * 2)
    rows = conditioning.latents.flatten(0, 1)
    check("conditioner_tiny concat", rows[arrays["concat_rows"]], arrays["concat"], 1e-4)
    unconditional = conditioning.unconditional()
    assert unconditional.latents.abs().max() == arrays["uc_concat_absmax"] == 0
    assert unconditional.context.abs().max() == arrays["uc_crossattn_absmax"] == 0
    real = VideoUNet(block_out_channels=(32,), num_attention_heads=(2,), cross_attention_dim=16)  # 3 x 256 sinusoids
    ids = torch.tensor([video.fps_id, video.motion_bucket, video.condition_noise])
    check("conditioner_tiny vector", real.unet.add_time_proj(ids).reshape(1, -1), arrays["vector"], 1e-5)


@pytest.fixture
def small() -> SVDAutoencoder:
    torch.manual_seed(0)
    return SVDAutoencoder(**SMALL)


def test_latents_are_scaled_and_conditions_are_not(small: SVDAutoencoder) -> None:
    torch.testing.assert_close(small.encode(images(), sample=False), 0.18215 * small.encode_condition(images()))
    assert not small.same_space


def test_targets_are_drawn_from_the_posterior(small: SVDAutoencoder) -> None:
    torch.manual_seed(0)
    draws = torch.stack([small.encode(images()) for _ in range(300)]) / small.scaling_factor
    with torch.no_grad():
        mean, log_variance = small.vae.quant_conv(small.vae.encoder(images())).chunk(2, dim=1)
    torch.testing.assert_close(draws.mean(0), mean, atol=0.3, rtol=0)
    torch.testing.assert_close(draws.std(0), (log_variance / 2).exp(), atol=0.3, rtol=0.2)


def test_samples_are_decoded_apart_and_rows_together(small: SVDAutoencoder) -> None:
    latents = torch.randn(6, 4, 4, 4)
    both = small.decode(latents, num_frames=3)
    torch.testing.assert_close(both[:3], small.decode(latents[:3], num_frames=3))
    assert not torch.allclose(both[0], small.decode(latents[:1], num_frames=1)[0])


def test_chunked_encoding_changes_nothing(small: SVDAutoencoder) -> None:
    whole = small.encode_condition(images(5))
    small.max_images = 2
    torch.testing.assert_close(small.encode_condition(images(5)), whole)


def test_autoencoder_takes_no_gradient_and_ignores_autocast(small: SVDAutoencoder) -> None:
    assert not any(parameter.requires_grad for parameter in small.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        inside = small.encode(images(), sample=False)
    assert torch.equal(inside, small.encode(images(), sample=False))


def test_weights_load_from_a_pipeline_folder_and_from_the_autoencoders_own(
    small: SVDAutoencoder, tmp_path: Path
) -> None:
    image_vae = AutoencoderKL(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )
    small.vae.save_pretrained(tmp_path / "pipeline" / "vae")
    image_vae.save_pretrained(tmp_path / "image")
    loaded = SVDAutoencoder(
        str(tmp_path / "pipeline"),
        separate_condition_encoder=True,
        condition_pretrained=str(tmp_path / "image"),
        **SMALL,
    )
    assert torch.equal(loaded.encode(images(), sample=False), small.encode(images(), sample=False))
    with torch.no_grad():
        expected = image_vae.eval().encode(images()).latent_dist.mode()
    torch.testing.assert_close(loaded.encode_condition(images()), expected)
    again = SVDAutoencoder(str(tmp_path / "pipeline" / "vae"), **SMALL)
    assert torch.equal(again.decode(torch.ones(1, 4, 2, 2), 1), small.decode(torch.ones(1, 4, 2, 2), 1))
    assert build(loaded.config, load_pretrained=False).config["init_args"]["pretrained"] is None
    with pytest.raises(UserError, match="make them equal"):
        SVDAutoencoder(str(tmp_path / "pipeline"))


def test_missing_pretrained_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no AutoencoderKLTemporalDecoder could be loaded"):
        SVDAutoencoder(str(tmp_path))
    with pytest.raises(UserError, match="separate_condition_encoder"):
        SVDAutoencoder(condition_pretrained=str(tmp_path))


@pytest.mark.parametrize("autoencoder", [PixelShuffleAutoencoder(4, std=(0.5, 0.6, 0.7)), SVDAutoencoder(**SMALL)])
def test_config_rebuilds_the_autoencoder(autoencoder: Autoencoder) -> None:
    config = json.loads(json.dumps(autoencoder.config))
    again = build(config)
    assert json.loads(json.dumps(again.config)) == config
    again.load_state_dict(autoencoder.state_dict())


def test_condition_encoder_has_the_keys_of_an_image_autoencoder() -> None:
    keys = set(ConditionEncoder((32, 64), 1, 4).state_dict())
    image_vae = AutoencoderKL(
        block_out_channels=(32, 64), layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 2
    )
    assert keys == {key for key in image_vae.state_dict() if key.startswith(("encoder.", "quant_conv."))}
