from __future__ import annotations

import math

import numpy as np
import pytest

from rollouts.results import EpisodeResult
from rollouts.statistics import (
    Comparison,
    Pairs,
    compare,
    holm,
    mcnemar_exact,
    mean_interval,
    summarize,
    wilson_interval,
)


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


def test_holm_gives_the_values_of_rs_p_adjust() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("counts", [[(34, 40)], [(17, 20), (17, 20)], [(34, 40), (0, 0)]])
def test_interval_of_a_mean_over_like_tasks_is_that_of_all_episodes(counts: list[tuple[int, int]]) -> None:
    assert mean_interval(counts) == pytest.approx((0.7093, 0.9294), abs=5e-5)  # Wilson, 34 of 40


def test_interval_of_a_mean_holds_the_variance_within_tasks_only() -> None:
    """Rates .9 and .1 of 100 each: by hand, variance (.896 x .104 / 100) / 2 by Jeffreys' rates, so n is 537."""
    low, high = mean_interval([(90, 100), (10, 100)])
    assert (low, high) == pytest.approx((0.4579, 0.5421), abs=1e-4)
    pooled = wilson_interval(100, 200)
    assert high - low < 0.65 * (pooled[1] - pooled[0])
    certain = mean_interval([(50, 50), (0, 50)])  # solved always and never is not certain
    assert certain[0] < 0.485 < 0.515 < certain[1]
    assert mean_interval([]) == mean_interval([(0, 0)]) == (0.0, 1.0)


@pytest.mark.parametrize(("tasks", "episodes", "lowest"), [(24, 5, 0.85), (10, 50, 0.2), (5, 10, 0.0)])
def test_interval_of_a_mean_covers_it_nineteen_times_in_twenty(tasks: int, episodes: int, lowest: float) -> None:
    rng = np.random.default_rng(0)
    rates = np.linspace(lowest, 0.98, tasks)
    draws = rng.binomial(episodes, rates, size=(2000, tasks))
    intervals = [mean_interval([(int(count), episodes) for count in row]) for row in draws]
    covered = np.mean([low <= rates.mean() <= high for low, high in intervals])
    assert 0.935 < covered < 0.985


def test_means_have_an_interval_in_summaries_and_comparisons() -> None:
    results = [result(seed, seed < 3) for seed in range(4)] + [result(0, True, task="down")]
    summary = summarize(results, {"one": ["up"]})
    assert summary.mean_interval == mean_interval([(3, 4), (1, 1)])
    assert summary.groups[0].mean_interval == pytest.approx(wilson_interval(3, 4))
    like = Comparison([Pairs("a", 18, 6, 1, 0), Pairs("b", 18, 6, 1, 0)], Pairs("total", 36, 12, 2, 0), 0, 0, 0)
    assert like.mean_difference == pytest.approx(0.2)
    assert like.mean_difference_interval == pytest.approx((0.0569, 0.3404), abs=2e-3)  # Newcombe, 36, 12, 2, 0
    assert Comparison([], Pairs("total", 0, 0, 0, 0), 0, 0, 0).mean_difference_interval == (-1.0, 1.0)


def test_episodes_from_one_recorded_state_are_one_start() -> None:
    results = [EpisodeResult("libero", task, seed, seed % 3, True) for task in ("a", "b") for seed in range(5)]
    summary = summarize(results)
    assert [(row.episodes, row.starts) for row in (*summary.tasks, summary.total)] == [(5, 3), (5, 3), (10, 6)]
    assert summarize([result(seed, True) for seed in range(5)]).total.starts == 5


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


def test_groups_of_tasks_have_a_mean_and_a_total_of_their_own() -> None:
    results = [result(seed, seed < 3, task="up") for seed in range(4)]
    results += [result(seed, False, task="down") for seed in range(2)] + [result(0, True, task="left")]
    summary = summarize(results, {"trained": ["up", "left"], "held_out": ["down", "never run"], "other": ["no"]})
    trained, held_out = summary.groups
    assert (trained.name, trained.total.successes, trained.total.episodes) == ("trained", 4, 5)
    assert trained.mean_success_rate == pytest.approx((0.75 + 1.0) / 2)
    assert (held_out.name, held_out.mean_success_rate, held_out.total.episodes) == ("held_out", 0.0, 2)
    assert summary.mean_success_rate == pytest.approx((0.75 + 0.0 + 1.0) / 3)


def test_comparison_pairs_by_episode_and_leaves_errors_out() -> None:
    a = [result(0, True), result(1, True), result(2, False), result(3, None), result(4, False)]
    b = [result(1, False), result(0, True), result(2, True), result(3, True), result(5, True)]
    paired = compare(a, b)
    assert paired.total == Pairs("total", both=1, only_a=1, only_b=1, neither=0)
    assert (paired.only_in_a, paired.only_in_b, paired.errors) == (1, 1, 1)
    assert paired.total.p_value == 1.0
    assert paired.total.successes == (2, 2)


def test_pairs_are_counted_for_every_task_and_in_all() -> None:
    a = [result(0, True), result(1, False), result(0, True, task="down")]
    b = [result(0, True), result(1, True), result(0, False, task="down")]
    paired = compare(a, b)
    assert paired.tasks == [Pairs("up", 1, 0, 1, 0), Pairs("down", 0, 1, 0, 0)]
    assert paired.total == Pairs("total", 1, 1, 1, 0)


@pytest.mark.parametrize(
    ("cells", "difference", "low", "high", "p"),
    [
        # Fagerland, Lydersen, Laake, "Statistical Analysis of Contingency Tables", chapter 8: Cavo et al. 2012
        ((59, 6, 16, 80), -0.0621, -0.1186, -0.0046, 0.052479),
        # the same: Bentur et al. 2009
        ((1, 1, 7, 12), -0.2857, -0.5069, -0.0256, 0.0703),
        # Newcombe 1998 (paired), table III, method 10
        ((36, 12, 2, 0), 0.2, 0.0569, 0.3404, 0.0129),
    ],
)
def test_paired_difference_interval_and_p_have_their_published_values(
    cells: tuple[int, int, int, int], difference: float, low: float, high: float, p: float
) -> None:
    pairs = Pairs("total", *cells)
    assert pairs.difference == pytest.approx(difference, abs=5e-5)
    assert pairs.interval == pytest.approx((low, high), abs=5.1e-5)
    assert pairs.p_value == pytest.approx(p, abs=5e-5)


def test_swapping_the_runs_turns_the_interval_round_and_keeps_p() -> None:
    pairs, swapped = Pairs("t", 9, 4, 1, 6), Pairs("t", 9, 1, 4, 6)
    assert swapped.interval == pytest.approx((-pairs.interval[1], -pairs.interval[0]))
    assert swapped.p_value == pairs.p_value


def test_equal_runs_have_no_difference_and_an_interval_around_it() -> None:
    for pairs in (Pairs("t", 10, 0, 0, 0), Pairs("t", 0, 0, 0, 10), Pairs("t", 5, 0, 0, 5)):
        assert pairs.difference == 0.0
        assert pairs.interval[0] <= 0.0 <= pairs.interval[1]
        assert pairs.p_value == 1.0


def test_no_pairs_are_nan_not_an_exception() -> None:
    nothing = compare([], []).total
    assert math.isnan(nothing.difference)
    assert nothing.interval == (-1.0, 1.0)
