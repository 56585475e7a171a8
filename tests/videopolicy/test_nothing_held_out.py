"""The documented setting that trains on every demo still rolls out, in `lightning fit` and in `lightning validate`."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("experiment", ["lift", "robocasa_joint"])
def test_a_run_on_every_demo_rolls_out_and_keeps_the_best(
    tmp_path: Path, request: pytest.FixtureRequest, run_lightning: Run, experiment: str
) -> None:
    overlay = request.getfixturevalue({"lift": "lift_overlay", "robocasa_joint": "joint_overlay"}[experiment])
    everything = (*overlay, "--data.val_fraction", "0")
    fitted = run_lightning("fit", *everything, "--trainer.val_check_interval", "1")
    assert fitted.returncode == 0, fitted.stderr
    stage = tmp_path / "runs" / experiment / ("action" if experiment == "lift" else "joint")
    assert [path.stem for path in sorted((stage / "rollouts").glob("*.jsonl"))] == ["step_0000001", "step_0000002"]
    assert (stage / "checkpoints" / "best.ckpt").exists()
    validated = run_lightning("validate", *everything)
    assert validated.returncode == 0, validated.stderr
    assert "rollout/success_rate" in validated.stdout
