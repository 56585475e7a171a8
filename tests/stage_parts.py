"""All stages with tiny parts on generated demos, as fixtures for the tests above networks/ and datamodules/."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks import CheckpointHandoff
from datamodules import RobosuiteDataModule
from lightning_modules import ActionStage, JointStage, VideoStage
from networks import (
    ActionUNet,
    CNNAdapter,
    PixelShuffleAutoencoder,
    ResidualPreconditioning,
    Sampler,
    SeededTextEncoder,
    VideoModel,
    VideoUNet,
)
from networks.adapter import AdapterStage
from policies import FixedLevel
from rollouts.protocol import RolloutProtocol
from simulators import SimulatorConfig

NUM_FRAMES = 2
QUICK = Sampler(num_steps=2, sigma_max=20.0, sigma_min=0.02, guidance=1.0)


def tiny_unet(latent_channels: int = 4) -> VideoUNet:
    """A video U-Net of eight taps whose last layers are not zero."""
    return VideoUNet(
        in_channels=2 * latent_channels,
        out_channels=latent_channels,
        block_out_channels=(32, 32),
        layers_per_block=1,
        num_attention_heads=(2, 2),
        cross_attention_dim=16,
        addition_time_embed_dim=8,
        zero_init=False,
    )


def tiny_video_model(
    num_views: int = 2, num_frames: int = NUM_FRAMES, residual: bool = True, seed: int = 0
) -> VideoModel:
    """A video model of 16-pixel images that does everything the paper's does."""
    torch.manual_seed(seed)
    return VideoModel(
        tiny_unet(48),
        PixelShuffleAutoencoder(factor=4),
        SeededTextEncoder(embed_dim=16, width=16, heads=2, layers=1),
        num_views=num_views,
        num_frames=num_frames,
        preconditioning=ResidualPreconditioning() if residual else None,
    )


tiny_adapter = partial(
    CNNAdapter,
    tap_widths=(16, 16),
    entry_widths=(16,),
    tap_groups=2,
    branch_stages=(),
    merge_stages=(AdapterStage(16, 2, time_stride=2),),
    norm_groups=2,
)
tiny_action_unet = partial(ActionUNet, step_embed_dim=16, widths=(16, 32), kernel_size=3, num_groups=4)
ACTING: dict[str, Any] = {
    "adapter": tiny_adapter,
    "action_unet": tiny_action_unet,
    "taps": (3, 7),
    "sampler": QUICK,
    "num_predicted": 2,
    "optimizer": partial(torch.optim.Adam, lr=1e-3),
}


def tiny_action_stage(video: VideoModel | None = None, **arguments: Any) -> ActionStage:  # noqa: ANN401
    """An action stage on the tiny video model; taps 3 (coarse) and 7 (fine)."""
    video = video if video is not None else tiny_video_model()
    torch.manual_seed(1)
    return ActionStage(video, **{**ACTING, "features": FixedLevel(), **arguments})


def tiny_joint_stage(video: VideoModel | None = None, **arguments: Any) -> JointStage:  # noqa: ANN401
    """A joint stage of the same parts."""
    video = video if video is not None else tiny_video_model()
    torch.manual_seed(1)
    return JointStage(video, **{**ACTING, **arguments})


def tiny_video_stage(video: VideoModel | None = None, **arguments: Any) -> VideoStage:  # noqa: ANN401
    """A video stage on the tiny video model."""
    defaults: dict[str, Any] = {
        "sampler": QUICK,
        "num_predicted": 2,
        "optimizer": partial(torch.optim.Adam, lr=1e-3),
    }
    return VideoStage(video if video is not None else tiny_video_model(), **{**defaults, **arguments})


@pytest.fixture
def lift_data(robomimic_file: Callable[..., Path]) -> RobosuiteDataModule:
    """Three short demos of a robosuite task at 16 pixels."""
    return lift_datamodule(robomimic_file())


def lift_datamodule(path: Path, **arguments: Any) -> RobosuiteDataModule:  # noqa: ANN401
    """The datamodule of a generated file, with a window of 2 frames and 4 actions."""
    defaults: dict[str, Any] = {
        "num_frames": NUM_FRAMES,
        "frame_stride": 2,
        "action_horizon": 4,
        "batch_size": 4,
        "val_fraction": 0.34,
        "colour_jitter": None,
    }
    return RobosuiteDataModule(str(path), **{**defaults, **arguments})


def quiet_trainer(folder: Path, max_steps: int, *callbacks: Callback, **arguments: Any) -> Trainer:  # noqa: ANN401
    """A CPU trainer that writes nothing but what its callbacks write."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(default_root_dir=folder, max_steps=max_steps, callbacks=list(callbacks), **{**defaults, **arguments})


def fit(trainer: Trainer, stage: LightningModule, data: RobosuiteDataModule, ckpt_path: Path | None = None) -> None:
    """Fit, reading checkpoints as plain data."""
    trainer.fit(stage, datamodule=data, ckpt_path=ckpt_path, weights_only=True)


@pytest.fixture
def handoff(tmp_path: Path, lift_data: RobosuiteDataModule) -> Path:
    """Folder of a handoff that a tiny video stage wrote after one step."""
    folder = tmp_path / "handoff"
    fit(quiet_trainer(tmp_path, 1, CheckpointHandoff(str(folder))), tiny_video_stage(), lift_data)
    return folder


def measured_by(simulator: SimulatorConfig, **settings: Any) -> RolloutProtocol:  # noqa: ANN401 - of many types
    """A protocol of two steps between replans."""
    numbers = {"episodes_per_task": 1, "first_seed": 0, "execute_steps": 2}
    return RolloutProtocol("test", "tests", simulator, **{**numbers, **settings})
