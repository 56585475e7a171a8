"""Training steps whose draws belong to the windows, whichever process or micro-batch makes them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from datamodules import Batch
from lightning_modules import ActionStage, JointStage, Stage, VideoStage
from networks import seeded_noise
from policies.video_inputs import encoded
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
KINDS = ("video", "action", "joint")


def levels(batch: Batch) -> Tensor:
    """A noise level of each window's own."""
    return 0.5 + 0.1 * (batch.windows % 7)


def action_step(self: ActionStage, batch: Batch, batch_idx: int) -> Tensor:
    noise = seeded_noise(batch.actions.shape[1:], batch.windows.tolist(), "action", self.device)
    return self.policy.action_loss(batch, levels(batch), noise)


def video_step(self: VideoStage, batch: Batch, batch_idx: int) -> Tensor:
    latents, conditioning = encoded(self.video, batch, None)
    noise = seeded_noise(latents.shape[1:], batch.windows.tolist(), "video", self.device)
    return self.video.loss(latents, noise, levels(batch), conditioning).mean()


def joint_step(self: JointStage, batch: Batch, batch_idx: int) -> Tensor:
    latents, conditioning = encoded(self.video, batch, None)
    seeds = batch.windows.tolist()
    noise = seeded_noise(latents.shape[1:], seeds, "video", self.device)
    action_noise = seeded_noise(batch.actions.shape[1:], seeds, "action", self.device)
    video, action = self.policy.parts(batch, latents, noise, action_noise, levels(batch), conditioning)
    return self.policy.balanced(video, action, self.policy.video_weight)


STEPS: dict[type[Stage], Any] = {VideoStage: video_step, ActionStage: action_step, JointStage: joint_step}


def stage_of(kind: str, **arguments: Any) -> Stage:  # noqa: ANN401
    """A tiny stage without any noise of its own."""
    video = tiny_video_model(residual=False)
    video.condition_noise = 0.0
    make: dict[str, Callable[..., Stage]] = {
        "video": tiny_video_stage,
        "joint": tiny_joint_stage,
        "action": partial(tiny_action_stage, condition_dropout=0.0),
    }
    return make[kind](video, **{"optimizer": SGD, "num_predicted": 0, **arguments})


def trained(
    stage: Stage,
    folder: Path,
    demos: Path,
    batch_size: int,
    **arguments: Any,  # noqa: ANN401
) -> tuple[dict[str, Tensor], float]:
    """Three steps of the trainer that is asked for; the weights and one process's validation loss."""
    data = lift_datamodule(demos, batch_size=batch_size)
    stage.attach(data.preprocessing)  # forked processes give weights back to a network that is there already
    fit(quiet_trainer(folder, 3, limit_val_batches=0, **arguments), stage, data)
    # an odd number of windows would be padded under DDP, so one process judges
    judged = quiet_trainer(folder, 1).validate(stage, datamodule=data, verbose=False)
    return stage.state_dict(), float(judged[0]["val/loss"])


class SaveAtStepTwo(Callback):
    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "2.ckpt", weights_only=False)
