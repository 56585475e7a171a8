"""The verb that evaluates under growing variation, on the counting simulator, which hears other words only."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from files.errors import UserError
from rollouts import ZeroPolicy
from simulators import SimulatorError
from videopolicy import variation

PROTOCOL = """
source: "a test"
simulator:
  name: counting_simulator:CountingSimulator
  suite: counting
  tasks: [up]
  cameras: [left]
  image_size: 4
  max_steps: 8
  options: {goal: -1.0}
episodes_per_task: 3
first_seed: 7
execute_steps: 4
"""


@pytest.fixture
def protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "simulators"))
    path = tmp_path / "counting.yaml"
    path.write_text(PROTOCOL)
    return path


def sweep(protocol: Path, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    variation.add_arguments(parser)
    common = ("--policy", "zero", "--protocol", str(protocol), "--workers", "1", "--videos", "0")
    return variation.run(parser.parse_args([*common, *arguments]))


def lines(folder: Path) -> list[str]:
    return (folder / "results.jsonl").read_text().splitlines()


def test_a_sweep_runs_every_point_once_and_a_rerun_only_what_is_missing(protocol: Path, tmp_path: Path) -> None:
    arguments = ("--kinds", "instruction", "--output", str(tmp_path / "sweep"))
    assert sweep(protocol, *arguments, "--levels", "1") == 0
    folders = {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()}
    assert folders == {"standard", "instruction_1"}
    first = lines(tmp_path / "sweep" / "standard")
    assert len(first) == len(lines(tmp_path / "sweep" / "instruction_1")) == 3

    assert sweep(protocol, *arguments, "--levels", "0,0.5,1", "--episodes", "4") == 0
    assert lines(tmp_path / "sweep" / "standard")[:3] == first
    content = json.loads((tmp_path / "sweep" / "curve.json").read_text())
    assert [(point["kind"], point["level"], point["successes"], point["episodes"]) for point in content["points"]] == [
        ("", 0.0, 4, 4),
        ("instruction", 0.5, 4, 4),
        ("instruction", 1.0, 4, 4),
    ]
    assert content["points"][2]["p_value"] == 1.0
    assert content["simulator"]["variation"] == {}
    varied = json.loads((tmp_path / "sweep" / "instruction_1" / "protocol.json").read_text())
    assert varied["protocol"]["simulator"]["variation"] == {"instruction": 1.0}
    assert (tmp_path / "sweep" / "curve.png").stat().st_size > 5000


def test_what_a_simulator_cannot_vary_is_refused_before_the_first_episode(protocol: Path, tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match=r"cannot vary \['position', 'appearance', 'camera'\]"):
        sweep(protocol, "--output", str(tmp_path / "sweep"))
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no --output DIR"),
        (("--output", "x", "--kinds", "weather"), r"unknown \['weather'\]; there are position,appearance,camera,instr"),
        (("--output", "x", "--kinds", "camera,camera"), "name each kind once"),
        (("--output", "x", "--levels", "0,much"), "not numbers; write for instance 0,0.5,1,1.5"),
        (("--output", "x", "--levels", "0,-1"), r"\[-1.0\] are no levels"),
        (("--output", "x", "--levels", "0,nan"), r"\[nan\] are no levels"),
        (("--output", "x", "--levels", "0"), "nothing to vary"),
    ],
)
def test_a_slip_is_one_sentence(protocol: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep(protocol, *arguments)


def test_a_kind_is_swept_or_held_not_both(protocol: Path, tmp_path: Path) -> None:
    held = ("--variation", "instruction=1", "--kinds", "instruction")
    with pytest.raises(UserError, match=r"--variation and --kinds both name \['instruction'\]"):
        sweep(protocol, *held, "--output", str(tmp_path / "sweep"))


def test_threads_are_the_policys_and_none_are_refused(
    protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--kinds", "instruction", "--levels", "1", "--output", str(tmp_path / "sweep"))
    with pytest.raises(UserError, match="--threads 0: the policy needs at least one"):
        sweep(protocol, *arguments, "--threads", "0")
    seen = set()
    act = ZeroPolicy.act
    monkeypatch.setattr(ZeroPolicy, "act", lambda *given: (seen.add(torch.get_num_threads()), act(*given))[1])
    before = torch.get_num_threads()
    assert sweep(protocol, *arguments, "--threads", str(before + 1)) == 0
    assert seen == {before + 1}
    assert torch.get_num_threads() == before
