import numpy as np
import pytest
import torch

from datamodules.statistics import ActionStatistics, compute_statistics
from files.errors import UserError


def test_published_formula_maps_the_ends_to_minus_one_and_one() -> None:
    stats = compute_statistics([("a", np.array([[-2.0, 0.0], [2.0, 1.0]])), ("b", np.array([[6.0, 0.5]]))])
    assert stats.minimum == (-2.0, 0.0)
    assert stats.maximum == (6.0, 1.0)
    raw = torch.tensor([[-2.0, 1.0], [2.0, 0.5], [10.0, 0.0]])
    expected = torch.tensor([[-1.0, 1.0], [0.0, 0.0], [2.0, -1.0]])
    torch.testing.assert_close(stats.normalize(raw), expected)
    torch.testing.assert_close(stats.denormalize(expected), raw)


def test_quantiles_clip_outliers() -> None:
    actions = np.linspace(0, 100, 10_001)[:, None]
    stats = compute_statistics([("a", actions)], method="quantile")
    assert stats.minimum[0] == pytest.approx(1.0, abs=1e-4)
    assert stats.maximum[0] == pytest.approx(99.0, abs=1e-4)
    torch.testing.assert_close(
        stats.normalize(torch.tensor([[0.0], [50.0], [100.0]])).ravel(), torch.tensor([-1, 0, 1.0])
    )


def test_a_constant_dimension_is_an_error_naming_it_and_the_way_out() -> None:
    actions = np.array([[0.0, 3.0], [1.0, 3.0]])
    with pytest.raises(UserError, match=r"file demo_0.*1 \(always 3\).*constant_actions: zero"):
        compute_statistics([("file demo_0", actions)])


def test_a_constant_dimension_becomes_zero_and_comes_back_as_its_constant() -> None:
    stats = compute_statistics([("a", np.array([[0.0, 3.0], [1.0, 3.0]]))], constant="zero")
    assert stats.normalize(torch.tensor([[0.5, 3.0]])).tolist() == [[0.0, 0.0]]
    assert stats.denormalize(torch.tensor([[0.0, 0.7]])).tolist() == [[0.5, 3.0]]


def test_equal_quantiles_of_a_moving_dimension_are_not_lost_in_silence() -> None:
    actions = np.zeros((1000, 1))
    actions[3] = 1
    with pytest.raises(UserError, match="statistics: minmax"):
        compute_statistics([("a", actions)], method="quantile", constant="zero")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_action_is_named_by_demo_step_and_dimension(bad: float) -> None:
    actions = np.random.default_rng(0).normal(size=(5, 3))
    actions[2, 1] = bad
    with pytest.raises(UserError, match=r"f\.hdf5 demo_3.*step 2, dimension 1"):
        compute_statistics([("f.hdf5 demo_3", actions)])


def test_statistics_survive_json() -> None:
    stats = ActionStatistics((-1.5, 0.1), (2.0, 0.3), "quantile", "zero")
    assert ActionStatistics.from_dict(stats.to_dict()) == stats


def test_actions_of_another_width_are_refused() -> None:
    with pytest.raises(UserError, match=r"3 dimensions .* computed for 2"):
        ActionStatistics((0.0, 0.0), (1.0, 1.0)).normalize(torch.zeros(4, 3))
