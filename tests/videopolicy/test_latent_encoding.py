"""Training on cached latents is training on frames, up to float16."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from datamodules import Batch, ColourJitter, RobosuiteDataModule
from datamodules.frozen_cache import CacheWriter
from files.errors import UserError
from lightning_modules import Stage
from networks import PixelShuffleAutoencoder, SVDAutoencoder, VideoModel
from policies import FeatureLevels, FixedLevel, SharedLevels
from policies.video_inputs import latents_of
from tests.stage_parts import (
    NUM_FRAMES,
    fit,
    lift_datamodule,
    quiet_trainer,
    tiny_action_stage,
    tiny_joint_stage,
    tiny_unet,
    tiny_video_model,
    tiny_video_stage,
)
from videopolicy.latent_encoding import FrameEncoder, seed_of

# float16 keeps 11 bits: latents of about 1 are off by at most 2^-11 = 5e-4 of themselves
RELATIVE = 2e-3


def svd_video_model(condition_noise: float = 0.0) -> VideoModel:
    """A tiny video model with an autoencoder that has a posterior, and one of its own for conditions."""
    text = tiny_video_model().text_encoder
    torch.manual_seed(3)
    autoencoder = SVDAutoencoder(
        separate_condition_encoder=True, block_out_channels=(32, 32, 32), layers_per_block=1, scaling_factor=0.5
    )
    unet = tiny_unet()
    return VideoModel(unet, autoencoder, text, 2, NUM_FRAMES, condition_noise=condition_noise)


def encoder_of(video: VideoModel, data: RobosuiteDataModule, variants: int = 0) -> FrameEncoder:
    return FrameEncoder(data, video.autoencoder, video.text_encoder, video.condition_noise, variants)


def fill(folder: Path, video: VideoModel, data: RobosuiteDataModule, variants: int = 0) -> None:
    encoder_of(video, data, variants).fill(folder, data.demos(), Console(quiet=True))


def batch_of(data: RobosuiteDataModule, **changes: Any) -> Batch:  # noqa: ANN401
    data.setup()
    return data.on_after_batch_transfer(Batch.collate([data.train_set[i] for i in (0, 5, 11)]), 0)


def fill_zeros(stage: Stage) -> None:
    """Layers that start at zero would hide what comes before them."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in stage.parameters():  # the autoencoder, which takes no gradient, stays that of the cache
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.1)


def with_levels(levels: FeatureLevels) -> Callable[[VideoModel], Stage]:
    return lambda video: tiny_action_stage(video, features=levels)


STAGES: dict[str, Callable[[VideoModel], Stage]] = {
    "video": tiny_video_stage,
    "action, shared": with_levels(SharedLevels()),
    "action, independent": with_levels(FixedLevel()),
    "joint": tiny_joint_stage,
}


@pytest.mark.parametrize("name", STAGES)
def test_with_the_same_noise_the_loss_is_that_without_the_cache(
    name: str, robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", svd_video_model(), lift_datamodule(path))
    losses = []
    for data in (lift_datamodule(path), lift_datamodule(path, latent_cache=str(tmp_path / "cache"))):
        stage = STAGES[name](svd_video_model())
        stage.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
        batch = batch_of(data)
        stage.attach(data.preprocessing)
        fill_zeros(stage)
        assert batch.has_frames == (data.latent_cache is None)
        torch.manual_seed(9)  # posterior, levels, dropout and noise are drawn in the same order
        losses.append(stage.training_step(batch, 0).detach())  # type: ignore[call-arg, arg-type, operator]
    frames, cached = (float(loss) for loss in losses)
    assert cached == pytest.approx(frames, rel=RELATIVE)
    assert cached != frames  # float16 leaves a trace, so this is not the same path twice


def test_posteriors_stay_random_in_training(robomimic_file: Callable[..., Path], tmp_path: Path) -> None:
    path, video = robomimic_file(), svd_video_model()
    fill(tmp_path / "cache", video, lift_datamodule(path))
    stage = tiny_video_stage(video)
    batch = batch_of(lift_datamodule(path, latent_cache=str(tmp_path / "cache")))
    first, second = latents_of(stage.video, batch, None), latents_of(stage.video, batch, None)
    assert not torch.allclose(first, second, atol=1e-2)
    mean, log_variance = video.rows(batch.latents.moments.float()).chunk(2, dim=2)
    draws = torch.stack([latents_of(stage.video, batch, None) for _ in range(400)]) / 0.5
    assert torch.allclose(draws.mean(0), mean, atol=0.3)
    assert torch.allclose(draws.std(0).mean(), (0.5 * log_variance).exp().mean(), rtol=0.02)


def test_conditions_are_of_noisy_jittered_frames_drawn_once_a_demo_and_camera(
    robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path, video, jitter = robomimic_file(), svd_video_model(0.02), ColourJitter()
    fill(tmp_path / "cache", video, lift_datamodule(path, colour_jitter=jitter), variants=1)
    data = lift_datamodule(path, colour_jitter=jitter, latent_cache=str(tmp_path / "cache"))
    data.setup()
    demo, _ = data.train_set.locate(3)
    plain = lift_datamodule(path)
    plain.setup()
    lead = data.preprocessing.to_float(torch.cat([plain.train_set[i].frames[0, :1] for i in range(demo.length)]))
    clip = jitter.seeded(lead, seed_of(demo, "agentview.colours", 1))
    window = data.train_set.window(3, seed=0).latents
    assert torch.allclose(window.moments[0, 0].float(), video.autoencoder.moments(clip)[3], atol=2e-2, rtol=2e-3)
    for row, name in enumerate(("lead.condition", "agentview.condition")):
        noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(seed_of(demo, name, 1)))
        wanted = video.autoencoder.encode_condition(clip + 0.02 * noise)[3]
        assert torch.allclose(window.condition[row].float(), wanted, atol=2e-3, rtol=2e-3)
    assert not window.condition[0].equal(window.condition[1])


def test_a_run_trains_and_validates_on_the_cache_with_pictures(
    robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", svd_video_model(), lift_datamodule(path))
    data = lift_datamodule(path, latent_cache=str(tmp_path / "cache"), val_batch_size=2)
    for stage in (tiny_video_stage(svd_video_model()), tiny_joint_stage(svd_video_model())):
        trainer = quiet_trainer(tmp_path, 2, limit_val_batches=2, num_sanity_val_steps=0, val_check_interval=2)
        fit(trainer, stage, data)
        assert {"val/loss", "val/psnr", "val/ssim"} <= set(trainer.callback_metrics)
        assert stage.predicted is not None
        assert stage.predicted[0].shape == (2, 2, NUM_FRAMES, 3, 16, 16)


@pytest.mark.forks
def test_two_ranks_walk_a_full_validation_on_the_cache_and_predict_as_many_as_asked(
    robomimic_file: Callable[..., Path], tmp_path: Path
) -> None:
    """9 held-out windows: one rank's last batch is filled up."""
    path = robomimic_file(lengths=(9, 9, 9))
    fill(tmp_path / "cache", svd_video_model(), lift_datamodule(path))
    data = lift_datamodule(path, latent_cache=str(tmp_path / "cache"), val_batch_size=2)
    stage = tiny_video_stage(svd_video_model(), num_predicted=3)
    ranks = {"devices": 2, "strategy": "ddp_fork", "num_sanity_val_steps": 0, "val_check_interval": 1}
    trainer = quiet_trainer(tmp_path, 1, **ranks)
    environment = dict(os.environ)
    fit(trainer, stage, data)
    os.environ.clear()
    os.environ.update(environment)  # the launcher leaves its address and rank behind
    assert {"val/loss", "val/psnr", "val/ssim"} <= set(trainer.callback_metrics)


@pytest.mark.parametrize("make", [tiny_video_stage, tiny_joint_stage])
def test_a_run_on_the_cache_needs_no_held_out_demos(
    robomimic_file: Callable[..., Path], tmp_path: Path, make: Callable[..., Stage]
) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", svd_video_model(), lift_datamodule(path))
    data = lift_datamodule(path, latent_cache=str(tmp_path / "cache"), val_fraction=0)
    trainer = quiet_trainer(tmp_path, 1, val_check_interval=1)
    fit(trainer, make(svd_video_model()), data)
    assert "train/loss" in trainer.callback_metrics
    assert "val/loss" not in trainer.callback_metrics


def test_a_cache_of_other_weights_is_refused_at_set_up(robomimic_file: Callable[..., Path], tmp_path: Path) -> None:
    path, other = robomimic_file(), svd_video_model()
    fill(tmp_path / "cache", svd_video_model(), lift_datamodule(path))
    with torch.no_grad():
        next(other.autoencoder.parameters()).add_(1e-3)
    data = lift_datamodule(path, latent_cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"made with autoencoder: 'SVDAutoencoder \w+' here, 'SVDAutoencoder"):
        fit(quiet_trainer(tmp_path, 1), tiny_video_stage(other), data)
    noisy = svd_video_model(condition_noise=0.02)
    with pytest.raises(UserError, match=r"condition_noise: 0.0 here, 0.02 wanted"):
        fit(quiet_trainer(tmp_path, 1), tiny_video_stage(noisy), data)


def test_the_size_on_disk_is_told_beforehand(robomimic_file: Callable[..., Path], tmp_path: Path) -> None:
    data, video = lift_datamodule(robomimic_file()), svd_video_model()
    fill(tmp_path / "cache", video, data, variants=2)
    held = sum(path.stat().st_size - 128 for path in (tmp_path / "cache").glob("*/*.npy"))  # 128 bytes of header each
    encoder = encoder_of(video, data, 2)
    with CacheWriter(tmp_path / "cache", encoder.key(data.demos()), data.demos(), encoder.shapes) as cache:
        assert held == cache.num_bytes


def test_autoencoders_without_gain_are_refused(lift_data: RobosuiteDataModule) -> None:
    video = svd_video_model()
    with pytest.raises(UserError, match=r"PixelShuffleAutoencoder has no posterior.*nothing to cache"):
        FrameEncoder(lift_data, PixelShuffleAutoencoder(4), video.text_encoder, 0.02, 0)
    shallow = SVDAutoencoder(block_out_channels=(32, 32), layers_per_block=1)
    with pytest.raises(UserError, match="1024 bytes, its pixels 768; a cache gains nothing"):
        FrameEncoder(lift_data, shallow, video.text_encoder, 0.02, 0)
