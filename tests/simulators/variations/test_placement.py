from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from simulators.errors import SimulatorError
from simulators.variations.placement import flat_samplers, grown_placement, grown_range, require_room


def sampler(x: list[float], y: list[float]) -> SimpleNamespace:
    return SimpleNamespace(x_range=x, y_range=y)


def test_lift_at_level_one_and_a_half_starts_within_seven_and_a_half_centimetres() -> None:
    assert grown_range([-0.03, 0.03], 1.5, 0.2) == pytest.approx([-0.075, 0.075])


def test_a_range_grows_about_its_own_middle_up_to_the_arms_reach() -> None:
    assert grown_range([0.07, 0.09], 1.0, 0.2) == pytest.approx([0.06, 0.10])
    assert grown_range([-0.08, 0.08], 9.0, 0.2) == pytest.approx([-0.2, 0.2])
    assert grown_range([0.11, 0.225], 9.0, 0.2) == pytest.approx([-0.2, 0.225])  # it was beyond before
    assert grown_range([-0.03, 0.03], 0.0, 0.2) == [-0.03, 0.03]


def test_ranges_are_given_back_even_after_an_error() -> None:
    inner, outer = sampler([-0.1, 0.1], [0.0, 0.0]), sampler([0.0, 0.02], [-0.01, 0.01])
    composite = SimpleNamespace(samplers={"a": inner, "b": SimpleNamespace(samplers={"c": outer})})
    env = SimpleNamespace(placement_initializer=composite)
    assert flat_samplers(composite) == [inner, outer]
    with grown_placement(env, 1.0):
        assert inner.x_range == [-0.2, 0.2]
        assert outer.x_range == pytest.approx([-0.01, 0.03])
    with contextlib.suppress(ZeroDivisionError), grown_placement(env, 1.0):
        _ = 1 / 0
    assert (inner.x_range, outer.y_range) == ([-0.1, 0.1], [-0.01, 0.01])


def test_level_zero_leaves_the_very_same_ranges() -> None:
    ranges = [-0.03, 0.03]
    env = SimpleNamespace(placement_initializer=sampler(ranges, ranges))
    with grown_placement(env, 0.0):
        assert env.placement_initializer.x_range is ranges


def test_tasks_that_fill_their_bin_are_named() -> None:
    require_room(["Lift", "Stack"])
    with pytest.raises(SimulatorError, match=r"\['PickPlaceCan'\] start anywhere in their bin already"):
        require_room(["Lift", "PickPlaceCan"])
