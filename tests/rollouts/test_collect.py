from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rollouts.collect import collect_demos
from simulators.config import SimulatorConfig

Counting = Callable[..., SimulatorConfig]


def test_demos_come_in_the_order_of_their_seeds_and_failures_carry_no_arrays(counting: Counting) -> None:
    config = counting(options={"goal": 5.0, "render_s": 0.002})
    collected = list(collect_demos(config, config.episodes(5), num_workers=2))
    assert [episode.spec.seed for episode in collected] == [0, 1, 2, 3, 4]
    assert [episode.success for episode in collected] == [
        True,
        False,
        True,
        False,
        True,
    ]  # the expert dislikes odd seeds
    failure, success = collected[1].demo, collected[0].demo
    assert failure is not None
    assert failure.actions is None
    assert success is not None
    assert success.actions is not None
    assert success.images["left"].shape == (success.num_steps, 4, 4, 3)


def test_pictures_belong_to_the_states_their_actions_were_chosen_for(counting: Counting) -> None:
    config = counting(options={"goal": 5.0})
    demo = next(iter(collect_demos(config, config.episodes(1)))).demo
    assert demo is not None
    assert demo.states is not None
    np.testing.assert_array_equal(demo.images["left"][:, 0, 0, 0], demo.states[:, 0])  # both hold the step count
    np.testing.assert_allclose(demo.proprio["total"][:, 0], demo.states[:, 1], rtol=1e-6)
    assert np.all(np.diff(demo.states[:, 0]) == 1)


def test_recording_goes_on_for_five_steps_after_success(counting: Counting) -> None:
    config = counting(options={"goal": 5.0})
    demo = next(iter(collect_demos(config, config.episodes(1)))).demo
    assert demo is not None
    assert demo.states is not None
    solved_after = int(np.argmax(demo.states[:, 1] >= 5.0))  # first state at the goal
    assert demo.num_steps == solved_after + 5


def test_a_lost_worker_is_retried_and_then_reported(counting: Counting, tmp_path: Path) -> None:
    config = counting(["up"], python=None, options={"goal": 5.0, "die_in_expert": str(tmp_path)})
    first, second = collect_demos(config, config.episodes(2), max_retries=1)
    assert (first.success, second.success) == (True, False)
    config = counting(["up"], options={"goal": 5.0, "die_in_expert": "always"})
    episodes = config.episodes(3)
    lost = list(collect_demos(config, [episodes[1], episodes[0], episodes[2]], max_retries=1))
    assert [episode.success for episode in lost] == [False, None, None]
    assert "exit code -9" in (lost[1].error or "")
