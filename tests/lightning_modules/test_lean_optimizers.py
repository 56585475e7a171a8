"""Optimizers that keep little: what they keep survives a checkpoint."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import RobosuiteDataModule
from files.errors import UserError
from lightning_modules import VideoStage, adam_8bit
from tests.stage_parts import fit, lift_datamodule, quiet_trainer, tiny_video_model
from tests.window_steps import SaveAtStepTwo


@pytest.mark.parametrize("name", ["Adafactor", "8-bit Adam"])
def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path: Path, lift_data: RobosuiteDataModule, name: str) -> None:
    if name == "8-bit Adam":
        pytest.importorskip("bitsandbytes", reason="the extra `lean` is not installed")
    optimizer: Any = partial({"Adafactor": torch.optim.Adafactor, "8-bit Adam": adam_8bit}[name], lr=1e-3)

    def run(go_on: Path | None = None) -> dict[str, Tensor]:
        stage = VideoStage(tiny_video_model(), num_predicted=0, optimizer=optimizer)
        trainer = quiet_trainer(tmp_path, 4, SaveAtStepTwo(), limit_val_batches=0)
        fit(trainer, stage, lift_datamodule(Path(str(lift_data.paths)), batch_size=10), go_on)
        return {name: value.clone() for name, value in stage.video.unet.state_dict().items()}

    whole, resumed = run(), run(tmp_path / "2.ckpt")
    start = tiny_video_model().unet.state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    assert any(not torch.equal(start[name], value) for name, value in whole.items())
    stored = torch.load(tmp_path / "2.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    kept = sum(v.numel() * v.element_size() for s in stored.values() for v in s.values() if isinstance(v, Tensor))
    assert kept < 4 * sum(value.numel() for value in whole.values())  # half of what Adam keeps, in weights this small


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"needs bitsandbytes: pip install -e \.\[lean\]"):
        adam_8bit([torch.nn.Parameter(torch.ones(1))])
