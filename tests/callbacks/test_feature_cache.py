"""Cached features train what uncached ones would."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks import CheckpointHandoff, FeatureCache
from datamodules import RobosuiteDataModule
from networks import LogNormalNoise
from tests.stage_parts import fit, quiet_trainer, tiny_action_stage, tiny_video_model, tiny_video_stage


def features_of_first_windows(stage: object, data: RobosuiteDataModule) -> list[torch.Tensor]:
    batch = next(iter(data.window_loader("train", batch_size=6)))
    batch.frames = data.preprocessing.to_float(batch.frames)
    return stage.batch_features(batch)[0]  # type: ignore[attr-defined, no-any-return]


def test_cached_features_equal_those_of_the_network(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    handoff = tmp_path / "handoff"
    video = tiny_video_model()
    video.condition_noise = 0.0
    fit(quiet_trainer(tmp_path, 1, CheckpointHandoff(str(handoff))), tiny_video_stage(video), lift_data)
    stage = tiny_action_stage(video, condition_dropout=0.0)
    cache = FeatureCache(str(tmp_path / "features"), batch_size=5)
    trainer = quiet_trainer(tmp_path, 2, CheckpointHandoff(str(handoff)), cache)
    seen: list[list[torch.Tensor]] = []
    stage.on_train_start = lambda: seen.append(  # type: ignore[method-assign]
        stage.cached_features(torch.arange(6), True)  # type: ignore[misc]
    )
    fit(trainer, stage, lift_data)
    assert stage.cached_features is None, "the module is given back as it was"
    stage.eval()
    for cached, computed in zip(seen[0], features_of_first_windows(stage, lift_data), strict=True):
        assert torch.allclose(cached, computed, atol=2e-2, rtol=2e-3)  # float16 on disk


def test_frames_are_not_read_while_training_from_the_cache(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    stage = tiny_action_stage()
    sizes: list[int] = []
    original = stage.training_step
    stage.training_step = lambda batch, batch_idx: (sizes.append(batch.frames.numel()), original(batch, batch_idx))[1]  # type: ignore[method-assign]
    fit(
        quiet_trainer(tmp_path, 3, CheckpointHandoff(str(handoff)), FeatureCache(str(tmp_path / "f"))), stage, lift_data
    )
    assert sizes == [0, 0, 0]
    assert lift_data.read_frames


def test_standardised_features_have_zero_mean_and_unit_variance(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    stage = tiny_action_stage(standardize_features=True)
    seen: list[list[torch.Tensor]] = []
    stage.on_train_start = lambda: seen.append(  # type: ignore[method-assign]
        stage.cached_features(torch.arange(lift_data.num_train_windows), True)  # type: ignore[misc]
    )
    fit(
        quiet_trainer(tmp_path, 1, CheckpointHandoff(str(handoff)), FeatureCache(str(tmp_path / "f"))), stage, lift_data
    )
    for feature in seen[0]:
        rows = feature.movedim(3, 0).flatten(1)
        assert rows.mean(1).abs().max() < 1e-2
        assert (rows.std(1) - 1).abs().max() < 1e-2


def test_second_run_finds_the_features_and_another_network_does_not(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    def run(**arguments: object) -> float:
        callbacks = (CheckpointHandoff(str(handoff)), FeatureCache(str(tmp_path / "f")))
        fit(quiet_trainer(tmp_path, 1, *callbacks), tiny_action_stage(**arguments), lift_data)
        return (tmp_path / "f" / "train_0.npy").stat().st_mtime_ns

    first = run()
    assert run() == first
    assert run(video_sigma=5.0) != first


def test_cache_of_shared_levels_is_refused(tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path) -> None:
    with pytest.raises(MisconfigurationException, match="noise_levels: independent"):
        fit(
            quiet_trainer(tmp_path, 1, CheckpointHandoff(str(handoff)), FeatureCache(str(tmp_path / "f"))),
            tiny_action_stage(noise_levels="shared"),
            lift_data,
        )


def test_cache_of_drawn_levels_is_refused(tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path) -> None:
    callbacks = (CheckpointHandoff(str(handoff)), FeatureCache(str(tmp_path / "f")))
    with pytest.raises(MisconfigurationException, match="video_noise draws a level"):
        fit(quiet_trainer(tmp_path, 1, *callbacks), tiny_action_stage(video_noise=LogNormalNoise()), lift_data)


def test_cached_features_of_a_partly_denoised_film_are_not_those_of_pure_noise(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    def cached(**arguments: object) -> np.ndarray:
        callbacks = (CheckpointHandoff(str(handoff)), FeatureCache(str(tmp_path / "f")))
        fit(quiet_trainer(tmp_path, 1, *callbacks), tiny_action_stage(**arguments), lift_data)
        return np.load(tmp_path / "f" / "train_0.npy")

    assert not np.array_equal(cached(), cached(video_steps=1))
