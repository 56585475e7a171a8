"""Everything at once, in small, on the real robosuite: demos in, a rolled-out policy with a success rate out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.videopolicy.conftest import ROOT, environment, tiny_overlay


def command(folder: Path, module: str, *arguments: object) -> str:
    """Run one of our commands and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *(str(argument) for argument in arguments)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def lift_overlay(demos: Path) -> dict[str, Any]:
    """Tiny networks, but the experiment's own simulator: 16 pixels, 2 episodes of 8 steps."""
    overlay = tiny_overlay(ROOT / "experiments" / "lift.yaml", demos, steps=2)
    rollout = overlay["rollout"]
    rollout["protocol"]["simulator"] = {"image_size": 16, "max_steps": 8}
    rollout["record_episodes"] = 1
    return overlay


@pytest.mark.simulator
@pytest.mark.timeout(600)
def test_demos_in_success_rate_out(tmp_path: Path) -> None:
    demos = tmp_path / "lift.hdf5"
    collect = ("collect", "--simulator", "robosuite", "--task", "Lift", "--episodes", 4, "--image-size", 16)
    command(tmp_path, "videopolicy.main", *collect, "--workers", 2, "--output", demos)

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(lift_overlay(demos)))
    experiment = ROOT / "experiments" / "lift.yaml"
    command(tmp_path, "videopolicy.lightning_cli", "fit", "-c", experiment, "-c", "tiny.yaml", "--run_dir", "run")
    events = EventAccumulator(str(tmp_path / "run" / "action"))
    events.Reload()
    assert {"rollout/Lift/success_rate", "rollout/success_rate", "rollout/seconds_per_replan", "rollout/errors"} <= set(
        events.Tags()["scalars"]
    )
    assert events.Scalars("rollout/errors")[-1].value == 0
    assert events.Scalars("rollout/episode_length")[-1].value == 8  # two steps of training lift nothing

    checkpoint = tmp_path / "run" / "action" / "checkpoints" / "last.ckpt"
    arguments = ("--episodes", 2, "--first-seed", 5, "--videos", 1, "--workers", 1, "--device", "cpu")
    printed = command(tmp_path, "videopolicy.main", "evaluate", "--checkpoint", checkpoint, *arguments, "--output", "r")
    assert "0/2" in printed
    lines = [json.loads(line) for line in (tmp_path / "r" / "results.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["steps"], line["success"]) for line in lines] == [(5, 8, False), (6, 8, False)]
    assert (tmp_path / "r" / "videos" / "Lift_seed5.mp4").stat().st_size > 0
