"""The real simulator: robosuite Lift and Stack in worker processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from rollouts.collect import collect_demos
from rollouts.engine import RolloutEngine
from rollouts.policies import ReplayPolicy
from rollouts.worker_process import WorkerProcess, check_simulator
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.experts.episode import ExpertSettings
from simulators.messages import Array, DemoEpisode, EpisodeSpec, Observation, PolicyReply, PolicyRequest, Transition

pytestmark = pytest.mark.simulator

CAMERAS = ["agentview", "robot0_eye_in_hand"]


def config(tasks: Sequence[str] = ("Lift",), **changes: object) -> SimulatorConfig:
    return SimulatorConfig("robosuite", list(tasks), CAMERAS, image_size=32, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    pytest.importorskip("robosuite")
    process = WorkerProcess(config())
    yield process
    process.close()


def call(worker: WorkerProcess, verb: str, **arguments: object) -> object:
    worker.send(verb, **arguments)
    return worker.receive(120.0)


def play(worker: WorkerProcess, seed: int, actions: Array, chunk: int = 8, stride: int = 0) -> list[Array]:
    """Everything that can be seen of an episode, at the start and after every chunk."""
    observation = call(worker, "reset", spec=EpisodeSpec("robosuite", "Lift", seed), render=True)
    seen: list[Array] = []
    for start in range(0, len(actions) + 1, chunk):
        assert isinstance(observation, Observation)
        seen += [*observation.proprio.values(), *observation.images.values()]
        if start < len(actions):
            part = actions[start : start + chunk]
            transition = call(worker, "step_chunk", actions=part, render=True, record_stride=stride)
            assert isinstance(transition, Transition)
            observation = transition.observation
    return seen


@pytest.fixture(scope="module")
def actions() -> Array:
    return np.random.default_rng(0).uniform(-1, 1, (16, 7)).astype(np.float32)


def test_a_seed_gives_the_same_episode_whatever_the_worker_did_before(worker: WorkerProcess, actions: Array) -> None:
    """Resets do not rebuild the model, so nothing may leak from one episode into the next."""
    first = play(worker, 5, actions)
    play(worker, 6, -actions)
    call(worker, "record", spec=EpisodeSpec("robosuite", "Lift", 7), settings=ExpertSettings())
    again = play(worker, 5, actions)
    fresh_worker = WorkerProcess(config())
    fresh = play(fresh_worker, 5, actions)
    fresh_worker.close()
    other = play(worker, 8, actions)
    for one, two, three in zip(first, again, fresh, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    assert any(not np.array_equal(one, two) for one, two in zip(first, other, strict=True))


def test_looking_does_not_change_what_happens(worker: WorkerProcess, actions: Array) -> None:
    seldom, often = play(worker, 5, actions, chunk=16), play(worker, 5, actions, chunk=16, stride=1)
    for one, two in zip(seldom, often, strict=True):
        np.testing.assert_array_equal(one, two)


def test_pictures_show_the_cube_and_observations_have_the_documented_shapes(worker: WorkerProcess) -> None:
    observation = call(worker, "reset", spec=EpisodeSpec("robosuite", "Lift", 0), render=True)
    assert isinstance(observation, Observation)
    assert observation.instruction == "lift the red cube"
    assert {name: value.shape for name, value in observation.proprio.items()} == {
        "eef_pos": (3,),
        "eef_quat": (4,),
        "gripper_qpos": (2,),
    }
    for camera in CAMERAS:
        picture = observation.images[camera]
        assert (picture.shape, picture.dtype) == ((32, 32, 3), np.uint8)
        assert (picture[..., 0].astype(int) - picture[..., 1] > 60).any(), f"no red cube in {camera}"
    robot_above = observation.images["agentview"][:8].mean() < observation.images["agentview"][-8:].mean()
    assert robot_above  # the dark robot comes in from the top, the white table is below
    blind = call(worker, "reset", spec=EpisodeSpec("robosuite", "Lift", 0), render=False)
    assert isinstance(blind, Observation)
    assert not blind.images


def test_wrong_action_width_is_the_users_mistake(worker: WorkerProcess) -> None:
    call(worker, "reset", spec=EpisodeSpec("robosuite", "Lift", 0), render=False)
    with pytest.raises(SimulatorError, match=r"shape \(4, 12\); task Lift takes \(steps, 7\)"):
        call(worker, "step_chunk", actions=np.zeros((4, 12), np.float32), render=False, record_stride=0)


def demos(tasks: Sequence[str], number: int, num_workers: int, mistakes: float = 0.3) -> list[DemoEpisode]:
    setup = config(tasks)
    episodes = collect_demos(setup, setup.episodes(number), num_workers, ExpertSettings(mistakes=mistakes))
    found = [episode.demo for episode in episodes]
    assert None not in found
    return [demo for demo in found if demo is not None]


def test_lift_expert_succeeds_in_four_of_five_and_two_workers_film_what_one_films() -> None:
    alone, together = demos(["Lift"], 5, 1), demos(["Lift"], 3, 2)
    assert sum(demo.success for demo in alone) >= 4
    for one, two in zip(alone[:3], together, strict=True):
        assert one.success == two.success
        if one.success:
            assert one.actions is not None
            np.testing.assert_array_equal(one.actions, two.actions)
            np.testing.assert_array_equal(one.states, two.states)
            for camera in CAMERAS:
                np.testing.assert_array_equal(one.images[camera], two.images[camera])
            assert one.actions.shape == (one.num_steps, 7)
            assert np.abs(one.actions).max() <= 1.0
            assert one.attrs["env_args"].startswith('{"env_name": "Lift"')


def test_lift_expert_mends_a_missed_grasp() -> None:
    """After a mistake the fingers are closed and the cube is beside them: the demo has to begin by opening them."""
    mended = [demo for demo in demos(["Lift"], 5, 2, mistakes=1.0) if demo.success]
    assert len(mended) >= 4
    assert all(demo.actions is not None and demo.actions[0, 6] == -1.0 for demo in mended)
    untouched = demos(["Lift"], 5, 2, mistakes=0.0)
    assert sum(demo.num_steps for demo in mended) / len(mended) < sum(demo.num_steps for demo in untouched) / 5


def test_stack_expert_stacks() -> None:
    assert sum(demo.success for demo in demos(["Stack"], 3, 2)) >= 2


def test_a_noiseless_demo_solves_its_own_episode_when_replayed_through_the_engine() -> None:
    """Demo and rollout agree on start, units and success; blind replay in other episodes is the chance level."""
    setup = config()
    settings = ExpertSettings(noise=0.0, random_steps=0, mistakes=0.0)
    (episode,) = collect_demos(setup, setup.episodes(1, first_seed=3), settings=settings)
    assert episode.demo is not None
    assert episode.demo.actions is not None
    with RolloutEngine(setup, record_episodes=1, record_stride=8) as engine:
        (result,) = engine.run(
            ReplayPolicy({"": [episode.demo.actions]}), setup.episodes(1, first_seed=3), progress=False
        )
    assert result.success
    assert result.steps == episode.demo.num_steps - settings.tail_steps
    assert result.recording is not None
    for step, frame in zip(result.recording.steps, result.recording.frames, strict=True):
        for camera in CAMERAS:
            np.testing.assert_array_equal(frame[camera], episode.demo.images[camera][step])


def test_a_worker_killed_in_the_middle_of_an_episode_costs_a_restart_only() -> None:
    setup = config(max_steps=24)
    engine = RolloutEngine(setup, execute_steps=8)

    class Killer:
        killed = False

        def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
            if requests[0].replan == 1 and not self.killed:
                self.killed = True
                os.kill(engine.pool.pids()[0], signal.SIGKILL)
            return [PolicyReply(np.zeros((16, 7), dtype=np.float32)) for _ in requests]

    with engine:
        (result,) = engine.run(policy := Killer(), setup.episodes(1), progress=False)
    assert policy.killed
    assert (result.success, result.steps, result.replans, result.error) == (False, 24, 3, None)


def test_set_up_mistakes_are_one_sentence() -> None:
    with pytest.raises(SimulatorError, match=r"robosuite has no task \['Lft'\]; there are \['Lift', 'Stack'"):
        check_simulator(config(["Lft"]))
    with pytest.raises(SimulatorError, match=r"no option \['colour'\]; allowed are"):
        check_simulator(config(options={"colour": "red"}))
    with pytest.raises(SimulatorError, match="only one is 'robosuite'"):
        check_simulator(config(suite="libero_10"))


def test_a_missing_camera_and_a_missing_expert_are_named(worker: WorkerProcess) -> None:
    setup = SimulatorConfig("robosuite", ["Door"], ["belly"], image_size=16)
    blind = WorkerProcess(setup)
    try:
        with pytest.raises(SimulatorError, match=r"no camera \['belly'\]; this task has \['agentview'"):
            call(blind, "reset", spec=EpisodeSpec("robosuite", "Door", 0), render=True)
        with pytest.raises(SimulatorError, match=r"no scripted expert for robosuite task 'Door'"):
            call(blind, "record", spec=EpisodeSpec("robosuite", "Door", 0), settings=ExpertSettings())
    finally:
        blind.close()


def test_a_demo_says_of_the_robot_what_a_rollout_says(worker: WorkerProcess) -> None:
    """The expert's own actions, played again in chunks, with the observation of the step before each."""
    spec = EpisodeSpec("robosuite", "Lift", 3)
    quiet = ExpertSettings(noise=0.0, random_steps=0, mistakes=0.0)
    demo = call(worker, "record", spec=spec, settings=quiet)
    assert isinstance(demo, DemoEpisode)
    assert demo.actions is not None
    first = call(worker, "reset", spec=spec, render=True)
    assert isinstance(first, Observation)
    seen = [first]
    for start in (0, 8, 16):
        actions = demo.actions[start : start + 8]
        wanted = {"actions": actions, "render": True, "record_stride": 0, "num_observations": 2}
        transition = call(worker, "step_chunk", **wanted)
        assert isinstance(transition, Transition)
        assert transition.observation is not None
        seen += [*transition.observation.past, transition.observation]
    assert [observation.step for observation in seen] == [0, 7, 8, 15, 16, 23, 24]
    for observation in seen:
        for name, vector in observation.proprio.items():
            np.testing.assert_allclose(vector, demo.proprio[name][observation.step], atol=1e-6)
        np.testing.assert_array_equal(observation.images["agentview"], demo.images["agentview"][observation.step])
