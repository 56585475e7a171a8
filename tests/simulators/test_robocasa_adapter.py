import json
import os
import subprocess
import sys
from collections import Counter
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rollouts.worker_process import WorkerProcess
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.messages import EpisodeSpec
from simulators.robocasa_adapter import ASSET_FOLDERS, V02_HORIZONS, RoboCasaSimulator, horizons

CAMERAS = ["robot0_agentview_left", "robot0_agentview_right", "robot0_eye_in_hand"]
ROOT = Path(__file__).resolve().parents[2]


def config(**settings: object) -> SimulatorConfig:
    return SimulatorConfig("robocasa", ["OpenDrawer"], CAMERAS, **{"image_size": 32, **settings})  # type: ignore[arg-type]


class FakeKitchen:
    """As much of a RoboCasa environment as the adapter touches; it is solved when the gripper's number is 1."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        self.arguments = arguments
        self.layout_and_style_ids = [pair for pair in arguments["layout_and_style_ids"] if pair[0] != 4]  # excluded
        self.scene: tuple[int, int] | None = None
        self.actions: list[np.ndarray] = []
        self.action_dim = 12
        self.rng: np.random.Generator | None = None
        model = SimpleNamespace(get_xml=lambda: "<mujoco/>")
        self.sim = SimpleNamespace(model=model)

    def reset(self) -> None:
        assert self.rng is not None
        self.scene = tuple(self.rng.choice(self.layout_and_style_ids))

    def get_ep_meta(self) -> dict[str, str]:
        return {"lang": "open the left drawer"}

    def step(self, action: np.ndarray) -> None:
        self.actions.append(action)

    def _check_success(self) -> bool:
        return bool(self.actions[-1][6] == 1)

    def close(self) -> None:
        pass


def fake_module(name: str, **contents: object) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(contents)
    return module


@pytest.fixture
def robocasa_02(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """RoboCasa v0.2 as far as the adapter sees it; the folder of its assets."""
    for folder in ASSET_FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
    controllers = {"load_composite_controller_config": lambda controller, robot: {"type": "HYBRID_MOBILE_BASE"}}
    modules = [
        fake_module("robocasa", __version__="0.2.0"),
        fake_module("robocasa.models", assets_root=str(tmp_path)),
        fake_module("robosuite", make=FakeKitchen),
        fake_module("robosuite.controllers", **controllers),
    ]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("simulators.robocasa_adapter.check_gl", lambda: None)
    monkeypatch.setattr(RoboCasaSimulator, "observe", lambda self, render: None)
    return tmp_path


def start(seed: int, **settings: object) -> RoboCasaSimulator:
    simulator = RoboCasaSimulator(config(**settings))
    simulator.reset(EpisodeSpec("robocasa", "OpenDrawer", seed), render=False)
    return simulator


def test_the_24_tasks_of_the_published_protocol() -> None:
    assert len(V02_HORIZONS) == 24
    assert Counter(V02_HORIZONS.values()) == {500: 17, 600: 3, 700: 2, 1000: 1, 300: 1}


@pytest.mark.usefixtures("robocasa_02")
class TestOnV02:
    """The adapter against a stand-in for RoboCasa v0.2."""

    def test_check_lists_the_24_tasks(self) -> None:
        assert RoboCasaSimulator.check(config()) == list(V02_HORIZONS)

    def test_assets_that_were_not_downloaded_are_named_with_the_command(self, robocasa_02: Path) -> None:
        assert RoboCasaSimulator.assets(config()) == {"assets": str(robocasa_02)}
        (robocasa_02 / "textures").rmdir()
        with pytest.raises(
            SimulatorError, match=r"has no \['textures'\]; run .*python.* -m robocasa\.scripts\.download_kitchen_assets"
        ):
            RoboCasaSimulator.check(config())

    def test_the_environment_is_that_of_the_protocol(self) -> None:
        arguments = start(0).env.arguments
        assert arguments["env_name"] == "OpenDrawer"
        assert arguments["robots"] == "PandaMobile"
        assert arguments["obj_instance_split"] == "B"
        assert arguments["layout_and_style_ids"] == [(1, 1), (2, 2), (4, 4), (6, 9), (7, 10)]
        assert not arguments["use_camera_obs"]

    def test_the_controllers_take_an_actions_numbers_in_robocasas_order(self) -> None:
        config = start(0).env.arguments["controller_configs"]
        assert config["type"] == "HYBRID_MOBILE_BASE"
        order = config["composite_controller_specific_configs"]["body_part_ordering"]
        assert order == ["right", "right_gripper", "base", "torso"]

    def test_seeds_share_the_kitchens_that_suit_the_task_evenly(self) -> None:
        simulator = RoboCasaSimulator(config())
        scenes: Counter[tuple[int, int]] = Counter()
        for seed in range(40):
            simulator.reset(EpisodeSpec("robocasa", "OpenDrawer", seed), render=False)
            scenes[tuple(map(int, simulator.env.scene))] += 1
        assert scenes == {(1, 1): 10, (2, 2): 10, (6, 9): 10, (7, 10): 10}

    def test_seven_numbers_are_completed_by_a_base_at_rest(self) -> None:
        simulator = start(0)
        assert simulator.action_dim == 7
        transition = simulator.step_chunk(np.arange(7.0)[None], render=False, record_stride=0)
        assert simulator.env.actions[-1].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, -1]
        assert not transition.success

    def test_the_whole_body_is_an_option(self) -> None:
        simulator = start(0, options={"whole_body": True})
        assert simulator.action_dim == 12
        simulator.step_chunk(np.ones((1, 12)), render=False, record_stride=0)
        assert simulator.env.actions[-1].tolist() == [1] * 12

    def test_instruction_and_limit_come_with_the_episode(self) -> None:
        simulator = start(0)
        assert simulator.instruction == "open the left drawer"
        assert simulator.max_steps == 500
        assert start(0, max_steps=992).max_steps == 992
        assert json.loads(simulator.demo_attrs()["ep_meta"])["lang"] == simulator.instruction

    def test_v1_tasks_need_v1(self) -> None:
        with pytest.raises(SimulatorError, match=r"suite 'robocasa365' needs RoboCasa v1.0, but .* has 0.2.0"):
            RoboCasaSimulator.check(config(suite="robocasa365"))

    def test_there_are_no_recorded_states_and_no_experts(self) -> None:
        simulator = start(0)
        with pytest.raises(SimulatorError, match="no recorded initial states"):
            simulator.reset(EpisodeSpec("robocasa", "OpenDrawer", 0, 3), render=False)
        with pytest.raises(SimulatorError, match="no scripted experts for robocasa"):
            simulator.make_expert(EpisodeSpec("robocasa", "OpenDrawer", 0))

    def test_a_task_of_v1_is_unknown_here(self) -> None:
        simulator = RoboCasaSimulator(config())
        with pytest.raises(SimulatorError, match=r"no task 'OpenCabinet'; there are .*'OpenDrawer'"):
            simulator.reset(EpisodeSpec("robocasa", "OpenCabinet", 0), render=False)


def test_v1_is_refused_for_the_protocol_of_v02(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robocasa", fake_module("robocasa", __version__="1.0.1"))
    with pytest.raises(SimulatorError, match=r"has RoboCasa 1\.0\.1.*would not be comparable.*suite: robocasa365"):
        RoboCasaSimulator.check(config())


def test_v1_horizons_come_from_its_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fake_module("robocasa.utils.dataset_registry", ATOMIC_TASK_DATASETS={"OpenCabinet": {"horizon": 750}})
    monkeypatch.setitem(sys.modules, "robocasa", fake_module("robocasa", __version__="1.0.1"))
    monkeypatch.setitem(sys.modules, "robocasa.utils.dataset_registry", registry)
    assert horizons("robocasa365") == {"OpenCabinet": 750}


MOBILE_PANDA = """
import json, sys
from simulators.rendering import choose_gl
choose_gl(None)
import numpy as np, robosuite
from simulators.mujoco_types import right_arm
from simulators.robocasa_adapter import REST, controller_config
env = robosuite.make("Lift", robots="PandaOmron", controller_configs=controller_config(), renderer="mujoco",
                     has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False, ignore_done=True)
env.reset()
robot, data = env.robots[0], env.sim.data
def look():
    fingers = [float(data.qpos[i]) for i in right_arm(robot._ref_gripper_joint_pos_indexes)]
    hand, base = data.site_xpos[right_arm(robot.eef_site_id)], data.get_body_xpos("mobilebase0_base")[:2]
    return [*map(float, hand), *map(float, base), fingers[0]]
seen = [look()]
arm, close = [0.5, 0, 0, 0, 0, 0, -1, *REST], [0, 0, 0, 0, 0, 0, 1, *REST]
for action in (arm, close, [0, 0, 0, 0, 0, 0, 1, 0.5, 0, 0, 0, 1]):
    for _ in range(15):
        env.step(np.array(action))
    seen.append(look())
print(json.dumps([int(env.action_dim), seen]))
"""


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("environment", ["robocasa", "robocasa365"])
def test_the_twelve_numbers_are_arm_gripper_base_torso_and_switch(environment: str) -> None:
    """The mobile Panda on the robosuite that each RoboCasa runs on: 1.5.1 with mujoco 3.2.6, and 1.5.2."""
    python = ROOT / ".venvs" / environment / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"no {python}: make sim-{environment}")
    done = subprocess.run([python, "-c", MOBILE_PANDA], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    width, seen = json.loads(done.stdout.splitlines()[-1])
    assert width == 12
    start, reached, closed, driven = np.array(seen)
    hand, base, fingers = slice(0, 3), slice(3, 5), 5
    assert reached[0] - start[0] > 0.03  # the arm goes forward
    assert abs(reached[2] - start[2]) < 0.03  # at its height: the gripper's number does not move the torso
    assert np.abs(reached[base] - start[base]).max() < 1e-3
    assert closed[fingers] < 0.5 * reached[fingers]
    assert driven[3] - closed[3] > 0.03  # the switch hands over to the base
    assert driven[hand][0] - closed[hand][0] > 0.03


@pytest.mark.slow
@pytest.mark.simulator
def test_robocasa_runs_in_its_own_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter's real path on RoboCasa v1.0 code, in a generated kitchen, through the border between processes."""
    python = Path(os.environ.get("ROBOCASA365_PYTHON", ROOT / ".venvs" / "robocasa365" / "bin" / "python"))
    if not python.is_file():
        pytest.skip(f"no RoboCasa v1.0 at {python} (docs/simulators.md); set ROBOCASA365_PYTHON to its interpreter")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    settings = config(suite="robocasa365", python=str(python)).to_dict()
    worker = WorkerProcess(SimulatorConfig(**{**settings, "name": "small_kitchen:SmallKitchenSimulator"}))
    ends = []
    for seed in (0, 1, 0):
        worker.send("reset", spec=EpisodeSpec("robocasa365", "OpenDrawer", seed), render=True)
        first = worker.receive(200)
        assert first.instruction.startswith("Open the")
        worker.send("step_chunk", actions=np.tile([0.5, 0, 0, 0, 0, 0, -1], (16, 1)), render=True, record_stride=0)
        transition = worker.receive(200)
        assert transition.num_steps == 16
        ends.append(transition.observation)
        moved = ends[-1].proprio["eef_pos"] - first.proprio["eef_pos"]
        assert 0.05 < np.linalg.norm(moved) < 0.4
    worker.close()
    assert ends[0].images.keys() == set(CAMERAS)
    assert all(np.array_equal(ends[0].images[camera], ends[2].images[camera]) for camera in CAMERAS)
    assert not np.array_equal(ends[0].proprio["eef_pos"], ends[1].proprio["eef_pos"])
