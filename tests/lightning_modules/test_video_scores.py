"""Scores of sampled videos, as a validation logs them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules import RobosuiteDataModule
from lightning_modules.video_scores import NUM_SHOWN, Skill
from networks import Conditioning, VideoModel
from networks.picture_errors import moving, skill, squared_errors
from tests.stage_parts import lift_datamodule, quiet_trainer, tiny_video_model, tiny_video_stage

NAMES = ("val/skill", "val/skill_moving")


def holding(video: VideoModel, conditioning: Conditioning, *_: object) -> Tensor:
    """Latents of a video that stands still: the autoencoder has no loss, and condition latents are of its space."""
    return conditioning.latents


@pytest.fixture(autouse=True)
def every_change_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generated demos change by less than a tenth of the range."""
    monkeypatch.setattr("networks.picture_errors.MOVED", 0.0)


@pytest.fixture
def standing_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoModel, "predict_video", holding)


def validated(folder: Path, data: RobosuiteDataModule, num_predicted: int, **trainer: object) -> dict[str, float]:
    video = tiny_video_model(residual=False)
    video.condition_noise = 0.0
    stage = tiny_video_stage(video, num_predicted=num_predicted, val_sigmas=(1.0,))
    return dict(quiet_trainer(folder, 1, **trainer).validate(stage, datamodule=data, verbose=False)[0])


@pytest.mark.usefixtures("standing_still")
def test_a_video_that_stands_still_has_skill_0_for_every_camera(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    found = validated(tmp_path, lift_data, 4)
    names = {name for name in found if "skill" in name}
    assert names == {f"{name}{camera}" for name in NAMES for camera in ("", *(f"/{c}" for c in lift_data.cameras))}
    assert [found[name] for name in names] == pytest.approx([0.0] * 6, abs=1e-4)


def test_sums_come_before_the_ratio_whatever_the_batches(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    demos = Path(str(lift_data.paths))
    one, four = (validated(tmp_path, lift_datamodule(demos, batch_size=size), 6) for size in (1, 4))
    for name in ("val/psnr", *NAMES):
        assert one[name] == pytest.approx(four[name], rel=1e-3), name


@pytest.mark.forks
def test_two_ranks_log_what_one_does(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    demos = Path(str(lift_data.paths))
    one = validated(tmp_path, lift_datamodule(demos, batch_size=2), 4)
    two = validated(tmp_path, lift_datamodule(demos, batch_size=2), 4, devices=2, strategy="ddp_fork")
    for name in ("val/psnr", *NAMES):
        assert two[name] == pytest.approx(one[name], rel=1e-3), name


def test_a_still_camera_does_not_hide_the_skill_of_the_other() -> None:
    metric = Skill(2)
    metric.update(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0]))
    assert metric.compute().item() == 0.75


def test_scores_are_of_future_frames_and_only_the_first_videos_are_kept(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, cameras = tiny_video_stage(), lift_data.cameras
    monkeypatch.setattr(stage, "log", lambda *_, **__: None)
    true = torch.rand(3, 2, 3, 3, 16, 16) * 2 - 1
    predicted = true * 0.9
    predicted[:, :, 0] = 0.0  # would cost tens of dB
    for _ in range(2):
        stage.scores.compare(stage, true, predicted, cameras)
    mse = (0.1 * true[:, :, 1:]).square().mean()
    assert stage.scores.psnr.compute().item() == pytest.approx((10 * (4 / mse).log10()).item(), rel=1e-4)
    assert stage.scores.ssim.compute() > 0.98
    errors = squared_errors(true, predicted, moving(true))
    wanted = skill(errors.predicted.sum(), errors.held.sum()).item()
    assert stage.scores.skills["skill_moving"].compute().item() == pytest.approx(wanted, abs=0.01)
    assert stage.predicted is not None
    assert len(stage.predicted[0]) == len(stage.predicted[1]) == NUM_SHOWN


def test_a_window_without_a_future_has_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = tiny_video_stage(tiny_video_model(num_frames=1))
    monkeypatch.setattr(stage, "log", lambda name, *_, **__: pytest.fail(name))
    stage.scores.compare(stage, torch.zeros(1, 2, 1, 3, 16, 16), torch.zeros(1, 2, 1, 3, 16, 16), ("a", "b"))
