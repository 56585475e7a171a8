"""Both stages with a real Trainer on generated demos."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from datamodules import RobosuiteDataModule
from files.errors import UserError
from lightning_modules import Stage
from networks import Conditioning
from policies import FeatureLevels, FixedLevel, SharedLevels
from tests.stage_parts import (
    fit,
    lift_datamodule,
    quiet_trainer,
    tiny_action_stage,
    tiny_joint_stage,
    tiny_video_model,
    tiny_video_stage,
)


def test_video_stage_trains_the_unet_alone(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    stage = tiny_video_stage()
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    fit(quiet_trainer(tmp_path, 2), stage, lift_data)
    changed = {n for n, v in stage.state_dict().items() if v.shape != before[n].shape or not torch.equal(v, before[n])}
    assert changed
    assert all(name.startswith(("video.unet.", "video.preconditioning.")) for name in changed)


def test_video_stage_learns_the_one_video_there_is(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    stage = tiny_video_stage(condition_dropout=0.0, optimizer=partial(torch.optim.Adam, lr=3e-3))
    trainer = quiet_trainer(tmp_path, 1)
    fit(trainer, stage, lift_data)
    first = trainer.validate(stage, datamodule=lift_data, verbose=False)[0]["val/loss"]
    fit(quiet_trainer(tmp_path, 80), stage, lift_data)
    last = trainer.validate(stage, datamodule=lift_data, verbose=False)[0]["val/loss"]
    assert last < 0.95 * first


def test_validation_numbers_do_not_depend_on_chance(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    trainer = quiet_trainer(tmp_path, 1)
    stage = tiny_video_stage(tiny_video_model(residual=False))
    fit(trainer, stage, lift_data)
    stage.video.condition_noise = 0.0
    first, second = (trainer.validate(stage, datamodule=lift_data, verbose=False)[0] for _ in range(2))
    assert first == pytest.approx(second, rel=0, abs=0, nan_ok=True)  # these pictures hardly move: no skill there
    assert {"val/loss", "val/psnr", "val/ssim", "val/loss_sigma_0.5"} <= set(first)


@pytest.mark.parametrize("levels", [FixedLevel, SharedLevels])
def test_action_stage_trains_adapter_and_action_net_alone(
    tmp_path: Path, lift_data: RobosuiteDataModule, levels: type[FeatureLevels]
) -> None:
    stage = tiny_action_stage(tiny_video_model(residual=False), features=levels())
    stage.attach(lift_data.preprocessing)
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    trainer = quiet_trainer(tmp_path, 3)
    fit(trainer, stage, lift_data)
    changed = {name for name, value in stage.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("adapter.") for name in changed)
    assert any(name.startswith("action_unet.") for name in changed)
    assert not any(name.startswith("video.") for name in changed)
    metrics = trainer.validate(stage, datamodule=lift_data, verbose=False)[0]
    assert {"val/loss", "val/action_error", "val_action_error/step_03"} <= set(metrics)


def test_learning_rate_scales_apply_to_their_own_group(lift_data: RobosuiteDataModule) -> None:
    stage = tiny_action_stage(adapter_lr_scale=5.0, action_lr_scale=2.0)
    stage.attach(lift_data.preprocessing)
    optimizer = stage.configure_optimizers()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-3, 2e-3])
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in stage.parameters() if p.requires_grad}


def test_padded_actions_count_unless_masked(lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that errs by 1 on padding only: its loss at sigma 1 (weight 2) is twice the share of padding, or 0."""
    stage = tiny_action_stage(tiny_video_model(residual=False))
    stage.attach(lift_data.preprocessing)
    batch = next(iter(lift_data.window_loader("train", batch_size=12)))
    batch.frames = lift_data.preprocessing.to_float(batch.frames)
    pad = batch.action_is_pad.float()
    assert 0 < pad.mean() < 1
    monkeypatch.setattr(stage.policy.joint, "denoise_action", lambda *_: batch.actions + pad.unsqueeze(-1))
    sigma, noise = torch.ones(len(batch)), torch.zeros_like(batch.actions)
    assert stage.policy.action_loss(batch, sigma, noise).item() == pytest.approx(2 * pad.mean().item(), rel=1e-5)
    stage.policy.mask_padding = True
    assert stage.policy.action_loss(batch, sigma, noise).item() == 0.0


def test_the_action_weight_scales_what_is_trained_and_not_what_is_logged(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = next(iter(lift_data.window_loader("train", batch_size=4)))
    batch.frames = lift_data.preprocessing.to_float(batch.frames)
    logged, trained = [], []
    for weight in (1.0, None, 0.1):
        stage = tiny_action_stage(tiny_video_model(residual=False), action_weight=weight)
        stage.attach(lift_data.preprocessing)
        monkeypatch.setattr(stage, "log_dict", lambda values, **_: logged.append(values["train/loss"].item()))
        torch.manual_seed(0)
        trained.append(stage.training_step(batch, 0).item())
    assert logged == [logged[0]] * 3
    assert trained == pytest.approx([logged[0] * share for share in (1.0, 4 / 9, 0.1)])  # 5 video rows, 4 actions
    with pytest.raises(UserError, match="action_weight is 0"):
        tiny_action_stage(action_weight=0.0)


@pytest.mark.parametrize("kind", [tiny_video_stage, tiny_action_stage, tiny_joint_stage])
def test_the_dropout_scope_of_every_stage_is_an_argument(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch, kind: Callable[..., Stage]
) -> None:
    seen: list[tuple[float, str]] = []
    dropout = Conditioning.dropout
    monkeypatch.setattr(
        Conditioning, "dropout", lambda c, p, scope="frame": (seen.append((p, scope)), dropout(c, p, scope))[1]
    )
    batch = next(iter(lift_data.window_loader("train", batch_size=4)))
    batch.frames = lift_data.preprocessing.to_float(batch.frames)
    for scope in ("frame", "sample"):
        stage = kind(tiny_video_model(residual=False), condition_dropout=0.5, dropout_scope=scope)
        stage.attach(lift_data.preprocessing)
        monkeypatch.setattr(stage, "log_dict", lambda *_, **__: None)
        stage.train().training_step(batch, 0)
    assert seen == [(0.5, "frame"), (0.5, "sample")]


def test_views_that_do_not_fit_the_data_are_named(lift_data: RobosuiteDataModule) -> None:
    with pytest.raises(UserError, match="num_views: 3 here, 2 wanted"):
        tiny_video_stage(tiny_video_model(num_views=3)).attach(lift_data.preprocessing)


def test_unknown_tap_lists_those_there_are(lift_data: RobosuiteDataModule) -> None:
    with pytest.raises(UserError, match=r"no tap \[22\] .* it has \[0, 1, 2, 3, 4, 5, 6, 7\]"):
        tiny_action_stage(taps=(3, 22)).attach(lift_data.preprocessing)


def test_resuming_on_other_data_is_refused(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    trainer = quiet_trainer(tmp_path, 1)
    fit(trainer, tiny_video_stage(), lift_data)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    other = lift_datamodule(Path(str(lift_data.paths)), frame_stride=1)
    with pytest.raises(UserError, match="frame_stride: 1 here, 2 wanted"):
        fit(quiet_trainer(tmp_path, 2), tiny_video_stage(), other, ckpt_path=tmp_path / "one.ckpt")
