import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simulators import SimulatorConfig
from simulators.catalogue import INSTALLATIONS
from videopolicy import simulators
from videopolicy.main import main

COUNTER = "counting_simulator:CountingSimulator"


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`videopolicy simulators check` of the counting simulator."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "simulators"))
    monkeypatch.setattr(simulators, "MEASURE_S", 0.05)

    def check(*options: str) -> int:
        fixed = ["--image-size", "8", "--output", str(tmp_path / "pictures")]
        return main(["simulators", "check", COUNTER, "--suite", "counting", *fixed, *options])

    return check


def test_check_steps_draws_and_prints_what_a_simulator_is(
    counter: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert counter("--cameras", "left,right", "--task", "down") == 0
    printed = capsys.readouterr().out
    for line in (
        "instruction",
        "count",
        "2 numbers",
        "40",
        "steps/s without rendering",
        "7, this one is down",
        "python 3.",
    ):
        assert line in printed
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == ["counting.png", "counting_left.png", "counting_right.png"]
    assert np.asarray(Image.open(pictures[1])).shape == (8, 8, 3)
    assert Image.open(pictures[0]).size == (16, 8 + simulators.CAPTION)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--cameras", "left", "--task", "dwon"], "counting has no task 'dwon'; there are"),
        (["--cameras", "left", "--task", "dwon"], "Did you mean 'down'?"),
        (["--cameras", "left", "--task", "mistake"], "this task is a mistake; take another."),
        (["--cameras", "left", "--task", "crash"], "does not start a worker: it went away"),
        ([], f"{COUNTER}: which cameras your adapter has is not known here; give --cameras a,b."),
        (["--cameras", "left", "--python", "/gone/python"], "cannot start its Python '/gone/python'"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_status_2(
    counter: Callable[..., int], capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert counter(*options) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_simulator_that_is_nowhere_says_what_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # no .venvs here
    assert main(["simulators", "check", "robocasa"]) == 2
    assert capsys.readouterr().err == (
        "videopolicy simulators: RoboCasa v0.2 is not installed in .venvs/robocasa/bin/python; "
        "get it with: make sim-robocasa.\n"
    )


def test_unknown_simulators_and_suites_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulators", "check", "robosuit"]) == 2
    assert "Did you mean 'robosuite'?" in capsys.readouterr().err
    assert main(["simulators", "check", "libero", "--suite", "libero_sptial"]) == 2
    assert "libero has no suite 'libero_sptial'" in capsys.readouterr().err


def test_list_names_every_simulator_and_the_command_for_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["simulators", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in INSTALLATIONS)
    assert all(suite in printed for entry in INSTALLATIONS.values() for suite in entry.suites)
    assert "make sim-robocasa365" in printed


def test_all_suites_of_a_simulator_are_checked_where_all_is_asked_for() -> None:

    args = argparse.Namespace(name="libero", suite="all", cameras=None, python="python", image_size=64, gl=None)
    configs: list[SimulatorConfig] = simulators.configs(args)
    assert [config.suite for config in configs] == list(INSTALLATIONS["libero"].suites)
    assert {tuple(config.cameras) for config in configs} == {("agentview", "robot0_eye_in_hand")}


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("name", ["robosuite", "libero"])
def test_a_real_simulator_is_checked(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if INSTALLATIONS[name].found() is None:
        pytest.skip(f"{name} is not installed")
    assert main(["simulators", "check", name, "--image-size", "64", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "OpenGL" in printed
    assert "7 numbers" in printed
    suite = next(iter(INSTALLATIONS[name].suites))
    assert np.asarray(Image.open(tmp_path / f"{suite}_agentview.png")).std() > 10  # not one colour
