"""A run that is killed for real, in either stage and between them, goes on where it stopped."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

LIGHTNING = "videopolicy.lightning_cli"
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[bytes]]


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a running command has written a file."""
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, f"the command ended before it wrote {path}"
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


def kill_stage(process: subprocess.Popen[bytes], stage: Path) -> None:
    """Kill -9 the command and the process that trains."""
    trainer = int((stage / ".lock").read_text())
    process.kill()
    os.kill(trainer, signal.SIGKILL)
    process.wait()
    while Path(f"/proc/{trainer}").exists() and "zombie" not in Path(f"/proc/{trainer}/status").read_text():
        time.sleep(0.02)


def step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


def test_killed_in_both_stages_the_same_command_finishes(
    tmp_path: Path, lift_overlay: list[str], run_lightning: Run, start_python: Start
) -> None:
    fit = ("fit", *lift_overlay, "--trainer.max_steps", "60", "--trainer.val_check_interval", "30")
    often = ("--last_checkpoint.every_steps", "1")
    video, action = tmp_path / "runs" / "lift" / "video", tmp_path / "runs" / "lift" / "action"

    process = start_python(LIGHTNING, *fit, *often)
    wait_for(video / "checkpoints" / "last.ckpt", process)
    kill_stage(process, video)
    assert 0 < step_of(video / "checkpoints" / "last.ckpt") < 60
    assert not (video / "finished.json").exists()

    process = start_python(LIGHTNING, *fit, *often)
    wait_for(action / "checkpoints" / "last.ckpt", process)
    kill_stage(process, action)
    assert json.loads((video / "finished.json").read_text())["global_step"] == 60
    assert 0 < step_of(action / "checkpoints" / "last.ckpt") < 60
    handoff = (tmp_path / "runs" / "lift" / "handoff" / "manifest.json").read_text()

    done = run_lightning(*fit)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "video stage: finished after 60 steps" in done.stdout
    assert "action stage: going on from runs/lift/action/checkpoints/last.ckpt" in done.stdout
    assert json.loads((action / "finished.json").read_text())["global_step"] == 60
    assert (tmp_path / "runs" / "lift" / "handoff" / "manifest.json").read_text() == handoff


@pytest.mark.slow
def test_killed_between_the_stages_it_goes_straight_to_the_action_stage(
    tmp_path: Path, lift_overlay: list[str], run_lightning: Run
) -> None:
    assert run_lightning("fit", *lift_overlay, "--stage", "video").returncode == 0
    weights = (tmp_path / "runs" / "lift" / "handoff" / "video.safetensors").stat().st_mtime_ns
    done = run_lightning("fit", *lift_overlay)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "video stage: finished after 2 steps" in done.stdout
    assert (tmp_path / "runs" / "lift" / "handoff" / "video.safetensors").stat().st_mtime_ns == weights
    assert (tmp_path / "runs" / "lift" / "action" / "finished.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_the_command_passes_it_on_and_the_stage_saves(
    number: signal.Signals, tmp_path: Path, lift_overlay: list[str], start_python: Start
) -> None:
    video = tmp_path / "runs" / "lift" / "video"
    long = ("--trainer.max_steps", "100000", "--trainer.limit_val_batches", "0", "--last_checkpoint.every_steps", "5")
    process = start_python(LIGHTNING, "fit", *lift_overlay, *long)
    wait_for(video / "checkpoints" / "last.ckpt", process)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert step_of(video / "checkpoints" / "last.ckpt") >= 5
    assert not (video / "finished.json").exists()
