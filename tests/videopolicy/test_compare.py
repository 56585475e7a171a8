"""`videopolicy compare` on small directories of known results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from files.errors import UserError
from rollouts import EpisodeResult, ResultsFile
from videopolicy import compare
from videopolicy.evaluation.results_directory import open_directory


def protocol(**changes: object) -> dict[str, Any]:
    simulator = {"name": "counting", "tasks": ["up", "down"], "max_steps": 8, "image_size": 64, "variation": {}}
    rest = {"name": "toy", "source": "here", "episodes_per_task": 4, "first_seed": 0, "execute_steps": 8}
    return {
        **{key: changes.pop(key, value) for key, value in rest.items()},
        "simulator": {**simulator, **changes},
    }


def write(path: Path, outcomes: Iterable[tuple[str, int, bool | None]], kind: str = "zero", **changes: object) -> Path:
    with open_directory(path, {"kind": kind}, protocol(**changes)) as directory:
        for task, seed, success in outcomes:
            directory.append(EpisodeResult("counting", task, seed, None, success))
    return path


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return write(tmp_path / "a", [("up", 0, True), ("up", 1, True), ("up", 2, False), ("down", 0, True)], "scripted")


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return write(tmp_path / "b", [("up", 0, True), ("up", 1, False), ("up", 2, True), ("down", 0, False)])


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    return compare.run(parser.parse_args([str(argument) for argument in arguments]))


def test_pairs_per_task_and_in_all(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(a, b, "--format", "json") == 0
    content = json.loads(capsys.readouterr().out)
    up, down = content["tasks"]
    assert [up[key] for key in ("task", "both", "only_a", "only_b", "neither")] == ["up", 1, 1, 1, 0]
    assert [down[key] for key in ("task", "both", "only_a", "only_b", "neither")] == ["down", 0, 1, 0, 0]
    total = content["total"]
    assert (total["a"]["success_rate"], total["b"]["success_rate"], total["difference"]) == (0.75, 0.5, 0.25)
    assert total["difference_low"] < 0.25 < total["difference_high"]
    assert total["p_value"] == 1.0  # two against one
    assert "Newcombe" in content["method"]


def test_the_table_and_markdown_say_the_same(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(a, b, "--format", "markdown")
    text = capsys.readouterr().out
    assert "| total | 1 | 2 | 1 | 0 | 0.750 (0.301 to 0.954) | 0.500 (0.150 to 0.850) | +0.250 (" in text
    run(a, b)
    shown = capsys.readouterr().out
    assert "McNemar's exact test" in shown
    assert "1/2/1/0 " in shown
    assert "0.30 to 0.95" in shown
    assert max(map(len, shown.split("A: ")[0].splitlines())) <= 80


def test_a_results_file_may_be_given_in_place_of_its_directory(
    a: Path, b: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(a / "results.jsonl", b, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["notes"] == []


def test_different_episodes_are_refused_by_number_and_shared_ones_compared_on_request(
    tmp_path: Path, a: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(tmp_path / "c", [("up", 1, False), ("up", 2, False), ("up", 3, True)])
    with pytest.raises(UserError, match=r"2 episodes are only in .*a and 1 only in .*c; .* add --shared .* the 2"):
        run(a, other)
    run(a, other, "--shared", "--format", "json")
    content = json.loads(capsys.readouterr().out)
    assert content["total"]["episodes"] == 2
    assert "Left out: 2 episodes are only in" in content["notes"][0]


def test_errors_are_in_no_pair_and_said(tmp_path: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = write(tmp_path / "c", [("up", 0, None), ("up", 1, False), ("up", 2, True), ("down", 0, False)])
    run(lost, b, "--format", "json")
    content = json.loads(capsys.readouterr().out)
    assert content["total"]["episodes"] == 3
    assert content["notes"] == ["Left out: 1 episodes that ended in an error in A or B."]


@pytest.mark.parametrize(
    ("changes", "key"), [({"max_steps": 9}, "max_steps is 8 and 9"), ({"suite": "other"}, "suite is None and 'other'")]
)
def test_different_protocols_are_refused_by_key(tmp_path: Path, a: Path, changes: dict[str, Any], key: str) -> None:
    path = write(tmp_path / "c", [("up", 0, True)], **changes)
    with pytest.raises(UserError, match=rf"followed different protocols \(protocol\.simulator\.{key}\)"):
        run(a, path)


def test_what_is_compared_may_differ_and_is_said(tmp_path: Path, a: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [("up", 0, True), ("up", 1, True), ("up", 2, False), ("down", 0, True)]
    varied = write(tmp_path / "c", outcomes, "scripted", variation={"position": 1.0}, execute_steps=4, image_size=32)
    run(a, varied, "--format", "json")
    assert json.loads(capsys.readouterr().out)["notes"] == [
        "They differ in protocol.execute_steps: A 8, B 4.",
        "They differ in protocol.simulator.image_size: A 64, B 32.",
        "They differ in protocol.simulator.variation.position: A None, B 1.0.",
    ]


def test_nothing_to_compare_is_said(tmp_path: Path, a: Path) -> None:
    with pytest.raises(UserError, match="no such results"):
        run(a, tmp_path / "nowhere")
    empty = write(tmp_path / "empty", [])
    with pytest.raises(UserError, match="no such results"):
        run(a, empty)
    (empty / "results.jsonl").touch()
    with pytest.raises(UserError, match="holds no finished episode"):
        run(a, empty)
    apart = write(tmp_path / "c", [("up", 9, True)])
    with pytest.raises(UserError, match="no episode has an outcome in both: 4 episodes are only in"):
        run(a, apart, "--shared")


def test_files_without_a_protocol_are_taken_on_trust(
    tmp_path: Path, a: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plain.jsonl"
    for result in ResultsFile(a / "results.jsonl").load().values():
        ResultsFile(path).append(result)
    run(a, path, "--format", "json")
    assert "taken on trust" in json.loads(capsys.readouterr().out)["notes"][0]
