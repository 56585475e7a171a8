"""One run that trains video network, adapter and action network: its loss, its gradients, its rollouts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from callbacks import FeatureCache, PredictedVideos, SimulationRollout, TrainableWeightAveraging
from datamodules import Batch, RobosuiteDataModule
from files.errors import UserError
from lightning_modules import JointStage
from networks import mean_over_rows
from policies import load_policy
from policies.video_inputs import encoded
from simulators import SimulatorConfig
from tests.policies.test_acting import request
from tests.stage_parts import fit, lift_datamodule, measured_by, quiet_trainer, tiny_joint_stage, tiny_video_model


def attached(data: RobosuiteDataModule, **arguments: object) -> JointStage:
    """A joint stage for the data, without noise on its conditions and without dropout."""
    stage = tiny_joint_stage(tiny_video_model(residual=False), condition_dropout=0.0, **arguments)
    stage.video.condition_noise = 0.0
    stage.attach(data.preprocessing)
    with torch.no_grad():
        torch.nn.init.normal_(
            stage.policy.action_unet.final[-1].weight, std=0.1
        )  # zero at first: no gradient comes through
    return stage


def one_batch(data: RobosuiteDataModule) -> Batch:
    batch = next(iter(data.window_loader("train", batch_size=4)))
    batch.frames = data.preprocessing.to_float(batch.frames)
    return batch


def training_loss(stage: JointStage, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """One training step outside a Trainer, which would log."""
    monkeypatch.setattr(stage, "log_dict", lambda *_, **__: None)
    torch.manual_seed(3)
    return stage.training_step(batch, 0)


def test_the_loss_is_the_mean_over_all_video_and_action_rows(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, batch = attached(lift_data), one_batch(lift_data)
    loss = training_loss(stage, batch, monkeypatch)
    torch.manual_seed(3)  # the step's own draws, in its order
    latents, conditioning = encoded(stage.video, batch, None)
    sigma = stage.policy.noise.sample(len(batch))
    conditioning = stage.policy.drop(conditioning)
    noise = torch.randn_like(latents), torch.randn_like(batch.actions)
    video, action = stage.policy.joint.loss(latents, batch.actions, *noise, sigma, conditioning)
    assert video.shape == (4, 5)  # 1 + 2 cameras x 2 frames
    assert action.shape == (4, 4)
    torch.testing.assert_close(loss, mean_over_rows(video, action))
    stage.policy.video_weight = 0.25
    weighted = training_loss(stage, batch, monkeypatch)
    torch.testing.assert_close(weighted, 0.25 * video.mean() + 0.75 * action.mean())


def test_all_three_networks_get_gradients_and_the_actions_reach_the_video_network(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, batch = attached(lift_data, video_weight=0.0), one_batch(lift_data)  # nothing is asked of the film
    training_loss(stage, batch, monkeypatch).backward()
    assert not stage.video.is_frozen
    for network in (stage.video.unet, stage.policy.adapter, stage.policy.action_unet):
        norms = [p.grad.norm() for p in network.parameters() if p.grad is not None]
        assert torch.stack(norms).sum() > 0
    convolutions = [
        p for name, p in stage.video.unet.named_parameters() if name.endswith("spatial_res_block.conv1.weight")
    ]
    assert max(float(p.grad.norm()) for p in convolutions if p.grad is not None) > 0  # not the level's embedding alone
    assert all(p.grad is None for p in stage.video.text_encoder.parameters())


def test_gradient_checkpointing_changes_no_gradient(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features leave the U-Net between its recomputed blocks; svd.yaml trains so."""
    stage, batch = attached(lift_data), one_batch(lift_data)
    stage.train()
    gradients = []
    for checkpointing in (False, True):
        stage.video.unet.gradient_checkpointing = checkpointing
        stage.zero_grad()
        training_loss(stage, batch, monkeypatch).backward()
        gradients.append({name: p.grad.clone() for name, p in stage.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_three_groups_are_trained_and_nothing_else(lift_data: RobosuiteDataModule) -> None:
    stage = attached(lift_data, optimizer=partial(torch.optim.Adam, lr=1e-5))
    optimizer = stage.configure_optimizers()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-5, 5e-5, 5e-5])
    networks = (stage.video.unet, stage.policy.adapter, stage.policy.action_unet)
    for group, network in zip(optimizer.param_groups, networks, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters()]


def test_a_run_trains_all_three_and_logs_film_and_actions(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    stage = tiny_joint_stage()  # with a preconditioning that is fitted at the start
    stage.attach(lift_data.preprocessing)
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    trainer = quiet_trainer(tmp_path, 3, PredictedVideos(), TrainableWeightAveraging(decay=0.5))
    fit(trainer, stage, lift_data)
    changed = {n for n, v in stage.state_dict().items() if v.shape != before[n].shape or not torch.equal(v, before[n])}
    for part in ("video.unet.", "video.preconditioning.", "adapter.", "action_unet."):
        assert any(name.startswith(part) for name in changed), part
    assert not any(name.startswith(("video.autoencoder.", "video.text_encoder.")) for name in changed)
    metrics = trainer.validate(stage, datamodule=lift_data, verbose=False)[0]
    assert {"val/action_error", "val_action_error/step_03", "val/psnr", "val/ssim"} <= set(metrics)
    rows = (5 * metrics["val/video_loss"] + 4 * metrics["val/action_loss"]) / 9
    assert metrics["val/loss"] == pytest.approx(rows, rel=1e-5)
    assert stage.predicted is not None
    assert list((tmp_path / "videos").glob("*.mp4"))


def test_an_averaged_run_resumes_where_it_stopped_and_its_checkpoint_is_a_policy(
    tmp_path: Path, lift_data: RobosuiteDataModule
) -> None:
    trainer = quiet_trainer(tmp_path, 2, averaging := TrainableWeightAveraging(decay=0.5))
    stage = tiny_joint_stage()
    fit(trainer, stage, lift_data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert {name.split(".")[0] for name in averaging.average_by_name} == {"video", "adapter", "action_unet"}
    again = quiet_trainer(tmp_path, 4, TrainableWeightAveraging(decay=0.5))
    fit(again, tiny_joint_stage(), lift_data, ckpt_path=tmp_path / "last.ckpt")
    assert again.global_step == 4
    wanted = stage.policy.act([request(7, lift_data, want_prediction=True)])[0]
    found = load_policy(tmp_path / "last.ckpt").act([request(7, lift_data, want_prediction=True)])[0]
    np.testing.assert_allclose(found.actions, wanted.actions, atol=1e-5)
    assert found.prediction is not None
    assert (found.prediction == wanted.prediction).all()


def test_it_rolls_out_on_validation(
    tmp_path: Path, robomimic_file: Callable[..., Path], counting: Callable[..., SimulatorConfig]
) -> None:
    data = lift_datamodule(robomimic_file(action_dim=2))  # the counting simulator's
    config = counting(cameras=data.cameras, image_size=16, max_steps=4, options={"goal": -1e9})
    rollout = SimulationRollout(measured_by(config), num_episodes=2, record_episodes=0)
    trainer = quiet_trainer(tmp_path, 1, rollout, val_check_interval=1, num_sanity_val_steps=0)
    fit(trainer, tiny_joint_stage(num_predicted=0), data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert trainer.callback_metrics["rollout/success_rate"] == 1.0
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["rollout"]["num_episodes"] == 2


def test_a_feature_cache_is_refused(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    with pytest.raises(UserError, match="FixedLevel; this is a JointStage"):
        fit(quiet_trainer(tmp_path, 1, FeatureCache(str(tmp_path))), tiny_joint_stage(), lift_data)


@pytest.mark.parametrize("weight", [-0.1, 1.0])
def test_a_weight_that_leaves_a_network_untrained_is_refused(weight: float) -> None:
    with pytest.raises(UserError, match="video_weight"):
        tiny_joint_stage(video_weight=weight)


def test_tasks_for_video_only_need_two_stages(tmp_path: Path, robomimic_file: Callable[..., Path]) -> None:
    robomimic_file(name="Stack.hdf5", task="Stack")
    data = lift_datamodule(robomimic_file().parent, video_only_tasks=["Stack"])
    with pytest.raises(UserError, match="the joint stage learns actions too"):
        fit(quiet_trainer(tmp_path, 1), tiny_joint_stage(), data)
