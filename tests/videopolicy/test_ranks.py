"""The whole command with two processes of DDP: both stages, and stopping."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

DDP = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "1")


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [(), ("torch.distributed.run", "--nproc_per_node", "2", "-m")], ids=["own", "torchrun"]
)
def test_both_stages_train_on_two_ranks(
    launcher: tuple[str, ...], tmp_path: Path, lift_overlay: list[str], start_python: Start
) -> None:
    process = start_python(*launcher, "videopolicy.lightning_cli", "fit", *lift_overlay, *DDP)
    assert process.wait(timeout=280) == 0
    for stage in ("video", "action"):
        folder = tmp_path / "runs" / "lift" / stage
        assert json.loads((folder / "finished.json").read_text())["global_step"] == 2
        assert json.loads((folder / "versions.json").read_text())["world_size"] == 2


@pytest.mark.slow
def test_told_to_stop_both_ranks_save_and_end(tmp_path: Path, lift_overlay: list[str], start_python: Start) -> None:
    long = ("--trainer.max_steps", "100000", "--trainer.limit_val_batches", "0", "--last_checkpoint.every_steps", "10")
    process = start_python("videopolicy.lightning_cli", "fit", *lift_overlay, *DDP, *long)
    last = tmp_path / "runs" / "lift" / "video" / "checkpoints" / "last.ckpt"
    while not last.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
