"""Two processes, or two micro-batches, train what one does."""

from pathlib import Path

import pytest
import torch

from datamodules import RobosuiteDataModule
from tests.stage_parts import tiny_video_model
from tests.window_steps import KINDS, stage_of, trained

pytestmark = pytest.mark.usefixtures("window_steps")


@pytest.mark.parametrize("way", [pytest.param("ddp", marks=pytest.mark.forks), "accumulation"])
@pytest.mark.parametrize("kind", KINDS)
def test_halves_of_a_batch_give_the_loss_and_weights_of_the_whole(
    tmp_path: Path, lift_data: RobosuiteDataModule, kind: str, way: str
) -> None:
    demos = Path(str(lift_data.paths))
    halves = {"ddp": {"devices": 2, "strategy": "ddp_fork"}, "accumulation": {"accumulate_grad_batches": 2}}[way]
    one, one_loss = trained(stage_of(kind), tmp_path, demos, 4, limit_train_batches=3)
    steps = 3 if way == "ddp" else 6
    two, two_loss = trained(stage_of(kind), tmp_path, demos, 2, limit_train_batches=steps, **halves)
    untrained = tiny_video_model(residual=False).state_dict()
    if kind != "action":
        assert any(not torch.equal(one[f"video.{name}"], value) for name, value in untrained.items())
    assert two_loss == pytest.approx(one_loss, rel=1e-4)
    for name, value in one.items():
        assert torch.allclose(two[name], value, atol=1e-5), name
