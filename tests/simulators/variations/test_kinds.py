from __future__ import annotations

import numpy as np
import pytest

from simulators.errors import SimulatorError
from simulators.messages import EpisodeSpec
from simulators.variations import KINDS, read_variation, require_variable, variation_rng

EPISODE = EpisodeSpec("s", "t", 3)


def test_draws_belong_to_episode_and_kind_alone() -> None:
    draws = {kind: variation_rng(EPISODE, kind).uniform(size=4) for kind in KINDS}
    again = {kind: variation_rng(EpisodeSpec("s", "t", 3), kind).uniform(size=4) for kind in reversed(KINDS)}
    assert all(np.array_equal(draws[kind], again[kind]) for kind in KINDS)
    others = [variation_rng(spec, "camera").uniform(size=4) for spec in (EpisodeSpec("s", "t", 4), EPISODE)]
    assert len({tuple(draw) for draw in [*draws.values(), *others]}) == 5  # the last is the camera's own again


def test_draws_are_the_same_in_every_release() -> None:
    """Results of different machines and months are compared in pairs."""
    np.testing.assert_allclose(variation_rng(EPISODE, "position").uniform(size=2), [0.70237891, 0.28012367], atol=1e-8)


def test_levels_are_ordered_by_kind_and_zero_is_left_out() -> None:
    assert list(read_variation({"camera": 2, "position": 1.5, "appearance": 0}).items()) == [
        ("position", 1.5),
        ("camera", 2.0),
    ]


def test_every_simulator_varies_the_words_and_others_only_what_they_say() -> None:
    require_variable("mine", {"instruction": 1.0, "camera": 1.0}, ("camera",))
    with pytest.raises(SimulatorError, match=r"'mine' cannot vary \['position'\]; it can vary \['camera', 'instruct"):
        require_variable("mine", {"position": 1.0}, ("camera",))
