"""Cached features train what uncached ones would."""

import os
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from callbacks import CheckpointHandoff, FeatureCache
from callbacks.feature_cache import Split, feature_key
from datamodules import Batch, RobosuiteDataModule, windows
from datamodules.cached_windows import CachedFeatures
from files.errors import UserError
from lightning_modules import ActionStage
from networks import LogNormalNoise, Sampler, VideoModel
from policies import FixedLevel, RandomLevel, SharedLevels, VideoPolicy
from tests.stage_parts import (
    fit,
    lift_datamodule,
    quiet_trainer,
    tiny_action_stage,
    tiny_adapter,
    tiny_video_model,
    tiny_video_stage,
)

ONE_TAP = {"taps": (7,), "adapter": partial(tiny_adapter, tap_widths=(16,), entry_widths=())}


def batch_of(data: RobosuiteDataModule, split: Split = "train") -> Batch:
    """The first windows of a split, as a stage gets them."""
    batch = next(iter(data.window_loader(split, batch_size=6)))
    batch.frames = data.preprocessing.to_float(batch.frames)
    return batch


class Recorded(ActionStage):
    """Keeps the batches that its policy saw, and what was made of their features."""

    seen: list[tuple[str, Batch, list[torch.Tensor]]]


def recorded(video: VideoModel | None = None, **arguments: object) -> Recorded:
    stage = tiny_action_stage(video, **arguments)
    stage.__class__ = Recorded
    stage.seen = []  # type: ignore[attr-defined]
    policy, read = stage.policy, stage.policy.batch_features

    def batch_features(batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor]:
        features, emb = read(batch)
        stage.seen.append(("train" if policy.training else "val", batch, features))  # type: ignore[attr-defined]
        return features, emb

    policy.batch_features = batch_features  # type: ignore[method-assign]
    return stage  # type: ignore[return-value]


def run(folder: Path, handoff: Path, stage: ActionStage, data: RobosuiteDataModule, steps: int = 1) -> None:
    callbacks = (CheckpointHandoff(str(handoff)), FeatureCache(str(folder / "f"), batch_size=5))
    fit(quiet_trainer(folder, steps, *callbacks), stage, data)


def first_tap(folder: Path) -> Path:
    """The one array of the first tap: there is one demo file."""
    (path,) = (folder / "f").rglob("tap0.npy")
    return path


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("condition_noise", [0.0, 0.02])
def test_cached_features_equal_those_of_the_network(
    condition_noise: float, workers: int, tmp_path: Path, robomimic_file: Callable[..., Path]
) -> None:
    data, handoff = lift_datamodule(robomimic_file(), num_workers=workers), tmp_path / "handoff"
    video = tiny_video_model()
    video.condition_noise = condition_noise
    fit(quiet_trainer(tmp_path, 1, CheckpointHandoff(str(handoff))), tiny_video_stage(video), data)
    stage = recorded(video, condition_dropout=0.0)
    run(tmp_path, handoff, stage, data, steps=3)
    data.num_workers = 0
    assert {split for split, *_ in stage.seen} == {"train", "val"}
    for split, batch, features in stage.seen:
        plain = data.train_set if split == "train" else data.val_set
        assert not batch.has_frames
        assert plain.features is None, "the data is given back as it was"
        frames = torch.stack([plain[index].frames[:, 0] for index in batch.windows.tolist()])
        seeds = batch.windows.tolist()
        conditioning = video.condition(data.preprocessing.to_float(frames), batch.instructions, seeds=seeds)
        for cached, computed in zip(features, stage.policy.features_of_noise(conditioning)[0], strict=True):
            assert torch.allclose(cached, computed, atol=2e-2, rtol=2e-3)  # float16 on disk


def test_conditioning_noise_is_drawn_once_from_a_seed_and_said_to_be(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    contents = []
    for seed in (0, 123):
        torch.manual_seed(seed)
        with pytest.warns(UserWarning, match=r"condition_noise 0\.02 on a window's conditioning images is one draw"):
            run(tmp_path, handoff, tiny_action_stage(condition_dropout=0.0), lift_data)
        contents.append([path.read_bytes() for path in sorted((tmp_path / "f").rglob("*.npy"))])
        shutil.rmtree(tmp_path / "f")
    assert contents[0] == contents[1]


def test_standardised_features_have_zero_mean_and_unit_variance(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    stage = tiny_action_stage(features=FixedLevel(standardize=True))
    run(tmp_path, handoff, stage, lift_data)
    windows = lift_data.train_set
    reader = CachedFeatures(tmp_path / "f", {}, windows.demos)
    read = [reader.window(*windows.locate(index)) for index in range(len(windows))]
    raw = [torch.stack(tap).float() for tap in zip(*read, strict=True)]
    assert any(abs(feature.std() - 1) > 0.1 for feature in raw)
    for feature in stage.policy.standardizer(raw):  # type: ignore[misc]
        rows = feature.movedim(3, 0).flatten(1)
        assert rows.mean(1).abs().max() < 1e-2
        assert (rows.std(1) - 1).abs().max() < 1e-2


def test_second_run_finds_the_features_and_another_network_does_not(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    def filled_at(**arguments: object) -> float:
        run(tmp_path, handoff, tiny_action_stage(**arguments), lift_data)
        return first_tap(tmp_path).stat().st_mtime_ns

    first = filled_at()
    assert filled_at() == first
    assert filled_at(features=FixedLevel(5.0)) != first


@pytest.mark.parametrize("levels", [SharedLevels(), RandomLevel(LogNormalNoise())])
def test_features_that_change_with_every_draw_are_refused(
    levels: object, tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    with pytest.raises(UserError, match="FixedLevel"):
        run(tmp_path, handoff, tiny_action_stage(features=levels), lift_data)


def test_cached_features_of_a_partly_denoised_film_are_not_those_of_pure_noise(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    def cached(**arguments: object) -> np.ndarray:
        callbacks = (CheckpointHandoff(str(handoff)), FeatureCache(str(tmp_path / "f")))
        fit(quiet_trainer(tmp_path, 1, *callbacks), tiny_action_stage(**arguments), lift_data)
        return np.load(first_tap(tmp_path))

    assert not np.array_equal(cached(), cached(features=FixedLevel(steps=1)))


# --- what the features depend on ----------------------------------------------------------------------------------


def changed_text_tower() -> VideoModel:
    video = tiny_video_model()
    with torch.no_grad():
        next(video.text_encoder.parameters()).add_(1e-3)
    return video


@pytest.mark.parametrize(
    ("data_change", "stage_change"),
    [
        ({"instruction": "other words"}, {}),
        ({"orientation": "flip_vertical"}, {}),
        ({"split_seed": 5}, {}),
        ({"limit_demos": 2}, {}),
        ({}, ONE_TAP),
        ({}, {"features": FixedLevel(steps=2), "video_sampler": Sampler(2, rho=3.0)}),
        ({}, {"features": FixedLevel(steps=2, sigma_end=2.0)}),
    ],
    ids=["words", "orientation", "split", "demos", "taps", "spacing of the levels", "last level"],
)
def test_features_of_other_words_pictures_or_levels_are_not_taken(
    data_change: dict[str, object],
    stage_change: dict[str, object],
    tmp_path: Path,
    lift_data: RobosuiteDataModule,
    handoff: Path,
) -> None:
    first = {"features": FixedLevel(steps=2)} if "features" in stage_change else {}
    run(tmp_path, handoff, tiny_action_stage(**first), lift_data)
    before = first_tap(tmp_path).stat().st_mtime_ns, (tmp_path / "f" / "key.json").read_text()
    other = lift_datamodule(Path(str(lift_data.paths)), **data_change)
    stage = recorded(**stage_change)
    run(tmp_path, handoff, stage, other)
    assert (tmp_path / "f" / "key.json").read_text() != before[1]
    assert first_tap(tmp_path).stat().st_mtime_ns != before[0]
    for _, batch, features in stage.seen:
        assert len(features) == len(stage.policy.taps)
        assert len(features[0]) == len(batch)
    run(tmp_path, handoff, tiny_action_stage(**stage_change), other)


def test_the_key_tells_weights_of_autoencoder_and_text_tower_and_nothing_that_does_not_matter(
    lift_data: RobosuiteDataModule,
) -> None:
    def key_of(video: VideoModel, data: RobosuiteDataModule = lift_data, **arguments: object) -> dict[str, Any]:
        stage = tiny_action_stage(video, **arguments)
        data.setup()
        stage.attach(data.preprocessing)
        return feature_key(stage.policy, data)

    plain = key_of(tiny_video_model())
    assert key_of(changed_text_tower())["weights"] != plain["weights"]
    assert key_of(tiny_video_model(seed=4))["weights"] != plain["weights"]
    path = Path(str(lift_data.paths))
    assert key_of(tiny_video_model(), lift_datamodule(path, action_horizon=8, statistics="quantile")) == plain
    assert key_of(tiny_video_model(), taps=(7, 3), video_sampler=Sampler(3, rho=3.0)) == plain


def test_a_changed_demo_file_makes_new_features(tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path) -> None:
    run(tmp_path, handoff, tiny_action_stage(), lift_data)
    before = (tmp_path / "f" / "key.json").read_text()
    path = Path(str(lift_data.paths))
    os.utime(path, ns=(1, 1))
    run(tmp_path, handoff, tiny_action_stage(), lift_datamodule(path))
    assert (tmp_path / "f" / "key.json").read_text() != before


def test_windows_of_validation_never_get_features_of_training_whatever_the_mode(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    stage = recorded(condition_dropout=0.0)
    forgetful = stage.validation_step
    stage.validation_step = lambda *args: (stage.train(), forgetful(*args))[1]  # type: ignore[method-assign]
    run(tmp_path, handoff, stage, lift_data)
    plain = {tuple(lift_data.val_set[i].actions.flatten().tolist()): i for i in range(len(lift_data.val_set))}
    seen = [
        (batch, features) for _, batch, features in stage.seen if tuple(batch.actions[0].flatten().tolist()) in plain
    ]
    assert seen
    for batch, features in seen:
        frames = torch.stack([lift_data.val_set[i].frames[:, 0] for i in batch.windows.tolist()])
        frames = lift_data.preprocessing.to_float(frames)
        conditioning = stage.video.condition(frames, batch.instructions, seeds=batch.windows.tolist())
        assert torch.allclose(features[0], stage.policy.features_of_noise(conditioning)[0][0], atol=2e-2, rtol=2e-3)


# --- what is read -------------------------------------------------------------------------------------------------


def frames_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of every stretch of pictures that is read from now on."""
    steps: list[int] = []
    original = windows.read_frames
    monkeypatch.setattr(windows, "read_frames", lambda data, s: (steps.append(len(s)), original(data, s))[1])
    return steps


@pytest.mark.parametrize("is_cached", [True, False])
def test_only_the_current_frame_of_a_camera_is_read(
    is_cached: bool, tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, cache = frames_read(monkeypatch), [FeatureCache(str(tmp_path / "f"))] if is_cached else []
    fit(quiet_trainer(tmp_path, 2, CheckpointHandoff(str(handoff)), *cache), tiny_action_stage(), lift_data)
    assert set(read) == {1}
    if is_cached:
        assert len(read) == 2 * (len(lift_data.train_set) + len(lift_data.val_set))
    read.clear()
    fit(quiet_trainer(tmp_path, 1), tiny_video_stage(), lift_data)  # the same data module serves another stage
    assert max(read) == lift_data.num_frames
    read.clear()
    shared = tiny_action_stage(features=SharedLevels())
    fit(quiet_trainer(tmp_path, 1, CheckpointHandoff(str(handoff))), shared, lift_data)
    assert max(read) == lift_data.num_frames


def test_training_on_current_frames_alone_is_training_on_all(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    def loss(uses_future: bool) -> float:
        stage = tiny_action_stage()
        stage.__class__ = type("Stage", (ActionStage,), {"uses_future_frames": uses_future})
        torch.manual_seed(0)
        trainer = quiet_trainer(tmp_path, 2, CheckpointHandoff(str(handoff)), num_sanity_val_steps=0)
        fit(trainer, stage, lift_data)
        return float(trainer.callback_metrics["train/loss"])

    assert loss(uses_future=False) == loss(uses_future=True)


# --- files --------------------------------------------------------------------------------------------------------


def test_fewer_taps_or_windows_in_the_same_folder_never_open_old_files(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    run(tmp_path, handoff, tiny_action_stage(features=FixedLevel(standardize=True)), lift_data)
    assert list((tmp_path / "f").rglob("tap1.npy"))
    run(tmp_path, handoff, tiny_action_stage(**ONE_TAP, features=FixedLevel(standardize=True)), lift_data)
    assert not list((tmp_path / "f").rglob("tap1.npy"))
    run(tmp_path, handoff, tiny_action_stage(**ONE_TAP), lift_datamodule(Path(str(lift_data.paths)), limit_demos=2))


def test_a_cache_that_was_killed_while_it_was_filled_is_filled_again(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, handoff, tiny_action_stage(), lift_data)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "f").rglob("*.npy")}
    shutil.rmtree(tmp_path / "f")
    stage, calls = tiny_action_stage(), []
    imagine = stage.policy.features_of_noise

    def killed(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return imagine(*arguments)  # type: ignore[arg-type]

    stage.policy.features_of_noise = killed  # type: ignore[method-assign, assignment]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path, handoff, stage, lift_data)
    with pytest.raises(UserError, match="not complete"):
        CachedFeatures(tmp_path / "f", {}, lift_data.train_set.demos)
    run(tmp_path, handoff, tiny_action_stage(), lift_data)
    assert {path.name: path.read_bytes() for path in (tmp_path / "f").rglob("*.npy")} == whole


@pytest.mark.parametrize("fingerprint", ['{"format": 2, "complete": true}', '{"network": "ab', None])
def test_a_folder_of_an_older_version_is_filled_again(
    fingerprint: str | None, tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    (tmp_path / "f").mkdir()
    np.save(tmp_path / "f" / "train_0.npy", np.zeros((2, 1, 1, 1, 1, 1), np.float16))
    if fingerprint is not None:
        (tmp_path / "f" / "fingerprint.json").write_text(fingerprint)
    run(tmp_path, handoff, tiny_action_stage(), lift_data)
    assert sorted(path.name for path in (tmp_path / "f").iterdir() if path.is_file()) == [".lock", "key.json"]


def test_too_little_room_is_said_before_anything_is_computed(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    stage = tiny_action_stage()
    stage.policy.features_of_noise = lambda *_: pytest.fail("computed")  # type: ignore[method-assign]
    num_bytes = 28 * 2 * 2 * (32 * 4 * 4 + 32 * 2 * 2) * 2  # windows, cameras, frames, the taps' maps, float16
    with pytest.raises(
        UserError, match=rf"f: 0\.0 GB \({num_bytes} bytes\) are needed and 0\.0 GB \(1000 bytes\) are free"
    ):
        run(tmp_path, handoff, stage, lift_data)
    assert not (tmp_path / "f").exists()


def test_guidance_that_validation_could_not_sample_with_is_refused_at_set_up(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    guided = Sampler(2, sigma_max=20.0, sigma_min=0.02, guidance=2.0)
    with pytest.raises(UserError, match=r"guidance 2.0 .* num_predicted: 0"):
        run(tmp_path, handoff, tiny_action_stage(sampler=guided), lift_data)
    run(tmp_path, handoff, tiny_action_stage(sampler=guided, num_predicted=0), lift_data)


def test_without_held_out_demos_training_goes_on_from_the_cache(
    tmp_path: Path, robomimic_file: Callable[..., Path]
) -> None:
    data = lift_datamodule(robomimic_file(), val_fraction=0.0)
    handoff = tmp_path / "handoff"
    fit(quiet_trainer(tmp_path, 1, CheckpointHandoff(str(handoff))), tiny_video_stage(), data)
    stage = recorded()
    run(tmp_path, handoff, stage, data, steps=2)
    assert [split for split, *_ in stage.seen] == ["train", "train"]


# --- several processes --------------------------------------------------------------------------------------------


class Slow(VideoPolicy):
    """Computes features for longer than the process group waits."""

    def features_of_noise(self, *arguments: Any) -> Any:  # noqa: ANN401
        time.sleep(1.5)
        return super().features_of_noise(*arguments)


@pytest.mark.forks
def test_other_ranks_wait_for_as_long_as_it_takes_and_all_read_the_same(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    stage = tiny_action_stage(num_predicted=0)
    stage.policy.__class__ = Slow
    strategy = DDPStrategy(process_group_backend="gloo", start_method="fork", timeout=timedelta(seconds=2))
    callbacks = (CheckpointHandoff(str(handoff)), FeatureCache(str(tmp_path / "f"), batch_size=10))
    trainer = quiet_trainer(tmp_path, 2, *callbacks, devices=2, strategy=strategy, num_sanity_val_steps=0)
    fit(trainer, stage, lift_data)  # fails where a rank's wait of 4 seconds runs into the timeout
    CachedFeatures(tmp_path / "f", {}, [*lift_data.train_set.demos, *lift_data.val_set.demos])
