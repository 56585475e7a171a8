"""`videopolicy collect` on the counting simulator, through the real command where it matters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from rollouts import CollectedEpisode
from simulators import EpisodeSpec, SimulatorConfig
from videopolicy import collect
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
    main(arguments(whole, 8, render_s=0.03))
    command = [sys.executable, "-m", "videopolicy.main", *arguments(broken, 8, "--workers", "1", render_s=0.03)]
    environment = {**os.environ, "PYTHONPATH": str(SIMULATORS)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = broken.with_suffix(".episodes.jsonl")
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 1 <= len(list(broken.with_name("broken.hdf5.parts").glob("*.hdf5"))) < 4
    main(arguments(broken, 8, render_s=0.03))
    assert not broken.with_name("broken.hdf5.parts").exists()
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
        (["--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--noise", "nan"], "--noise nan: must be 0 or more"),
        (["--mistakes", "1.5"], "--mistakes 1.5: must be from 0 to 1"),
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


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        (["--noise", "0.1"], {}, "expert.noise 0.3, not 0.1;"),
        (["--image-size", "8"], {}, "simulator.image_size 4, not 8;"),
        (["--max-steps", "30"], {}, "simulator.max_steps None, not 30;"),
        ([], {"control_freq": 10}, "simulator.options.control_freq None, not 10;"),
        ([], {"goal": 6.0}, "simulator.options.goal 5.0, not 6.0;"),
    ],
)
def test_demos_made_in_different_ways_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], options: dict[str, object], said: str
) -> None:
    output = tmp_path / "up.hdf5"
    main(arguments(output, 2))
    before = output.read_bytes()
    assert main(arguments(output, 4, *more, **options)) == 2
    assert f"{output}: its demos were collected with {said} use the same options" in capsys.readouterr().err
    assert output.read_bytes() == before


def test_another_release_of_the_simulator_is_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "up.hdf5"
    monkeypatch.setattr(collect, "ask_once", lambda *_: {"python": "3.11.7", "robosuite": "1.4.1"})
    main(arguments(output, 2))
    monkeypatch.setattr(collect, "ask_once", lambda *_: {"python": "3.12.1", "robosuite": "1.5.2"})
    assert main(arguments(output, 4)) == 2
    assert "versions.python '3.11.7', not '3.12.1'; versions.robosuite '1.4.1', not '1.5.2';" in capsys.readouterr().err


def test_a_file_that_is_older_than_a_setting_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "up.hdf5"
    main(arguments(output, 2))
    with h5py.File(output, "r+") as file:
        header = json.loads(file["data"].attrs["env_args"])
        del header["env_kwargs"]["versions"], header["env_kwargs"]["simulator"]["multisampling"]
        file["data"].attrs["env_args"] = json.dumps(header)
    assert main(arguments(output, 4)) == 0
    with h5py.File(output) as file:
        assert len(file["data"]) == 2


def test_what_failed_under_other_settings_is_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No demo was kept, so there is no file whose settings could be compared; its failures are remembered beside it."""
    output = tmp_path / "up.hdf5"
    main(arguments(output, 2, goal=1000.0))
    assert not output.exists()
    main(arguments(output, 2))
    assert "succeeded in 1 of 2" in " ".join(capsys.readouterr().out.split())


def test_a_foreign_output_is_refused_and_left_alone(
    tmp_path: Path, robomimic_file: Callable[..., Path], libero_file: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Files of others: HDF5 without demos, robomimic's, LIBERO's, cut short, none at all; a folder; a locked one."""
    foreign = tmp_path / "foreign.hdf5"
    with h5py.File(foreign, "w") as file:
        file["numbers"] = [1, 2]
    empty = tmp_path / "empty.hdf5"
    with h5py.File(empty, "w") as file:
        file.create_group("data").attrs.update({"total": 0, "env_args": json.dumps({"env_name": "up"})})
    others = robomimic_file("others.hdf5", task="up")
    with h5py.File(others, "r+") as file:
        file["data"].attrs["total"] = 28
    text = tmp_path / "text.hdf5"
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    cut = robomimic_file("cut.hdf5", corruption="truncated")
    (tmp_path / "folder.hdf5").mkdir()
    for path, said in (
        (foreign, "not a file of demos in robomimic's layout"),
        (empty, "were not made by `videopolicy collect`"),
        (others, "were not made by `videopolicy collect`"),
        (libero_file(), "choose another output"),
        (text, "not an HDF5 file"),
        (cut, "not an HDF5 file"),
        (tmp_path / "folder.hdf5", "Is a directory"),
    ):
        before = path.read_bytes() if path.is_file() else b""
        assert main(arguments(path, 2)) == 2, path
        (line,) = capsys.readouterr().err.splitlines()
        assert str(path) in line
        assert said in line
        assert (path.read_bytes() if path.is_file() else b"") == before


def test_brackets_spaces_and_other_alphabets_in_names_are_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a [bold] b" / "Würfel [red].hdf5"
    assert main(arguments(output, 2)) == 0
    assert "Würfel [red].hdf5: expert" in " ".join(capsys.readouterr().out.split())


def test_episodes_that_were_all_lost_are_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(config: SimulatorConfig, episodes: list[EpisodeSpec], *_: object) -> list[CollectedEpisode]:
        return [CollectedEpisode(spec, None, "the worker went away") for spec in episodes]

    monkeypatch.setattr(collect, "collect_demos", lost)
    assert main(arguments(tmp_path / "up.hdf5", 2)) == 1
    assert "2 lost with their worker" in " ".join(capsys.readouterr().out.split())


def test_a_file_without_a_single_success_is_not_left_behind(tmp_path: Path) -> None:
    assert main(arguments(tmp_path / "up.hdf5", 1, "--seed", "1")) == 0  # the expert dislikes odd seeds
    assert [path.name for path in tmp_path.iterdir()] == ["up.episodes.jsonl"]
