"""Every stage trains in bfloat16 as it does in float32, up to rounding."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from datamodules import RobosuiteDataModule
from lightning_modules import Stage
from policies import SharedLevels
from tests.stage_parts import (
    fit,
    lift_datamodule,
    quiet_trainer,
    tiny_action_stage,
    tiny_joint_stage,
    tiny_video_model,
    tiny_video_stage,
)

STAGES: dict[str, Callable[..., Stage]] = {
    "video": tiny_video_stage,
    "action": partial(tiny_action_stage, features=SharedLevels()),
    "joint": tiny_joint_stage,
}


@pytest.mark.parametrize("kind", STAGES)
def test_bfloat16_gives_the_loss_of_float32(tmp_path: Path, lift_data: RobosuiteDataModule, kind: str) -> None:
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        stage = STAGES[kind](tiny_video_model(residual=False), num_predicted=0)
        trainer = quiet_trainer(tmp_path, 2, precision=precision, val_check_interval=2)
        fit(trainer, stage, lift_datamodule(Path(str(lift_data.paths))))
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in stage.parameters())
        losses[precision] = [float(trainer.callback_metrics[name]) for name in ("train/loss", "val/loss")]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.03)
    assert losses["bf16-mixed"] != losses["32-true"]  # it did round
