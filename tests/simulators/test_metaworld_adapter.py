"""Meta-World: words and cameras here, episodes in the environment of its own where there is one."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rollouts.worker_process import WorkerProcess, ask_once, check_simulator
from simulators.catalogue import INSTALLATIONS
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.experts.episode import ExpertSettings
from simulators.messages import Array, DemoEpisode, EpisodeSpec, Observation, Transition
from simulators.metaworld_adapter import UPSIDE_DOWN, _turn_upright
from simulators.metaworld_tasks import INSTRUCTIONS, MT10, SUITES

ROOT = Path(__file__).resolve().parents[2]
CAMERAS = ["corner4", "topview"]


def test_every_task_has_words_of_its_own() -> None:
    assert len(set(INSTRUCTIONS.values())) == len(INSTRUCTIONS) == 50
    assert set(MT10) <= set(INSTRUCTIONS)
    assert INSTALLATIONS["metaworld"].suites == {suite: len(tasks) for suite, tasks in SUITES.items()}


def test_corner_cameras_are_turned_by_half_a_turn_about_the_way_they_look() -> None:
    mujoco = pytest.importorskip("mujoco")
    cameras = "".join(
        f'<camera name="{name}" pos="1 {i} 1" euler="3{i} 120 20"/>' for i, name in enumerate(UPSIDE_DOWN)
    )
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{cameras}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    before = data.cam_xmat.reshape(-1, 3, 3).copy()
    _turn_upright(model)
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.cam_xmat.reshape(-1, 3, 3), before * [-1, -1, 1], atol=1e-12)


# --- in its own environment -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def python() -> str:
    path = os.environ.get("METAWORLD_PYTHON", str(ROOT / INSTALLATIONS["metaworld"].python))
    if not Path(path).is_file():
        pytest.skip(f"no Meta-World at {path}: make sim-metaworld, or set METAWORLD_PYTHON")
    return path


def config(python: str, **changes: object) -> SimulatorConfig:
    settings = {"image_size": 48, "suite": "mt50", "max_steps": 200, "python": python, **changes}
    return SimulatorConfig("metaworld", ["drawer-open-v3"], CAMERAS, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def worker(python: str) -> Iterator[WorkerProcess]:
    process = WorkerProcess(config(python))
    yield process
    process.close()


def call(worker: WorkerProcess, verb: str, **arguments: object) -> object:
    worker.send(verb, **arguments)
    return worker.receive(120.0)


def play(worker: WorkerProcess, task: str, seed: int) -> list[Array]:
    """What is seen at the start of an episode and after some actions."""
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 4)).astype(np.float32)
    start = call(worker, "reset", spec=EpisodeSpec("mt50", task, seed), render=True)
    end = call(worker, "step_chunk", actions=actions, render=True, record_stride=0)
    assert isinstance(start, Observation)
    assert isinstance(end, Transition)
    assert end.observation is not None
    return [part for seen in (start, end.observation) for part in (*seen.proprio.values(), *seen.images.values())]


@pytest.mark.simulator
@pytest.mark.parametrize("task", ["drawer-open-v3", "door-close-v3", "push-v3"])
def test_a_seed_gives_the_same_episode_whatever_came_before(worker: WorkerProcess, task: str) -> None:
    first = play(worker, task, 5)
    call(worker, "record", spec=EpisodeSpec("mt50", task, 7), settings=ExpertSettings())
    other = play(worker, task, 8)
    play(worker, "window-open-v3", 5)
    again = play(worker, task, 5)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(not np.array_equal(one, two) for one, two in zip(first, other, strict=True))


@pytest.mark.simulator
def test_the_packages_own_policy_records_a_demo_of_four_numbers(worker: WorkerProcess) -> None:
    demo = call(worker, "record", spec=EpisodeSpec("mt50", "drawer-open-v3", 0), settings=ExpertSettings())
    assert isinstance(demo, DemoEpisode)
    assert demo.success
    assert demo.actions is not None
    assert demo.actions.shape == (demo.num_steps, 4)
    assert np.abs(demo.actions).max() <= 1.0
    assert demo.instruction == "open the drawer"
    assert {name: pictures.shape for name, pictures in demo.images.items()} == {
        name: (demo.num_steps, 48, 48, 3) for name in CAMERAS
    }
    assert json.loads(demo.attrs["env_args"])["env_name"] == "drawer-open-v3"
    first, last = demo.images["topview"][[0, -1]].astype(float)
    assert np.abs(first - last).mean() > 2  # the pictures of the states, not of the last one throughout


@pytest.mark.simulator
def test_pictures_are_the_packages_own_turned_upright(python: str) -> None:
    """With every effect on, as the package draws; edges fall on other pixels when a picture is turned."""
    code = """
import os
os.environ["MUJOCO_GL"] = os.environ.get("MUJOCO_GL", "egl")
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from simulators.config import SimulatorConfig
from simulators.messages import EpisodeSpec
from simulators.metaworld_adapter import UPSIDE_DOWN, MetaworldSimulator
cameras = [*UPSIDE_DOWN, "topview", "gripperPOV"]
config = SimulatorConfig("metaworld", ["door-open-v3"], cameras, 96, shadows=True, reflections=True, multisampling=4)
pictures = MetaworldSimulator(config).reset(EpisodeSpec("mt50", "door-open-v3", 3)).images
for camera in cameras:
    env = ALL_V3_ENVIRONMENTS["door-open-v3"](render_mode="rgb_array", camera_name=camera, width=96, height=96)
    env._partially_observable = env._freeze_rand_vec = False
    env.seeded_rand_vec = env._set_task_called = True
    env.seed(3)
    env.reset()
    own = env.render().astype(int)
    turned = own[::-1, ::-1] if camera in UPSIDE_DOWN else own
    print(camera, np.abs(pictures[camera] - turned).mean(), np.abs(pictures[camera] - own[::-1, ::-1]).mean())
"""
    done = subprocess.run(
        [python, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.stdout, done.stderr
    differences = {name: float(own) for name, own, _ in (line.split() for line in done.stdout.splitlines())}
    assert len(differences) == 6, done.stderr
    assert max(differences.values()) < 2.0, differences


@pytest.mark.simulator
def test_a_misspelt_suite_lists_those_there_are(python: str) -> None:
    with pytest.raises(SimulatorError, match=r"no suite 'mt11'; there are \['mt10', 'mt50'\]"):
        check_simulator(config(python, suite="mt11"))
    assert check_simulator(config(python, suite="mt10")).tasks == ["drawer-open-v3"]
    assert ask_once(config(python), "versions")["metaworld"].startswith("3.")  # results state it
