"""Two processes train what one does."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules import Batch, RobosuiteDataModule
from lightning_modules import ActionStage, JointStage, VideoStage
from networks import seeded_noise
from tests.stage_parts import (
    fit,
    lift_datamodule,
    quiet_trainer,
    tiny_action_stage,
    tiny_joint_stage,
    tiny_video_model,
    tiny_video_stage,
)

SGD = partial(torch.optim.SGD, lr=0.05)


def levels(batch: Batch) -> Tensor:
    """A noise level that belongs to the window, so that it does not matter which process draws it."""
    return 0.5 + 0.1 * (batch.windows % 7)


def action_step(self: ActionStage, batch: Batch, batch_idx: int) -> Tensor:
    noise = seeded_noise(batch.actions.shape[1:], batch.windows.tolist(), self.device)
    return self.loss(batch, levels(batch), noise)


def video_step(self: VideoStage, batch: Batch, batch_idx: int) -> Tensor:
    latents, conditioning = self.encode(batch)
    noise = seeded_noise(latents.shape[1:], batch.windows.tolist(), self.device)
    return self.video.loss(latents, noise, levels(batch), conditioning).mean()


def joint_step(self: JointStage, batch: Batch, batch_idx: int) -> Tensor:
    latents, conditioning = self.encode(batch)
    noise = [seeded_noise(x.shape[1:], batch.windows.tolist(), self.device) for x in (latents, batch.actions)]
    video, action = self.means(batch, latents, noise[0], noise[1], levels(batch), conditioning)
    return self.balanced(video, action, self.video_weight)


def train(
    kind: str, folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch, devices: int
) -> tuple[dict[str, Tensor], float]:
    """Three steps of global batch size 4; returns the weights and the validation loss."""
    video = tiny_video_model(residual=False)
    video.condition_noise = 0.0
    stage: ActionStage | VideoStage | JointStage
    if kind == "video":
        monkeypatch.setattr(VideoStage, "training_step", video_step)
        stage = tiny_video_stage(video, optimizer=SGD, num_predicted=0)
    elif kind == "joint":
        monkeypatch.setattr(JointStage, "training_step", joint_step)
        stage = tiny_joint_stage(video, optimizer=SGD, num_predicted=0)
    else:
        monkeypatch.setattr(ActionStage, "training_step", action_step)
        stage = tiny_action_stage(video, optimizer=SGD, num_predicted=0, condition_dropout=0.0)
    data: RobosuiteDataModule = lift_datamodule(path, batch_size=4 // devices)
    stage.attach(data.preprocessing)  # forked processes give weights back to a network that is there already
    trainer = quiet_trainer(
        folder,
        3,
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        limit_train_batches=3,
        limit_val_batches=0,
    )
    fit(trainer, stage, data)
    # an odd number of windows would be padded under DDP, so one process judges both
    judged = quiet_trainer(folder, 1).validate(stage, datamodule=data, verbose=False)
    return stage.state_dict(), float(judged[0]["val/loss"])


@pytest.mark.parametrize("kind", ["video", "action", "joint"])
def test_two_processes_give_the_loss_and_weights_of_one(
    tmp_path: Path, lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = Path(str(lift_data.paths))
    one, one_loss = train(kind, tmp_path, path, monkeypatch, devices=1)
    two, two_loss = train(kind, tmp_path, path, monkeypatch, devices=2)
    untrained = tiny_video_model(residual=False).state_dict()
    if kind != "action":
        assert any(not torch.equal(one[f"video.{name}"], value) for name, value in untrained.items())
    assert two_loss == pytest.approx(one_loss, rel=1e-4)
    for name, value in one.items():
        assert torch.allclose(two[name], value, atol=1e-5), name
