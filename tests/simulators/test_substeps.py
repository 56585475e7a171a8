"""Physics with every position and velocity computed once: the same numbers, to the last bit, from fewer updates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from simulators.config import SimulatorConfig
from simulators.messages import EpisodeSpec
from simulators.rendering import choose_gl
from simulators.robosuite_adapter import RobosuiteSimulator
from simulators.substeps import computed_once

pytestmark = pytest.mark.simulator

SPEC = EpisodeSpec("robosuite", "Lift", 3)


@pytest.fixture(scope="module")
def lift() -> Iterator[RobosuiteSimulator]:
    choose_gl(None)
    robosuite = pytest.importorskip("robosuite")
    if tuple(int(part) for part in robosuite.__version__.split(".")[:2]) >= (1, 5):
        pytest.skip("robosuite 1.5 has its own")
    simulator = RobosuiteSimulator(SimulatorConfig("robosuite", ["Lift"], ["agentview"], image_size=16))
    yield simulator
    simulator.close()


def test_an_episode_with_contacts_ends_in_the_same_state_to_the_last_bit(lift: RobosuiteSimulator) -> None:
    """The expert grasps and lifts, so that contacts, friction and its own readings of the model all play a part."""
    states = []
    for plain in (True, False):
        lift.reset(SPEC, render=False)
        expert = lift.make_expert(SPEC)
        trace, solved = [lift.state()], False
        while not solved:
            if plain:
                lift.env.step(expert.act())
                solved = bool(lift.env._check_success())
            else:
                solved = lift.step(expert.act())
            trace += [lift.state(), np.array(lift.raw_data.qacc_warmstart), np.array(lift.raw_data.xpos).ravel()]
            assert len(trace) < 400
        states.append(trace)
    assert len(states[0]) == len(states[1])
    for one, two in zip(*states, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_substep_updates_positions_once(lift: RobosuiteSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    import mujoco

    calls = dict.fromkeys(["mj_forward", "mj_step", "mj_step1", "mj_step2"], 0)

    def counted(name: str) -> None:
        real = getattr(mujoco, name)

        def call(*arguments: object) -> None:
            calls[name] += 1
            real(*arguments)

        monkeypatch.setattr(mujoco, name, call)

    lift.reset(SPEC, render=False)
    lift.advance(np.zeros(7))  # the controller's first update forces a full one
    for name in calls:
        counted(name)
    lift.advance(np.zeros(7))
    substeps = round(lift.env.control_timestep / lift.env.model_timestep)
    assert calls == {"mj_forward": 0, "mj_step": 0, "mj_step1": substeps, "mj_step2": substeps}


def test_after_the_last_substep_and_outside_the_model_updates_as_ever(lift: RobosuiteSimulator) -> None:
    lift.reset(SPEC, render=False)
    with computed_once(lift.env):
        lift.env.step(np.zeros(7))
        lift.env.sim.data.qpos[0] += 0.1
        before = np.array(lift.raw_data.qacc)
        lift.env.sim.forward()  # a full update, accelerations included
        assert not np.array_equal(before, lift.raw_data.qacc)
    assert "forward" not in vars(lift.env.sim)
    assert "step" not in vars(lift.env.sim)
