"""The rollout benchmark in small: both loops agree on the real simulator, and everything it reports adds up."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.parts.drawing import cross, difference, opened, side_by_side
from benchmarks.parts.plain_rollout import SerialLoop
from benchmarks.rollout import Contest
from rollouts import EpisodeResult
from simulators import EpisodeSpec, Observation, SimulatorConfig
from tests.videopolicy.conftest import environment

ROOT = Path(__file__).resolve().parents[2]


def episode(seed: int, steps: int, success: bool = True) -> EpisodeResult:
    return EpisodeResult("robosuite", "Lift", seed, None, success, steps, replans=2, wall_s=1.0, policy_s=0.5)


def test_episodes_an_hour_are_those_of_our_length() -> None:
    contest = Contest("same")
    contest.results = {"ours": [episode(0, 10), episode(1, 30)], "baseline": [episode(0, 40, False), episode(1, 40)]}
    contest.seconds = {"ours": [4.0], "baseline": [32.0]}
    assert contest.per_hour("ours") == pytest.approx(3600 * 2 / 4)
    assert contest.per_hour("baseline") == pytest.approx(3600 * 80 / 20 / 32)  # 80 steps make four of our episodes
    document = contest.to_dict()
    assert document["ratio"] == 4.0  # of steps a second: 10 against 2.5
    assert document["solved"] == {"ours": 2, "baseline": 1}
    assert document["outcomes_agree"] is False
    contest.results["baseline"] = list(contest.results["ours"])
    assert contest.agrees


def test_an_observation_comes_out_of_the_wire_as_it_went_in() -> None:
    picture = np.arange(256 * 256 * 3, dtype=np.uint32).astype(np.uint8).reshape(256, 256, 3)
    seen = cross(Observation({"left": picture}, {"p": np.zeros(2, np.float32)}, "go", 3))
    np.testing.assert_array_equal(seen.images["left"], picture)
    assert (seen.instruction, seen.step) == ("go", 3)


def test_the_sheet_shows_standard_cheap_and_their_difference() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    sheet = side_by_side({"standard": {"left": grey}, "cheap": {"left": grey + 5}}, scale=2, gain=4)
    pixels = np.asarray(Image.open(io.BytesIO(sheet)))
    assert pixels.shape == (8, 24, 3)
    assert [int(pixels[0, column, 0]) for column in (0, 8, 16)] == [100, 105, 20]


@pytest.mark.simulator
def test_the_plain_environment_walks_the_same_states_and_sees_what_ours_draws_with_every_effect() -> None:
    """The baseline is a fair one only if it differs in cost alone."""
    pytest.importorskip("robosuite")
    best = {"shadows": True, "reflections": True, "multisampling": 4}
    ours = opened(SimulatorConfig("robosuite", ["Lift"], ["agentview"], image_size=32, **best))  # type: ignore[arg-type]
    plain = SerialLoop(ours.config, execute_steps=4).simulator
    spec = EpisodeSpec("robosuite", "Lift", 200_000)
    for simulator in (ours, plain):
        simulator.reset(spec, render=False)
        expert = simulator.make_expert(spec)
        for _ in range(3):
            simulator.step(expert.act())
        for _ in range(4):  # at rest, for robosuite's picture is of the state a substep ago
            simulator.step(np.zeros(7, np.float32))
    np.testing.assert_array_equal(ours.state(), plain.state())
    shown, seen = plain.pictures()["agentview"], ours.render()["agentview"]
    assert difference(shown, seen).mean() < 0.5
    assert shown[:8].mean() < shown[-8:].mean()  # upright: the robot comes in from the top
    ours.close()
    plain.close()


@pytest.mark.slow
@pytest.mark.simulator
def test_both_loops_give_the_same_scripted_outcomes_and_one_json_line(tmp_path: Path) -> None:
    pytest.importorskip("robosuite")
    options = ["--parts", "scripted", "--episodes", "1", "--rounds", "2", "--image-size", "16", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "rollout.py"), "--protocol", "lift", *options],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "outcomes and steps of 2 scripted episodes agree" in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    scripted = result["policies"]["scripted"]
    assert scripted["solved"] == {"ours": 2, "baseline": 2}
    assert result["ratio"] == scripted["ratio"] == pytest.approx(result["ours"] / result["baseline"], rel=0.02)
    assert {"name", "unit", "hardware", "commit", "date", "start_s"} <= set(result)


@pytest.mark.slow
@pytest.mark.simulator
def test_networks_of_random_weights_run_in_both_loops_and_pictures_are_compared(tmp_path: Path) -> None:
    pytest.importorskip("robosuite")
    options = ["--protocol", "lift", "--parts", "same,one_pass,shares,gains,drawing", "--network-episodes", "1"]
    options += ["--rounds", "1", "--steps", "2", "--max-steps", "16", "--pictures", "sheet.png"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "rollout.py"), *options],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["policies"]["same"]["steps"] == {"ours": 16, "baseline": 16}
    assert result["policies"]["one_pass"]["policy_share"]["baseline"] > 0
    assert result["seconds_of_an_episode"]["physics"] > 0
    assert result["processor_seconds"]["step_ours"] < result["processor_seconds"]["step_plain"]
    assert set(result["drawing"]["wall_s"]) >= {"standard", "cheap"}
    assert Image.open(tmp_path / "sheet.png").size == (3 * 2 * 64, 2 * 2 * 64)
