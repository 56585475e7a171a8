"""The scripts that compare settings by turns, with tiny networks; and what a turn and a ratio are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import replan, rollout, train_step
from benchmarks.parts.turns import OUT_OF_MEMORY, Setting, ratio, report, take_turns, time_runs
from rollouts import EpisodeResult

BF16 = str(Path(__file__).resolve().parents[2] / "experiments" / "ablations" / "bf16.yaml")
CPU = torch.device("cpu")
KEYS = {"name", "ours", "baseline", "ratio", "unit", "hardware", "commit", "date"}


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return document


def test_a_training_step_is_compared_with_latents_features_and_another_experiment(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--overlay", tiny, "--device", "cpu", "--batch-size", "2", "--turns", "1", "--steps", "2", "--with", BF16]
    assert train_step.main(words) == 0
    found = last_line(capsys)
    video, action = found["stages"]["video"], found["stages"]["action"]
    assert list(video["settings"]) == ["frames", "latents", "bf16"]
    assert list(action["settings"]) == ["frames", "latents", "features", "bf16"]
    for stage in (video, action):
        assert all(setting["num_runs"] == 2 for setting in stage["settings"].values())
        assert stage["ratio"] == stage["ratios"][stage["ours_is"]]["ratio"] > 0
        losses = stage["losses"]
        assert losses["bf16"] == pytest.approx(losses["frames"], rel=5e-2)
        assert losses["bf16"] != losses["frames"]
    assert set(found) >= KEYS


def test_a_replan_is_compared_with_and_without_a_film_and_in_one_pass(
    tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--overlay", tiny, "--device", "cpu", "--steps", "2", "--turns", "1", "--precision", "bfloat16"]
    assert replan.main(words) == 0
    found = last_line(capsys)
    assert list(found["settings"]) == ["film", "shared", "one_pass", "shared, bfloat16", "one_pass, bfloat16"]
    work = [found["flop"][name] for name in ("one_pass", "shared", "film")]
    assert work == sorted(set(work))
    assert found["flop"]["shared"] > 2 * found["flop"]["one_pass"]  # four passes against one that stops early
    assert set(found) >= KEYS


@pytest.mark.simulator
def test_every_way_of_running_episodes_gives_the_same_outcomes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("robosuite")
    words = ["--episodes", "1", "--turns", "1", "--image-size", "16", "--workers", "2", "--max-steps", "8"]
    assert rollout.main(words) == 0
    found = last_line(capsys)
    assert list(found["episodes"].values()) == [1, 1, 1]
    assert found["baseline_is"] == "1 worker, every effect"
    assert set(found) >= KEYS


def test_outcomes_are_compared_as_far_as_all_have_come() -> None:
    one, two = (EpisodeResult("robosuite", "Lift", seed, None, True, 10, 2, 1.0, 0.5) for seed in (0, 1))
    worse = EpisodeResult("robosuite", "Lift", 1, None, True, 11, 2, 1.0, 0.5)
    assert rollout.outcomes_agree([[one, two], [one]])
    assert not rollout.outcomes_agree([[one, two], [one, worse]])


def test_turns_alternate_and_what_runs_out_of_memory_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []

    def setting(name: str) -> Setting:
        def turn() -> list[float]:
            log.append(name)
            if name == "large":
                raise torch.OutOfMemoryError
            return [1.0]

        return Setting(name, turn)

    settings = [setting(name) for name in ("a", "large", "b")]
    take_turns(settings, CPU, turns=2)
    assert log == ["a", "large", "b", "b", "a"]
    assert settings[1].to_dict() == {"failure": OUT_OF_MEMORY}
    late = Setting("late", lambda: pytest.fail("it began"))
    take_turns([late], CPU, turns=1, minutes=0.0)
    document = report("some", [settings[0], settings[1], late], CPU)
    assert document["ratio"] is None
    assert "large: out of memory\nlate: not run: time was up" in capsys.readouterr().out


def test_a_ratio_is_the_median_of_turns_with_its_extremes() -> None:
    base = Setting("base", list, seconds=[[4.0, 4.0], [6.0], [9.0]])
    ours = Setting("ours", list, seconds=[[2.0, 2.0], [2.0], [2.0]])
    assert ratio(base, ours) == {"ratio": 3.0, "low": 2.0, "high": 4.5}
    assert ratio(base, Setting("none", list)) is None


def test_warming_up_is_not_timed() -> None:
    runs: list[int] = []
    assert len(time_runs(lambda: runs.append(1), CPU, runs=2)) == 2
    assert len(runs) == 3
