from __future__ import annotations

import numpy as np
import pytest

from rollouts.policies import RandomPolicy, ReplayPolicy, ZeroPolicy
from simulators.errors import SimulatorError
from simulators.messages import EpisodeSpec, Observation, PolicyRequest


def request(step: int, seed: int = 0) -> PolicyRequest:
    return PolicyRequest(Observation({}, {}, "", step), EpisodeSpec("s", "t", seed), step // 4, seed=step)


def test_one_demo_is_played_to_its_end_and_then_the_robot_stands_still_with_its_gripper_kept() -> None:
    demo = np.arange(12, dtype=np.float64).reshape(6, 2)
    policy = ReplayPolicy({"t": [demo]}, chunk_steps=4)
    first, second = policy.act([request(0), request(4)])
    np.testing.assert_array_equal(first.actions, demo[:4])
    np.testing.assert_array_equal(second.actions, [[8, 9], [10, 11], [0, 11], [0, 11]])
    assert first.actions.dtype == np.float32


def test_an_episode_keeps_its_demo_and_episodes_differ() -> None:
    policy = ReplayPolicy({"t": [np.full((40, 2), index) for index in range(10)]}, chunk_steps=4)
    drawn = [{policy.act([request(step, seed)])[0].actions[0, 0] for step in (0, 4, 8)} for seed in range(30)]
    assert all(len(demos) == 1 for demos in drawn)
    assert len(set.union(*drawn)) > 5


def test_a_demo_is_of_the_episodes_own_task_where_there_are_some() -> None:
    demos = {task: [np.full((8, 2), index)] for index, task in enumerate("stu")}
    policy = ReplayPolicy(demos, chunk_steps=4)
    assert {policy.act([request(0, seed)])[0].actions[0, 0] for seed in range(20)} == {1}
    del policy.demos["t"]
    assert {policy.act([request(0, seed)])[0].actions[0, 0] for seed in range(20)} == {0, 1, 2}


def test_the_gripper_of_a_whole_body_is_not_the_switch_between_arm_and_base() -> None:
    """RoboCasa's 12: arm 0-5, gripper 6, base 7-9, torso 10, switch 11."""
    demo = np.arange(1.0, 13.0)[None]
    (reply,) = ReplayPolicy({"t": [demo]}, chunk_steps=2).act([request(1)])
    np.testing.assert_array_equal(reply.actions[0], [0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 12])


def test_replay_without_demos_is_refused() -> None:
    with pytest.raises(SimulatorError, match="at least one demo"):
        ReplayPolicy({"t": []})


def test_actions_cannot_be_made_up_where_their_width_is_unknown() -> None:
    with pytest.raises(SimulatorError, match="suite 's' does not say how wide"):
        ZeroPolicy(4).act([request(0)])
    with pytest.raises(SimulatorError, match="suite 's' does not say how wide"):
        RandomPolicy(4).act([request(0)])
