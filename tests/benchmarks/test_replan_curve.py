"""The curve's one command, with tiny networks on the counting simulator."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from files.errors import UserError
from policies import FixedLevel, SharedLevels
from simulators import SimulatorConfig
from tests.simulators.conftest import counting
from tests.stage_parts import fit, lift_datamodule, quiet_trainer, tiny_action_stage, tiny_video_model

__all__ = ["counting"]  # a fixture

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "replan_curve.py"
CAMERAS = ["agentview", "robot0_eye_in_hand"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("replan_curve", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "replan_curve", module)  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def words(
    tmp_path: Path, robomimic_file: Callable[..., Path], counting: Callable[..., SimulatorConfig]
) -> dict[str, str]:
    """A checkpoint of every kind and a protocol that every episode solves, as options."""
    found, demos = {}, robomimic_file(action_dim=2)
    for kind, settings in {
        "one-pass": {"features": FixedLevel()},
        "partial": {"features": FixedLevel(steps=2)},
        "shared": {"features": SharedLevels()},
    }.items():
        trainer = quiet_trainer(tmp_path, 1)
        stage = tiny_action_stage(tiny_video_model(residual=False), **settings)
        fit(trainer, stage, lift_datamodule(demos))
        trainer.save_checkpoint(tmp_path / f"{kind}.ckpt")
        found[f"--{kind}"] = str(tmp_path / f"{kind}.ckpt")
    config = counting(["up"], cameras=CAMERAS, image_size=16, max_steps=8, options={"goal": -1e9}).to_dict()
    kept = ("name", "suite", "tasks", "cameras", "image_size", "max_steps", "options")
    content = {"source": "here", "simulator": {name: config[name] for name in kept}, "execute_steps": 2}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**content, "episodes_per_task": 3, "first_seed": 4}))
    return found | {"--protocol": str(tmp_path / "toy.yaml"), "--output": str(tmp_path / "curve")}


def run(script: ModuleType, words: dict[str, str], points: str, episodes: int) -> int:
    rest = ["--points", points, "--episodes", str(episodes), "--turns", "2", "--device", "cpu", "--", "--workers", "1"]
    result: int = script.main([word for pair in words.items() for word in pair] + rest)
    return result


def test_points_are_evaluated_costed_and_found_again(
    tmp_path: Path, script: ModuleType, words: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    points = "one_pass_5,partial_5,shared_5,shared_1"
    assert run(script, words, points, 2) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    by_name = {point["name"]: point for point in line["points"]}
    assert list(by_name) == points.split(",")
    assert [(point["successes"], point["episodes"]) for point in by_name.values()] == [(2, 2)] * 4
    flop = {name: point["cost"]["flop"] for name, point in by_name.items()}
    assert flop["shared_5"] == pytest.approx(5 * flop["shared_1"], rel=0.02)  # a few parts are computed once a replan
    assert flop["one_pass_5"] < 2 * flop["shared_1"]
    passes = flop["partial_5"] / flop["one_pass_5"]  # three of the video network, two of them beyond the last tap
    assert 2.5 < passes < 3.1
    assert line["published"]["flop"] == pytest.approx(60 * flop["shared_1"], rel=0.02)
    times = [point["cost"] for point in by_name.values()] + [line["published"]]
    assert all(0 < cost["fastest_s"] <= cost["seconds"] <= cost["slowest_s"] for cost in times)
    assert {point["holds_reference"] for point in by_name.values()} == {None}, "30 shared steps were not asked for"
    assert line["ratio"] == pytest.approx(line["baseline"] / line["ours"], abs=0.1)
    document = json.loads((tmp_path / "curve" / "shared_1" / "protocol.json").read_text())
    assert document["policy"]["sampling"] == {"video_steps": 1, "guidance": 1.0}
    assert (tmp_path / "curve" / "curve.png").read_bytes().startswith(b"\x89PNG")

    assert run(script, words, "one_pass_5", 3) == 0
    assert "2 of 3 episodes are already in" in capsys.readouterr().out
    results = (tmp_path / "curve" / "one_pass_5" / "results.jsonl").read_text().splitlines()
    assert len(results) == 3


def test_an_interval_is_asked_for_the_rate_of_thirty_shared_steps(script: ModuleType) -> None:
    cost = script.Cost(1.0, 1.0, 1.0, 1)
    reference = script.Row("shared_30", 15, 20, 0.53, 0.89, cost)
    cheap = [script.Row("one_pass_5", 19, 20, 0.76, 0.99, cost), script.Row("one_pass_30", 14, 20, 0.48, 0.85, cost)]
    assert [script.holds_reference(row, [reference, *cheap]) for row in [*cheap, reference]] == [False, True, None]
    assert script.holds_reference(cheap[0], cheap) is None


def test_a_point_without_its_checkpoint_is_refused_by_name(script: ModuleType, words: dict[str, str]) -> None:
    alone = {name: value for name, value in words.items() if name != "--shared"}
    with pytest.raises(UserError, match=r"\['shared_5'\] cannot be run"):
        run(script, alone, "one_pass_5,shared_5", 1)
    swapped = words | {"--one-pass": words["--shared"]}
    with pytest.raises(UserError, match="trained for other points than one_pass_5; give it as --shared"):
        run(script, swapped, "one_pass_5", 1)
    swapped = words | {"--partial": words["--one-pass"]}
    with pytest.raises(UserError, match="give it as --one-pass"):
        run(script, swapped, "partial_5", 1)
