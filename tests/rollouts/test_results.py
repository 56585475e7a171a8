from __future__ import annotations

from pathlib import Path

import pytest

from rollouts.results import EpisodeResult, ResultsFile
from simulators.errors import SimulatorError


def result(seed: int, success: bool | None, task: str = "up", **rest: object) -> EpisodeResult:
    return EpisodeResult("counting", task, seed, None, success, **rest)  # type: ignore[arg-type]


def test_results_are_written_line_by_line_and_read_back(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "new" / "results.jsonl")
    results = [result(0, True, steps=3), result(1, None, error="lost"), EpisodeResult("s", "t", 2, 5, False)]
    for item in results:
        file.append(item)
    assert list(file.load().values()) == results
    assert list(file.load())[2] == "s/t/seed2/init5"


def test_a_line_cut_short_by_a_kill_is_dropped_and_the_next_result_is_whole(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "results.jsonl")
    file.append(result(0, True))
    file.append(result(1, True))
    file.path.write_bytes(file.path.read_bytes()[:-20])
    assert [r.seed for r in file.load().values()] == [0]
    with pytest.warns(UserWarning, match="cut short"):
        file.append(result(2, False))
    assert [r.seed for r in file.load().values()] == [0, 2]


def test_a_line_that_is_no_result_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(SimulatorError, match=r"results\.jsonl: line 1"):
        ResultsFile(path).load()


def test_a_line_of_an_older_file_takes_defaults_and_of_a_newer_one_drops_what_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"suite": "s", "task": "t", "seed": 1, "init_state": null, "success": true, "mood": "good"}\n')
    (loaded,) = ResultsFile(path).load().values()
    assert loaded == EpisodeResult("s", "t", 1, None, True)


def test_repair_says_whether_there_was_anything_to_repair(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "results.jsonl")
    assert not file.repair()
    file.append(result(0, True))
    assert not file.repair()
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + b'{"suite": "cou')
    assert file.repair()
    assert file.path.read_bytes() == whole
    file.path.write_bytes(b'{"suite"')
    assert file.repair()
    assert file.path.read_bytes() == b""
