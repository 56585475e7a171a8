"""`videopolicy collect` on the counting simulator, through the real command where it matters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from videopolicy.main import main

SIMULATORS = Path(__file__).resolve().parents[1] / "simulators"


def arguments(output: Path, episodes: int = 6, *more: str, **options: object) -> list[str]:
    options = {"goal": 5.0, **options}
    simulator = ["--simulator", "counting_simulator:CountingSimulator", "--cameras", "left", "--image-size", "4"]
    task = [] if "--task" in more else ["--task", "up"]
    counts = ["--episodes", str(episodes), "--output", str(output)]
    return ["collect", *simulator, *task, *counts, "--options", json.dumps(options), *more]


@pytest.fixture(autouse=True)
def _importable_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SIMULATORS))


def test_only_successes_are_kept_and_the_experts_success_rate_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "up.hdf5")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "succeeded in 3 of 6 episodes (50%; 19% to 81% with 95 % confidence)" in printed
    with h5py.File(tmp_path / "up.hdf5") as file:
        assert sorted(file["data"]) == ["demo_0", "demo_1", "demo_2"]
        demo = file["data/demo_1"]
        assert demo.attrs["episode"].endswith("/up/seed2")
        assert demo["obs/left_image"].shape == (len(demo["actions"]), 4, 4, 3)
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == "up"


def test_a_second_call_adds_only_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "up.hdf5"
    main(arguments(output, 4))
    before = output.with_suffix(".episodes.jsonl").read_text()
    main(arguments(output, 6))
    after = output.with_suffix(".episodes.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 6
    with h5py.File(output) as file:
        assert len(file["data"]) == 3
    assert "succeeded in 3 of 6" in " ".join(capsys.readouterr().out.split())


def test_killed_in_the_middle_it_goes_on_and_the_file_is_the_same(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.hdf5", tmp_path / "broken.hdf5"
    main(arguments(whole, 8))
    command = [sys.executable, "-m", "videopolicy.main", *arguments(broken, 8, "--workers", "1", render_s=0.03)]
    environment = {**os.environ, "PYTHONPATH": str(SIMULATORS)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = broken.with_suffix(".episodes.jsonl")
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with h5py.File(broken) as file:
        assert 1 <= len(file["data"]) < 4
    main(arguments(broken, 8))
    with h5py.File(whole) as one, h5py.File(broken) as two:
        assert sorted(one["data"]) == sorted(two["data"])
        for name in one["data"]:
            assert one["data"][name].attrs["episode"] == two["data"][name].attrs["episode"]
            for part in ("actions", "states", "obs/left_image"):
                np.testing.assert_array_equal(one["data"][name][part], two["data"][name][part])


def test_several_tasks_go_into_one_file_each_in_a_folder_or_together_into_a_file(tmp_path: Path) -> None:
    main(arguments(tmp_path / "demos", 4, "--task", "up", "down"))
    assert sorted(path.name for path in (tmp_path / "demos").glob("*.hdf5")) == ["down.hdf5", "up.hdf5"]
    main(arguments(tmp_path / "both.hdf5", 4, "--task", "up", "down"))
    with h5py.File(tmp_path / "both.hdf5") as file:
        assert [file["data"][name].attrs["task"] for name in sorted(file["data"])] == ["up", "down"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "sideways"], "has no task ['sideways']; there are ['up', 'down'"),
        (["--simulator", "gazebo"], "unknown simulator 'gazebo'; there are"),
        (["--episodes", "0"], "number of episodes is 0"),
        (["--workers", "0"], "num_workers is 0"),
        (["--output", "demos.zip"], "demo files end in .hdf5"),
        (["--output", "/proc/nowhere/demos.hdf5"], "cannot be written"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main([*arguments(tmp_path / "up.hdf5", 2, "--task", "up"), *more]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_demos_filmed_in_different_ways_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments(tmp_path / "up.hdf5", 2))
    assert main(arguments(tmp_path / "up.hdf5", 4, "--noise", "0.1")) == 2
    assert "collected with expert" in capsys.readouterr().err


def test_a_file_without_a_single_success_is_not_left_behind(tmp_path: Path) -> None:
    assert main(arguments(tmp_path / "up.hdf5", 1, "--seed", "1")) == 0  # the expert dislikes odd seeds
    assert [path.name for path in tmp_path.iterdir()] == ["up.episodes.jsonl"]
