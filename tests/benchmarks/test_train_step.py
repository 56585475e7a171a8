"""The benchmark of training steps with tiny networks: every order of work, the same losses, shortcuts alone."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from benchmarks import train_step
from benchmarks.parts.alternation import OUT_OF_MEMORY, Contender, alternate, failures, ratio
from benchmarks.train_step import differences, disagreements, measure, parse_arguments
from tests.videopolicy.conftest import tiny_overlay

ROOT = Path(__file__).resolve().parents[2]
LATENT = {"in_channels": 8, "out_channels": 4}
SLIM = {"block_out_channels": [32, 32, 32], "layers_per_block": 1}


def tiny_file(folder: Path) -> Path:
    """Tiny networks with an autoencoder that has a posterior to cache."""
    overlay = tiny_overlay(ROOT / "experiments" / "robocasa.yaml", folder, 2)
    video = overlay["model"]["init_args"]["video"]["init_args"]
    video["unet"]["init_args"] |= LATENT
    video["autoencoder"] = {"class_path": "networks.SVDAutoencoder", "init_args": SLIM}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(overlay))
    return path


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What is reported of each stage."""
    file = str(tiny_file(tmp_path_factory.mktemp("train_step")))
    words = [
        "--size",
        "full",
        "--overlay",
        file,
        "--device",
        "cpu",
        "--batch-size",
        "2",
        "--turns",
        "1",
        "--steps",
        "2",
    ]
    words += ["--choices", "one_token,latent_cache,bf16"]
    return {stage: measure(parse_arguments([*words, "--stage", stage])) for stage in ("video", "action")}


def test_every_order_of_work_gives_the_same_losses(found: dict[str, Any]) -> None:
    video, action = found["video"], found["action"]
    assert set(video["losses"]) == {"published", "exact", "cached"}
    assert set(action["losses"]) == {"published", "exact", "walked", "cached", "independent", "features cached"}
    for stage in (video, action):
        assert stage["disagreements"] == {}
        assert stage["differences"]["exact"] < 1e-5
        assert 0 < stage["differences"]["cached"] < 1e-2  # float16 storage is not exact
        assert len(set(stage["losses"]["published"])) == 2  # two steps, two noises


def test_shortcuts_save_work_and_memory(found: dict[str, Any]) -> None:
    sides = found["action"]["sides"]
    order = [sides[name] for name in ("features cached", "cached", "exact", "published", "walked")]
    work = [side["flop"] for side in order]
    assert work == sorted(set(work))
    assert sides["exact"]["peak_bytes"] < sides["published"]["peak_bytes"]
    cached, published = (found["video"]["sides"][name]["flop"] for name in ("cached", "published"))
    assert cached < published


def test_a_shortcut_is_measured_alone_and_on_top_of_the_others(found: dict[str, Any]) -> None:
    for stage in found.values():
        assert set(stage["choices"]) == {"one_token", "latent_cache", "bf16"}
        assert all(
            choice["alone"]["ratio"] > 0 and choice["on_top"]["ratio"] > 0 for choice in stage["choices"].values()
        )
    assert {"name", "ours", "baseline", "ratio", "unit", "hardware", "commit", "date"} <= set(stage)


def test_each_stage_has_a_process_and_one_that_dies_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **_: Any) -> SimpleNamespace:  # noqa: ANN401 - subprocess.run's own arguments
        died = command[-1] == "video"
        line = "" if died else json.dumps({"ratio": 2.0, "ours": 1.0, "baseline": 2.0, "unit": "s"})
        return SimpleNamespace(returncode=-9 if died else 0, stdout=f"{line}\n")

    monkeypatch.setattr(train_step.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["train_step.py", "--device", "cpu"])
    assert train_step.main() == -9
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["stages"]["video"] == {"failure": "ended with status -9"}
    assert document["ratio"] == document["stages"]["action"]["ratio"] == 2.0


def finished(name: str, losses: list[float], seconds: float = 1.0) -> Contender:
    return Contender(name, lambda: lambda _: None, seconds=[[seconds] * len(losses)], results=losses)


def test_losses_that_differ_are_called_by_name() -> None:
    sides = {name: finished(name, [1.0, 2.0]) for name in ("published", "cached")}
    sides["exact"] = finished("exact", [1.0, 2.001])
    assert disagreements(sides, half=False) == {"exact": pytest.approx(0.0005)}
    assert disagreements(sides, half=True) == {}
    sides["cached"] = finished("cached", [float("nan"), 2.0])
    assert "cached" in disagreements(sides, half=True)
    sides["cached"] = finished("cached", [])  # did not run
    assert "cached" not in differences(sides, half=False)


def test_turns_alternate_and_what_runs_out_of_memory_is_left_out() -> None:
    log: list[str] = []

    def prepare(name: str) -> Callable[[], Callable[[int], int]]:
        def run(number: int) -> int:
            log.append(name)
            if name == "large":
                raise torch.OutOfMemoryError
            return number

        return lambda: run

    contenders = [Contender(name, prepare(name)) for name in ("a", "large", "b")]
    alternate(contenders, torch.device("cpu"), turns=2, runs=2)
    assert log == [*"aaa", "large", *"bbb", *"bbb", *"aaa"]
    assert contenders[1].to_dict() == {"failure": "out of memory"}
    assert [len(turn) for turn in contenders[0].seconds] == [2, 2]
    assert ratio(contenders[0], contenders[1]) is None


def test_what_fails_is_told_from_what_runs_out_of_memory() -> None:
    def broken() -> Callable[[int], int]:
        raise ValueError("no such kernel")

    contenders = [
        Contender("broken", broken),
        finished("fine", [1.0]),
        Contender("large", broken, failure=OUT_OF_MEMORY),
    ]
    alternate(contenders, torch.device("cpu"), turns=2, runs=1)
    assert failures(contenders) == {"broken": "ValueError: no such kernel"}


def test_after_the_deadline_nothing_begins() -> None:
    late = Contender("late", lambda: pytest.fail("it began"))
    alternate([late], torch.device("cpu"), turns=1, runs=1, deadline=0.0)
    assert "time was up" in late.to_dict()["failure"]


def test_a_ratio_is_of_medians_with_the_extremes_of_single_turns() -> None:
    base = Contender("base", lambda: lambda _: None, seconds=[[4.0, 4.0], [6.0, 6.0]])
    ours = Contender("ours", lambda: lambda _: None, seconds=[[2.0, 2.0], [2.0, 2.0]])
    assert ratio(base, ours) == {"ratio": 2.5, "smallest": 2.0, "largest": 3.0}
