"""results.json, results.md and results.csv of known results."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rollouts import EpisodeResult
from videopolicy.evaluation.results_directory import ResultsDirectory

DOCUMENT: dict[str, Any] = {
    "format": 1,
    "fingerprint": "0123456789abcdef",
    "policy": {"kind": "checkpoint", "path": "runs/last.ckpt", "sha256": "ab" * 32},
    "protocol": {
        "name": "toy",
        "source": "a paper",
        "simulator": {"name": "libero", "suite": "toys", "tasks": ["up", "down"], "variation": {"position": 1.5}},
        "first_seed": 7,
        "execute_steps": 8,
        "groups": {"held_out": ["down"]},
    },
}
RUN = {"started": "2026-11-22T10:00:00Z", "seconds": 100.0, "episodes": 4, "workers": 2}


def results() -> list[EpisodeResult]:
    outcomes = [("down", 0, False), ("up", 1, True), ("up", 0, True), ("down", 1, None)]
    return [
        EpisodeResult("toys", task, seed, None, success, steps=10, replans=2, policy_s=1.0, error=None)
        for task, seed, success in outcomes
    ]


def write_summary(path: Path, document: dict[str, Any], results: list[EpisodeResult], run: dict[str, Any]) -> None:
    (path / "results.jsonl").unlink(missing_ok=True)
    directory = ResultsDirectory(path, document, [])
    for result in results:
        directory.append(result)
    directory.write_summary(run)


def test_numbers_for_programs(tmp_path: Path) -> None:
    write_summary(tmp_path, DOCUMENT, results(), RUN)
    content = json.loads((tmp_path / "results.json").read_text())
    assert [(row["task"], row["successes"], row["episodes"], row["errors"]) for row in content["tasks"]] == [
        ("up", 2, 2, 0),
        ("down", 0, 1, 1),
    ]
    assert content["total"]["success_rate"] == pytest.approx(2 / 3)
    assert content["mean_success_rate"] == 0.5
    assert content["total"]["seconds_per_replan"] == 0.5
    assert content["episodes_per_hour"] == 144.0
    assert content["groups"][0]["mean_success_rate"] == 0.0
    assert (content["date"], content["fingerprint"]) == ("2026-11-22", "0123456789abcdef")
    assert 0.0 < content["mean_low"] < 0.5 < content["mean_high"] < 1.0
    assert (content["groups"][0]["mean_low"], content["groups"][0]["mean_high"]) == pytest.approx((0, 0.793), abs=1e-3)


def test_what_has_no_outcome_is_null_and_not_nan(tmp_path: Path) -> None:
    write_summary(tmp_path, DOCUMENT, [EpisodeResult("toys", "up", 0, None, None, error="lost")], RUN)
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert content["mean_success_rate"] is None
    assert content["tasks"][0]["success_rate"] is None
    assert "| up | 0/0 | - | 0.000 to 1.000 |" in (tmp_path / "results.md").read_text()


def test_a_table_for_a_paper(tmp_path: Path) -> None:
    write_summary(tmp_path, DOCUMENT, results(), RUN)
    text = (tmp_path / "results.md").read_text()
    assert "| up | 2/2 | 1.000 | 0.342 to 1.000 |" in text  # Wilson, 2 of 2
    assert "| **mean over tasks** |  | **0.500** | **" in text
    assert "| **held_out: mean over tasks** |  | **0.000** | **0.000 to 0.793** |" in text  # Wilson, 0 of 1
    assert "checkpoint `abababababababab`" in text
    for part in ("Protocol: toy", "variation position 1.5", "Source: a paper", "in no rate: 1", "2026-11-22"):
        assert part in text


def test_warnings_and_repeated_states_stand_in_both_files(tmp_path: Path) -> None:
    document = {**DOCUMENT, "protocol": {**DOCUMENT["protocol"], "warnings": ["not held out: of up no state is left"]}}
    several = [EpisodeResult("toys", "up", seed, seed % 2, True) for seed in range(5)]
    write_summary(tmp_path, document, several, RUN)
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["tasks"][0]["episodes"], content["tasks"][0]["starts"]) == (5, 2)
    first, second = content["warnings"]
    assert first == "not held out: of up no state is left"
    assert "the 5 episodes of a task (up) start from 2 recorded initial states" in second
    text = (tmp_path / "results.md").read_text()
    assert f"**Warning:** {first}" in text
    assert f"**Warning:** {second}" in text


def test_one_row_an_episode_for_a_spreadsheet(tmp_path: Path) -> None:
    write_summary(tmp_path, DOCUMENT, results(), RUN)
    with (tmp_path / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["task"], row["seed"], row["success"]) for row in rows] == [
        ("up", "0", "True"),
        ("up", "1", "True"),
        ("down", "0", "False"),
        ("down", "1", ""),
    ]
    assert rows[0]["variation"] == "{}"


def test_a_rerun_that_ran_nothing_changes_nothing_and_further_runs_add_up(tmp_path: Path) -> None:
    write_summary(tmp_path, DOCUMENT, results(), RUN)
    names = ("results.json", "results.md", "results.csv")
    before = [(tmp_path / name).read_bytes() for name in names]
    write_summary(tmp_path, DOCUMENT, results(), {**RUN, "started": "2026-11-23T10:00:00Z", "episodes": 0})
    assert [(tmp_path / name).read_bytes() for name in names] == before
    write_summary(tmp_path, DOCUMENT, results(), {**RUN, "started": "2026-11-23T10:00:00Z", "seconds": 300.0})
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["date"], content["episodes_per_hour"], len(content["runs"])) == ("2026-11-23", 72.0, 2)
