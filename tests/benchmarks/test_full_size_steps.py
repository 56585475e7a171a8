"""The script of the full-size steps, run with tiny networks: one code path for every size."""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from datamodules.inspection import inspect_file
from tests.videopolicy.conftest import environment, tiny_overlay

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "full_size_steps.py"


@pytest.fixture
def script() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("full_size_steps", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_step_of_the_action_stage_leaves_the_video_network_alone_and_ends_in_one_json_line(tmp_path: Path) -> None:
    overlay = tmp_path / "tiny.yaml"
    overlay.write_text(yaml.safe_dump(tiny_overlay(ROOT / "experiments" / "robocasa.yaml", tmp_path, 2)))
    command = [sys.executable, str(SCRIPT), "--stage", "action", "--device", "cpu", "--steps", "2"]
    done = subprocess.run(
        [*command, "--overlay", str(overlay)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    hashes = [line.rpartition(" ")[2] for line in lines if "SHA-256" in line]
    assert len(hashes) == 2
    assert hashes[0] == hashes[1]
    result = json.loads(lines[-1])
    assert (result["stage"], result["optimizer_steps"], result["batch_size"]) == ("action", 2, 1)
    assert len(result["losses"]) == 2
    assert result["first_step_s"] > 0
    assert result["later_steps_s"]["num_runs"] == 1
    assert result["peak"]["resident_bytes"] > 10**8


def test_its_demos_are_whole_in_robocasas_layout(script: ModuleType, tmp_path: Path) -> None:
    report = inspect_file(script.write_demos(tmp_path / "CloseDrawer.hdf5", windows=3))
    assert report.lengths == [50]
    assert {camera: set(sizes) for camera, sizes in report.sizes.items()} == {
        camera: {"256x256"} for camera in ("robot0_eye_in_hand", "robot0_agentview_left", "robot0_agentview_right")
    }
    assert len(report.minimum) == 12


def test_the_search_ends_at_the_first_batch_that_does_not_fit(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[int] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:  # noqa: ANN401 - subprocess.run's own arguments
        size = int(command[command.index("--batch-size") + 1])
        tried.append(size)
        seconds = {1: 1.0, 2: 1.5, 4: 3.5}
        line = json.dumps({"batch_size": size, "later_steps_s": {"median_s": seconds.get(size)}})
        return SimpleNamespace(returncode=0 if size < 8 else script.OUT_OF_MEMORY, stdout=line + "\n", stderr="")

    monkeypatch.setattr(script.subprocess, "run", run)
    arguments = argparse.Namespace(
        device="cuda", precision="bf16-mixed", batch_size=1, steps=10, max_images=None, overlay=[]
    )
    script.search(arguments, "video", ends=time.monotonic() + 60)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert tried == [1, 2, 4, 8]
    assert (summary["largest_batch"], summary["too_large"], summary["fastest_per_sample"]) == (4, 8, 2)


def test_a_search_whose_time_is_up_says_what_it_knows(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"batch_size": 1, "later_steps_s": {"median_s": 1.0}})
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=line + "\n"))
    arguments = argparse.Namespace(
        device="cuda", precision="bf16-mixed", batch_size=1, steps=10, max_images=None, overlay=[]
    )
    summary = script.search(arguments, "video", ends=0.0)
    assert (summary["largest_batch"], summary["too_large"]) == (1, None)


def test_a_stage_that_does_not_fit_does_not_keep_the_other_from_running(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **_: Any) -> SimpleNamespace:  # noqa: ANN401 - subprocess.run's own arguments
        fits = command[command.index("--stage") + 1] == "action"
        line = json.dumps({"batch_size": 1}) if fits else "video stage, batch 1: out of memory"
        return SimpleNamespace(returncode=0 if fits else script.OUT_OF_MEMORY, stdout=line + "\n")

    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["full_size_steps.py", "--device", "cpu"])
    assert script.main() == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["stages"]
    assert found == {"video": {"failure": "out of memory"}, "action": {"batch_size": 1}}


def test_a_machine_that_lacks_a_package_is_told_which(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "NEEDED", ("torch", "no_such_package"))
    monkeypatch.setattr(sys, "argv", ["full_size_steps.py"])
    assert script.main() == 2
    assert "lacks no_such_package" in capsys.readouterr().out
