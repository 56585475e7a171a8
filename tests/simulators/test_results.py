from __future__ import annotations

import math
from pathlib import Path

import pytest

from simulators.errors import SimulatorError
from simulators.results import EpisodeResult, ResultsFile, compare, mcnemar_exact, summarize, wilson_interval


def result(seed: int, success: bool | None, task: str = "up", **rest: object) -> EpisodeResult:
    return EpisodeResult("counting", task, seed, None, success, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (0, 10, 0.0, 0.2775),
        (76, 80, 0.8784, 0.9804),  # printed in the table as .88-.98
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval_has_its_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("only_a", "only_b", "p"), [(0, 0, 1.0), (1, 9, 22 / 1024), (0, 5, 2 / 32), (3, 3, 1.0)])
def test_mcnemar_is_the_two_sided_binomial(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar_exact(only_a, only_b) == pytest.approx(p)


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


def test_errors_count_neither_as_success_nor_as_failure() -> None:
    results = [result(0, True, steps=10, replans=2, policy_s=1.0), result(1, False, steps=20, replans=2, policy_s=3.0)]
    summary = summarize([*results, result(2, None, error="lost"), result(0, True, task="down")])
    up = summary.tasks[0]
    assert (up.task, up.successes, up.episodes, up.errors, up.mean_steps) == ("up", 1, 2, 1, 15.0)
    assert up.seconds_per_replan == 1.0
    assert summary.mean_success_rate == pytest.approx((0.5 + 1.0) / 2)  # over tasks, not over episodes
    assert (summary.total.successes, summary.total.episodes) == (2, 3)


def test_summary_of_nothing_is_nan_not_an_exception() -> None:
    summary = summarize([])
    assert math.isnan(summary.mean_success_rate)
    assert math.isnan(summary.total.success_rate)


def test_comparison_pairs_by_episode_and_leaves_errors_out() -> None:
    a = [result(0, True), result(1, True), result(2, False), result(3, None), result(4, False)]
    b = [result(1, False), result(0, True), result(2, True), result(3, True), result(5, True)]
    paired = compare(a, b)
    assert (paired.both, paired.only_a, paired.only_b, paired.neither, paired.unpaired) == (1, 1, 1, 0, 3)
    assert paired.p_value == 1.0
