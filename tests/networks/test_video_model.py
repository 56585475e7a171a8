import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from files.errors import UserError
from networks.autoencoders import PixelShuffleAutoencoder, SVDAutoencoder
from networks.component_config import build
from networks.edm import ResidualPreconditioning
from networks.sampling import Sampler
from networks.text import SeededTextEncoder
from networks.video_model import VideoModel
from networks.video_unet import VideoUNet

TEXTS = ["lift the cube", "stack the cubes"]


def tiny_unet(**changes: Any) -> VideoUNet:  # noqa: ANN401
    settings: dict[str, Any] = {
        "in_channels": 96,
        "out_channels": 48,
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "num_attention_heads": (2, 2),
        "cross_attention_dim": 16,
        "addition_time_embed_dim": 8,
        "zero_init": False,
    }
    return VideoUNet(**settings | changes)


def tiny_model(**changes: Any) -> VideoModel:  # noqa: ANN401
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "unet": tiny_unet(),
        "autoencoder": PixelShuffleAutoencoder(4),
        "text_encoder": SeededTextEncoder(16),
        "num_views": 2,
        "num_frames": 3,
    }
    return VideoModel(**parts | changes)


@pytest.fixture
def model() -> VideoModel:
    return tiny_model()


@pytest.fixture
def frames() -> Tensor:
    return torch.rand(2, 2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_row_zero_is_the_lead_cameras_first_frame_then_camera_by_camera(model: VideoModel, frames: Tensor) -> None:
    rows = model.rows(frames)
    assert rows.shape == (2, model.num_rows, 3, 16, 16)
    assert torch.equal(rows[:, 0], frames[:, 0, 0])
    assert torch.equal(rows[:, 1:4], frames[:, 0])
    assert torch.equal(rows[:, 4:], frames[:, 1])
    assert torch.equal(model.views(rows), frames)


def test_decoding_what_was_encoded_gives_the_frames(model: VideoModel, frames: Tensor) -> None:
    latents = model.encode(frames)
    assert latents.shape == (2, *model.latent_shape(16))
    torch.testing.assert_close(model.decode(latents), frames, atol=1e-6, rtol=0)


def test_each_row_is_conditioned_on_its_own_cameras_current_frame(frames: Tensor) -> None:
    model = tiny_model(condition_noise=0.0)
    conditioning = model.condition(frames[:, :, 0], TEXTS)
    expected = model.encode(frames[:, :, :1].expand(-1, -1, 3, -1, -1, -1))
    assert torch.equal(conditioning.latents, expected)
    assert conditioning.context.shape == (2, 7, 1, 16)
    assert torch.equal(conditioning.context[:, 0, 0], model.text_encoder(TEXTS))


def test_condition_noise_has_the_set_size_and_row_zero_its_own_draw(model: VideoModel) -> None:
    current = torch.zeros(64, 2, 3, 16, 16)
    images = model.condition(current, ["lift"] * 64, range(64)).latents / 2  # std of 0.5
    assert images.std().item() == pytest.approx(0.02, rel=0.02)
    assert not torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 1], images[:, 3])


def test_seeded_condition_noise_does_not_depend_on_the_batch(model: VideoModel, frames: Tensor) -> None:
    together = model.condition(frames[:, :, 0], TEXTS, seeds=[5, 6])
    alone = model.condition(frames[1:, :, 0], TEXTS[1:], seeds=[6])
    assert torch.equal(alone.latents[0], together.latents[1])


def test_features_drop_row_zero_go_fine_to_coarse_and_match_the_full_pass(model: VideoModel, frames: Tensor) -> None:
    conditioning = model.condition(frames[:, :, 0], TEXTS)
    noisy, sigma = torch.randn(2, *model.latent_shape(16)), torch.tensor([0.5, 20.0])
    taps = (3, 5)
    early, emb = model.features(noisy, sigma, conditioning, taps)
    _, full, full_emb = model.denoise_with_features(noisy, sigma, conditioning, taps)
    shapes = model.unet.tap_shapes(model.latent_size(16))
    for tap, feature, same in zip((5, 3), early, full, strict=True):
        assert feature.shape == (2, 2, 3, shapes[tap].channels, shapes[tap].height, shapes[tap].width)
        torch.testing.assert_close(feature, same)
    torch.testing.assert_close(emb, full_emb)
    torch.testing.assert_close(emb, model.level_embedding(sigma))


def test_features_stop_after_the_last_wanted_tap(model: VideoModel, frames: Tensor) -> None:
    ran: list[Tensor] = []
    model.unet.unet.up_blocks[-1].register_forward_hook(lambda *_: ran.append(_[0]))
    model.unet.unet.up_blocks[-1].resnets[-1].register_forward_hook(lambda *_: ran.append(_[0]))
    model.unet.unet.conv_out.register_forward_hook(lambda *_: ran.append(_[0]))
    noise = torch.randn(model.latent_shape(16))
    model.features_of_noise(model.condition(frames[:, :, 0], TEXTS), 20.0, noise, (3, 5))
    assert not ran


def test_imagined_features_are_those_of_pure_noise(model: VideoModel, frames: Tensor) -> None:
    conditioning = model.condition(frames[:, :, 0], TEXTS)
    noise = torch.randn(model.latent_shape(16))
    (imagined,), emb = model.features_of_noise(conditioning, 20.0, noise, (5,))
    noisy = (noise * (20.0**2 + 1) ** 0.5).expand(2, -1, -1, -1, -1)
    (expected,), _ = model.features(noisy, torch.full((2,), 20.0), conditioning, (5,))
    torch.testing.assert_close(imagined, expected)
    torch.testing.assert_close(emb, model.level_embedding(torch.full((2,), 20.0)))


def count_passes(model: VideoModel) -> list[int]:
    """Batch size of every pass of the U-Net from here on."""
    passes: list[int] = []
    model.unet.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    return passes


def test_guidance_of_one_runs_a_single_pass_and_others_one_of_doubled_batch(model: VideoModel, frames: Tensor) -> None:
    conditioning = model.condition(frames[:, :, 0], TEXTS)
    passes = count_passes(model)
    noise = torch.randn(2, *model.latent_shape(16))
    plain = model.predict_video(conditioning, Sampler(2, guidance=1.0), noise)
    assert passes == [2, 2]
    strong = model.predict_video(conditioning, Sampler(2, guidance=3.0), noise)
    assert passes == [2, 2, 4, 4]
    assert not torch.allclose(plain, strong)


def test_guided_prediction_is_extrapolated_from_the_unconditional_one(model: VideoModel, frames: Tensor) -> None:
    """With one step the sample is the guided clean prediction itself."""
    conditioning = model.condition(frames[:, :, 0], TEXTS)
    noise, sigma = torch.randn(2, *model.latent_shape(16)), torch.full((2,), 10.0)
    noisy = model.preconditioning.pure_noise(noise, sigma)
    with torch.no_grad():
        with_condition = model.denoise(noisy, sigma, conditioning)
        without = model.denoise(noisy, sigma, conditioning.unconditional())
    sampled = model.predict_video(conditioning, Sampler(1, sigma_max=10.0, guidance=2.0), noise)
    torch.testing.assert_close(sampled, without + 2 * (with_condition - without), atol=1e-4, rtol=1e-4)


def test_freeze_survives_train(model: VideoModel) -> None:
    assert model.train().unet.training
    model.freeze()
    torch.nn.Sequential(model).train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.trainable_parameters() == []


def test_only_the_unet_is_ever_trained(model: VideoModel, frames: Tensor) -> None:
    model.train()
    assert not any(m.training for part in (model.autoencoder, model.text_encoder) for m in part.modules())
    trained = {id(parameter) for parameter in model.unet.parameters()}
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == trained
    assert len(model.trainable_parameters()) == len(trained)
    latents = model.encode(frames)
    loss = model.loss(latents, torch.randn_like(latents), torch.ones(2), model.condition(frames[:, :, 0], TEXTS))
    assert loss.shape == (2, 7)
    loss.mean().backward()
    assert all(parameter.grad is None for parameter in model.text_encoder.parameters())


def test_zero_network_of_a_fitted_residual_model_predicts_the_current_frame(frames: Tensor) -> None:
    """At high noise and F = 0 the denoiser is its centre."""
    model = tiny_model(unet=tiny_unet(zero_init=True), preconditioning=ResidualPreconditioning(), condition_noise=0.0)
    conditioning = model.condition(frames[:, :, 0], TEXTS)
    model.preconditioning.update(model.encode(frames), conditioning.anchor)
    model.preconditioning.finish()
    noisy = conditioning.anchor + 1e4 * torch.randn(2, *model.latent_shape(16))
    for condition in (conditioning, conditioning.unconditional()):
        denoised = model.denoise(noisy, torch.full((2,), 1e4), condition)
        torch.testing.assert_close(denoised, conditioning.anchor, atol=5e-3, rtol=0)


def test_residual_statistics_load_into_a_fresh_model(frames: Tensor) -> None:
    model, fresh = (tiny_model(preconditioning=ResidualPreconditioning()) for _ in range(2))
    model.preconditioning.update(model.encode(frames), model.condition(frames[:, :, 0], TEXTS).anchor)
    model.preconditioning.finish()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.preconditioning.std, model.preconditioning.std)


def test_bfloat16_autocast_keeps_scalings_in_float32(model: VideoModel, frames: Tensor) -> None:
    conditioning = model.condition(frames[:, :, 0], TEXTS)
    noisy, sigma = 700 * torch.randn(2, *model.latent_shape(16)), torch.tensor([700.0, 700.0])
    with torch.no_grad():
        exact = model.denoise(noisy, sigma, conditioning)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.denoise(noisy, sigma, conditioning)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0)


def test_config_rebuilds_the_model_and_names_every_setting(model: VideoModel) -> None:
    config = json.loads(json.dumps(model.config))
    again = build(config)
    assert json.loads(json.dumps(again.config)) == config
    assert config["init_args"]["unet"]["init_args"]["block_out_channels"] == [32, 32]
    again.load_state_dict(model.state_dict())


def test_model_is_built_from_an_experiment_file() -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(VideoModel, "video")
    arguments = {
        "unet": {
            "class_path": "networks.VideoUNet",
            "init_args": {
                "in_channels": 24,
                "out_channels": 12,
                "block_out_channels": [32, 32],
                "layers_per_block": 1,
                "num_attention_heads": [2, 2],
                "cross_attention_dim": 16,
                "addition_time_embed_dim": 8,
            },
        },
        "autoencoder": {"class_path": "networks.PixelShuffleAutoencoder", "init_args": {"factor": 2}},
        "text_encoder": {"class_path": "networks.SeededTextEncoder", "init_args": {"embed_dim": 16}},
        "preconditioning": {"class_path": "networks.ResidualPreconditioning", "init_args": {"floor": 0.1}},
        "num_views": 2,
        "num_frames": 4,
    }
    config = parser.parse_object({"video": {"class_path": "networks.VideoModel", "init_args": arguments}})
    model = parser.instantiate(config).video
    assert isinstance(model, VideoModel)
    assert isinstance(model.preconditioning, ResidualPreconditioning)
    assert model.preconditioning.floor == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unet": lambda: tiny_unet(in_channels=52)}, "unet.in_channels is 52 but must be 96"),
        ({"unet": lambda: tiny_unet(out_channels=4)}, "unet.out_channels is 4 but must be 48"),
        ({"text_encoder": lambda: SeededTextEncoder(32)}, "unet.cross_attention_dim is 16 but must be 32"),
        ({"num_frames": lambda: 0}, "num_views 2, num_frames 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Callable[[], Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_model(**{name: make() for name, make in changes.items()})


def test_residual_preconditioning_needs_one_latent_space() -> None:
    svd = SVDAutoencoder(block_out_channels=(32, 32), layers_per_block=1)
    unet = tiny_unet(in_channels=8, out_channels=4)
    with pytest.raises(UserError, match="use EDMPreconditioning"):
        tiny_model(autoencoder=svd, unet=unet, preconditioning=ResidualPreconditioning())


def test_other_view_or_frame_count_is_refused(model: VideoModel, frames: Tensor) -> None:
    with pytest.raises(UserError, match="2 views of 3 frames"):
        model.encode(frames[:, :, :2])
    with pytest.raises(UserError, match="2 views of 3 frames"):
        model.condition(frames[:, :1, 0], TEXTS)
    with pytest.raises(UserError, match="multiples of 4"):
        model.latent_shape(18)
