"""Tiny overlays for experiments: real classes, small parts, generated data, the counting simulator."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from videopolicy.experiment.files import load_experiment

ROOT = Path(__file__).resolve().parents[2]
COUNTING = ROOT / "tests" / "simulators"

DATA = {
    "image_size": 16,
    "num_frames": 2,
    "frame_stride": 2,
    "action_horizon": 4,
    "batch_size": 2,
    "val_fraction": 0.34,
    "num_workers": 0,
}
VIDEO = {
    "class_path": "networks.VideoModel",
    "init_args": {
        "unet": {
            "class_path": "networks.VideoUNet",
            "init_args": {
                "pretrained": None,
                "gradient_checkpointing": False,
                "in_channels": 96,
                "out_channels": 48,
                "block_out_channels": [32, 32],
                "layers_per_block": 1,
                "num_attention_heads": [2, 2],
                "cross_attention_dim": 16,
                "addition_time_embed_dim": 8,
            },
        },
        "autoencoder": {"class_path": "networks.PixelShuffleAutoencoder", "init_args": {"factor": 4}},
        "text_encoder": {
            "class_path": "networks.SeededTextEncoder",
            "init_args": {"embed_dim": 16, "width": 16, "heads": 2, "layers": 1},
        },
    },
}
ACTION = {
    "adapter": {
        "class_path": "networks.CNNAdapter",
        "init_args": {
            "tap_widths": [16, 16],
            "entry_widths": [16],
            "tap_groups": 2,
            "branch_stages": [],
            "merge_stages": [{"width": 16, "num_groups": 2, "time_stride": 2}],
            "norm_groups": 2,
        },
    },
    "action_unet": {
        "class_path": "networks.ActionUNet",
        "init_args": {"step_embed_dim": 16, "widths": [16, 32], "kernel_size": 3, "num_groups": 4},
    },
    "taps": [3, 7],
}
SAMPLER = {"class_path": "networks.Sampler", "init_args": {"num_steps": 2}}
TRAINER = {
    "accelerator": "cpu",
    "devices": 1,
    "strategy": "auto",
    "precision": "32-true",
    "check_val_every_n_epoch": None,
    "limit_val_batches": 1,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "enable_model_summary": False,
}


ROLLOUT = {
    "protocol": {
        "execute_steps": 2,
        "simulator": {
            "name": "counting_simulator:CountingSimulator",
            "suite": "counting",
            "tasks": ["up"],
            "image_size": 16,
            "max_steps": 4,
            "python": None,
            "options": {"goal": 1000, "action_dim": 7},
        },
    },
    "num_episodes": 2,
    "num_workers": 1,
}


def tiny_overlay(experiment: Path, demos: Path, steps: int) -> dict[str, Any]:
    """What to lay over an experiment so that its stages run in seconds; the caller's own, to change."""
    whole = load_experiment([experiment])
    common = {"max_steps": steps, "val_check_interval": steps}
    overlay = {
        "data": {"init_args": {**DATA, "paths": str(demos)}},
        "model": {"init_args": {"video": VIDEO, "sampler": SAMPLER}},
        "trainer": TRAINER,
        **({"rollout": ROLLOUT} if whole.get("rollout") else {}),
        "stages": {
            name: {
                "data": {"init_args": {"batch_size": 2}},
                "model": {"init_args": {**({} if name == "video" else ACTION), "num_predicted": 1}},
                "trainer": common,
            }
            for name in whole["stages"]
        },
    }
    return copy.deepcopy(overlay)


@pytest.fixture
def write_overlay(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny overlay of an experiment and return its path."""

    def write(experiment: Path, demos: Path, steps: int = 2) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(tiny_overlay(experiment, demos, steps)))
        return path

    return write


@pytest.fixture
def joint_overlay(write_overlay: Callable[..., Path], robocasa_file: Callable[..., Path]) -> list[str]:
    """Arguments of `lightning fit` for robocasa_joint with tiny parts on generated demos."""
    experiment = ROOT / "experiments" / "robocasa_joint.yaml"
    return ["-c", str(experiment), "-c", str(write_overlay(experiment, robocasa_file()))]


@pytest.fixture
def lift_overlay(write_overlay: Callable[..., Path], robomimic_file: Callable[..., Path]) -> list[str]:
    """Arguments of `lightning fit` for lift with tiny parts on generated demos."""
    experiment = ROOT / "experiments" / "lift.yaml"
    return ["-c", str(experiment), "-c", str(write_overlay(experiment, robomimic_file()))]


def environment() -> dict[str, str]:
    """One thread a process, and the counting simulator importable by workers."""
    path = os.pathsep.join([str(ROOT), str(COUNTING)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def lightning(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the real command in a folder of its own."""
    command = [sys.executable, "-m", "videopolicy.lightning_cli", *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240)


@pytest.fixture
def start_python(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `python -m ARGUMENTS` in a temporary folder; what is left of it at the end of the test is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *arguments]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment(), **quiet))
        return started[-1]

    yield start
    for process in started:
        process.kill()  # the kernel tells the stage's process
        process.wait()


@pytest.fixture
def run_lightning(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `lightning ARGUMENTS` in a temporary folder."""
    return lambda *arguments: lightning(tmp_path, *arguments)
