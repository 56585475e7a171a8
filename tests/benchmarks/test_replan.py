"""The replan benchmark with tiny networks: the same code path, and both orders of work give the same actions."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from tests.videopolicy.conftest import environment, tiny_overlay

ROOT = Path(__file__).resolve().parents[2]


def test_both_orders_of_work_give_the_same_actions_and_one_json_line(tmp_path: Path) -> None:
    overlay = tmp_path / "tiny.yaml"
    overlay.write_text(yaml.safe_dump(tiny_overlay(ROOT / "experiments" / "robocasa.yaml", tmp_path, 2)))
    command = [sys.executable, str(ROOT / "benchmarks" / "replan.py"), "--size", "full", "--overlay", str(overlay)]
    done = subprocess.run(
        [*command, "--device", "cpu", "--steps", "2", "--seconds", "0.01"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["largest_relative_difference"] < 1e-3  # float32, from sigma 700
    assert result["ratio"] == result["baseline"] / result["ours"]
    assert result["flop"]["one_pass"] < result["flop"]["exact"] < result["flop"]["published"]
    assert {"name", "ours", "baseline", "ratio", "unit", "hardware", "commit", "date"} <= set(result)
