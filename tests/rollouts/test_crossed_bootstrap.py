"""Intervals over training seeds and episodes, held to cases whose answers are known."""

import numpy as np
import pytest

from rollouts.crossed_bootstrap import difference, estimate, mean_over_tasks
from rollouts.statistics import wilson_interval


def one_task(count: int) -> list[str]:
    return ["Lift"] * count


def test_equal_rows_differ_by_exactly_nothing() -> None:
    row = np.random.default_rng(0).integers(0, 2, (3, 40)).astype(float)
    found = difference(row, row.copy(), one_task(40))
    assert (found.mean, found.low, found.high, found.num_seeds, found.num_episodes) == (0.0, 0.0, 0.0, 3, 40)


def test_where_every_episode_goes_alike_the_interval_is_that_of_the_seeds_mean() -> None:
    """Seeds at .2, .5, .8: the standard error of their mean is .3 / sqrt(3) = .173, with the unbiased variance."""
    rates = np.array([0.2, 0.5, 0.8])
    found = estimate(np.repeat(rates[:, None], 30, axis=1), one_task(30))
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.2, 0.8))  # the mean of two draws of three
    draws = np.random.default_rng(0).multinomial(2, [1 / 3] * 3, size=4000) @ rates / 2
    assert draws.std() == pytest.approx(0.3 / 3**0.5, rel=0.05)


def test_with_one_seed_the_interval_is_that_of_the_episodes() -> None:
    row = np.array([[1.0] * 60 + [0.0] * 40])
    found = estimate(row, one_task(100))
    low, high = wilson_interval(60, 100)
    assert found.num_seeds == 1
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.015)


def test_episodes_that_all_seeds_share_do_not_count_three_times() -> None:
    """Three seeds that agree on every episode know no more than one."""
    row = np.random.default_rng(1).integers(0, 2, (1, 100)).astype(float)
    one, three = estimate(row, one_task(100)), estimate(np.repeat(row, 3, axis=0), one_task(100))
    assert three.mean == one.mean
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.1)


def test_a_difference_in_pairs_is_surer_than_two_rates() -> None:
    rng = np.random.default_rng(2)
    hard = rng.random(100) < 0.5
    first = np.repeat(hard[None], 3, axis=0).astype(float)
    second = first.copy()
    second[:, np.flatnonzero(~hard)[:14]] = 1.0  # solves 14 more, and loses none
    found = difference(second, first, one_task(100))
    assert found.mean == pytest.approx(0.14)
    assert 0.05 < found.low < 0.14 < found.high < 0.23
    assert estimate(second, one_task(100)).low < estimate(first, one_task(100)).high, "the rates alone overlap"


def test_tasks_weigh_alike_whatever_their_number_of_episodes() -> None:
    outcomes = np.array([[1.0] * 30 + [0.0] * 10])
    tasks = ["a"] * 30 + ["b"] * 10
    found = estimate(outcomes, tasks)
    assert found.mean == mean_over_tasks(outcomes, tasks) == 0.5
    assert (found.low, found.high) == pytest.approx((0.5, 0.5)), "within a task nothing varies"


def test_all_solved_is_not_certain() -> None:
    found = estimate(np.ones((3, 40)), one_task(40))
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(wilson_interval(40, 40)[0])


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Seeds and episodes both vary; of 200 studies about 95 % of the intervals hold the true rate of a half."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        logit = rng.normal(0, 0.7, (5, 1)) + rng.normal(0, 1.0, (1, 40))
        outcomes = (rng.random((5, 40)) < 1 / (1 + np.exp(-logit))).astype(float)
        found = estimate(outcomes, one_task(40))
        held += found.low <= 0.5 <= found.high
    assert 0.88 <= held / 200 <= 1.0
