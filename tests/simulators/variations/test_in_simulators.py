"""Varied episodes of the real simulators, in this process, beside their standard twins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from rollouts.worker_process import WorkerProcess, check_simulator
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.messages import Array, EpisodeSpec
from simulators.mujoco_simulator import MujocoSimulator
from simulators.rendering import choose_gl
from simulators.worker import load_adapter

pytestmark = pytest.mark.simulator

CAMERAS = ["agentview", "robot0_eye_in_hand"]
LIFT = SimulatorConfig("robosuite", ["Lift"], CAMERAS, image_size=32)
MILK = "pick_up_the_milk_and_place_it_in_the_basket"
LIBERO = SimulatorConfig("libero", [MILK], CAMERAS, image_size=32)
EPISODES = {LIFT.name: EpisodeSpec("robosuite", "Lift", 5), LIBERO.name: EpisodeSpec("libero_object", MILK, 5, 5)}
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (4, 7)).astype(np.float32)

Seen = dict[str, Array]
Look = Callable[..., Seen]
"""Kind=level, and seed -> everything of an episode: state and pictures at the start, state after four actions."""


@pytest.fixture(scope="module", params=[LIFT, LIBERO], ids=["robosuite", "libero"])
def simulator(request: pytest.FixtureRequest) -> Iterator[MujocoSimulator]:
    choose_gl(None)  # before anything imports mujoco
    pytest.importorskip(request.param.name)
    adapter = load_adapter(request.param.name)
    assert not inspect.isabstract(adapter)
    made = adapter(request.param)
    assert isinstance(made, MujocoSimulator)
    yield made
    made.close()


@pytest.fixture
def look(simulator: MujocoSimulator) -> Look:
    standard = simulator.config

    def seen(seed: int = 5, **variation: float) -> Seen:
        simulator.config = replace(standard, variation=variation)
        spec = replace(EPISODES[standard.name], seed=seed)
        observation = simulator.reset(spec)
        start = simulator.state()
        simulator.step_chunk(ACTIONS, render=False, record_stride=0)
        simulator.config = standard
        return {**observation.images, "start": start, "end": simulator.state()}

    return seen


def equal(one: Seen, two: Seen, *names: str) -> bool:
    return all(np.array_equal(one[name], two[name]) for name in names or one)


@pytest.mark.parametrize("kind", ["position", "appearance", "camera"])
def test_standard_is_the_same_bit_for_bit_after_a_varied_episode_and_the_varied_one_repeats(
    look: Look, kind: str
) -> None:
    standard, varied = look(), look(**{kind: 1.5})
    assert equal(standard, look())
    assert equal(standard, look(**{kind: 0.0}))
    look(seed=6, **{kind: 2.0})
    assert equal(varied, look(**{kind: 1.5}))
    assert not equal(standard, varied, "agentview")


def test_looks_are_not_physics_and_the_wrist_camera_stays(look: Look) -> None:
    standard, painted, moved = look(), look(appearance=1.0), look(camera=1.0)
    assert equal(standard, painted, "start", "end")
    assert equal(standard, moved, "start", "end", "robot0_eye_in_hand")
    assert not equal(standard, painted, "robot0_eye_in_hand")


def test_objects_start_farther_away_as_the_level_grows(look: Look) -> None:
    standard = look()["start"]
    near, far = (np.abs(look(position=level)["start"] - standard).max() for level in (0.25, 2.0))
    assert 0.001 < near < far


def test_kinds_together_are_each_as_alone(look: Look) -> None:
    both, moved = look(camera=1.0, position=1.0), look(position=1.0)
    assert equal(both, moved, "start", "end")
    assert not equal(both, moved, "agentview")


def test_a_worker_shows_the_varied_episode_that_this_process_shows(simulator: MujocoSimulator, look: Look) -> None:
    variation = {"position": 1.0, "appearance": 1.0, "camera": 1.0, "instruction": 1.0}
    here = look(**{kind: level for kind, level in variation.items() if kind != "instruction"})
    worker = WorkerProcess(replace(simulator.config, variation=variation))
    worker.send("reset", spec=EPISODES[simulator.config.name], render=True)
    there = worker.receive(200.0)
    worker.close()
    assert all(np.array_equal(here[camera], there.images[camera]) for camera in CAMERAS)
    assert there.instruction not in ("", simulator.instruction)


def test_a_task_without_room_is_refused_at_setup() -> None:
    pytest.importorskip("robosuite")
    with pytest.raises(SimulatorError, match=r"\['PickPlaceCan'\] start anywhere in their bin already"):
        check_simulator(replace(LIFT, tasks=["Lift", "PickPlaceCan"], variation={"position": 1.0}))


def test_a_simulator_that_cannot_vary_a_kind_says_so() -> None:
    kitchens = SimulatorConfig("robocasa", ["OpenDrawer"], ["robot0_agentview_left"], variation={"position": 1.0})
    with pytest.raises(SimulatorError, match=r"'robocasa' cannot vary \['position'\]; it can vary \['instruction'\]"):
        check_simulator(kitchens)


def test_a_camera_on_the_wrist_alone_cannot_be_varied() -> None:
    with pytest.raises(SimulatorError, match=r"none of \['robot0_eye_in_hand'\] stands outside the robot"):
        replace(LIFT, cameras=["robot0_eye_in_hand"], variation={"camera": 1.0})
