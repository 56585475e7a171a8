"""Appearance and camera on a small scene, without drawing it."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.errors import SimulatorError
from simulators.messages import Array
from simulators.mujoco_types import MjData, MjModel
from simulators.rendering import choose_gl
from simulators.variations import StandardLook, external_cameras, vary_appearance, vary_cameras
from simulators.variations.appearance import LIGHT_TURN, OBJECT_MOST, SCENE_MOST, movable_bodies, shown_colour
from simulators.variations.camera import MOST_SHIFT, SHIFT, TURN
from simulators.variations.look import ARRAYS, HEADLIGHT
from simulators.variations.rotation import turn_about, turn_between

pytestmark = pytest.mark.simulator

SCENE = """
<mujoco>
  <asset><material name="oak" rgba=".8 .6 .4 1"/></asset>
  <worldbody>
    <light pos="1 0 3" dir="0 0 -1" diffuse=".7 .7 .7"/>
    <camera name="agentview" pos=".5 0 1.35" xyaxes="0 1 0 -.7 0 .7"/>
    <geom name="wall" type="box" size=".1 1 1" pos="-2 0 0" rgba=".9 .9 .9 1"/>
    <body name="table"><geom name="top" type="box" size="1 1 .1" material="oak"/>
      <geom name="leg" type="box" size=".1 .1 1" material="oak"/></body>
    <body name="robot0_base"><geom name="arm" type="box" size=".1 .1 .1" rgba=".2 .2 .2 1"/>
      <camera name="robot0_eye_in_hand" pos="0 0 .5"/></body>
    <body name="cube" pos="0 0 .3"><freejoint/><geom name="red" type="box" size=".02 .02 .02" rgba="1 0 0 .5"/>
      <body name="handle"><geom name="knob" type="sphere" size=".01" rgba="0 0 1 1"/></body></body>
  </worldbody>
</mujoco>
"""
WORKSPACE = np.array([0.0, 0.0, 0.8])
PARTS = ("wall", "top", "leg", "arm", "red", "knob")


@pytest.fixture
def scene() -> tuple[MjModel, MjData]:
    choose_gl(None)  # mujoco asks once, when it is imported, and other tests draw
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def everything(model: MjModel) -> list[Array]:
    arrays = [getattr(model, name).copy() for name in ARRAYS]
    return arrays + [getattr(model.vis.headlight, name).copy() for name in HEADLIGHT]


def colours(model: MjModel, seed: int, level: float) -> dict[str, Array]:
    """Colours at a level; the model's look is given back."""
    look = StandardLook(model)
    vary_appearance(model, np.random.default_rng(seed), level)
    found = {name: model.geom_rgba[model.geom(name).id].copy() for name in PARTS}
    look.restore()
    return found


def pose(scene: tuple[MjModel, MjData], seed: int, level: float) -> tuple[Array, Array]:
    """Position and rotation of the external camera at a level; the model's look is given back."""
    model, data = scene
    look = StandardLook(model)
    camera = model.camera("agentview").id
    if level:
        cameras = external_cameras(["agentview", "robot0_eye_in_hand"])
        vary_cameras(model, data, cameras, WORKSPACE, np.random.default_rng(seed), level)
    position, quat = model.cam_pos[camera].copy(), model.cam_quat[camera].copy()
    look.restore()
    return position, rotation(quat)


def rotation(quat: Array) -> Array:
    w, v = quat[0], quat[1:]
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return (w * w - v @ v) * np.eye(3) + 2 * np.outer(v, v) + 2 * w * cross


def angle(one: Array, two: Array) -> float:
    """Between two rotations, in radians."""
    return float(np.arccos(np.clip((np.trace(one.T @ two) - 1) / 2, -1, 1)))


def test_the_look_comes_back_bit_for_bit(scene: tuple[MjModel, MjData]) -> None:
    model, data = scene
    before = everything(model)
    look = StandardLook(model)
    vary_appearance(model, np.random.default_rng(0), 2.0)
    vary_cameras(model, data, ["agentview"], WORKSPACE, np.random.default_rng(0), 2.0)
    assert sum(not np.array_equal(one, two) for one, two in zip(before, everything(model), strict=True)) >= 6
    look.restore()
    assert all(np.array_equal(one, two) for one, two in zip(before, everything(model), strict=True))


def test_a_seed_gives_one_look_and_another_seed_another(scene: tuple[MjModel, MjData]) -> None:
    model, _ = scene
    one, again, other = colours(model, 1, 1.0), colours(model, 1, 1.0), colours(model, 2, 1.0)
    assert all(np.array_equal(one[name], again[name]) for name in PARTS)
    assert not np.array_equal(one["wall"], other["wall"])


def test_everything_but_the_robot_changes_and_parts_of_one_material_change_alike(scene: tuple[MjModel, MjData]) -> None:
    model, _ = scene
    standard = {name: shown_colour(model, model.geom(name).id) for name in PARTS}
    varied = colours(model, 3, 1.0)
    assert standard["top"] == pytest.approx([0.8, 0.6, 0.4, 1.0])  # the material's
    np.testing.assert_array_equal(varied["arm"], standard["arm"])
    np.testing.assert_array_equal(varied["top"], varied["leg"])
    assert all(np.abs(varied[name] - standard[name])[:3].max() > 0.05 for name in PARTS if name != "arm")
    assert all(varied[name][3] == standard[name][3] for name in PARTS)  # what one can see through stays


def test_colours_go_to_the_drawn_one_as_the_level_grows_objects_less_than_the_room(
    scene: tuple[MjModel, MjData],
) -> None:
    model, _ = scene
    standard = {name: shown_colour(model, model.geom(name).id)[:3] for name in PARTS}
    steps = [colours(model, 4, level) for level in (0.5, 1.0, 2.0, 50.0, 99.0)]
    for name in ("wall", "red"):
        half, one, two, most, more = (step[name][:3] - standard[name] for step in steps)
        np.testing.assert_allclose(one, 2 * half, atol=1e-6)
        assert np.linalg.norm(two) > np.linalg.norm(one)
        np.testing.assert_array_equal(most, more)
    wall = steps[-1]["wall"][:3] - standard["wall"]
    assert np.abs(wall).max() <= SCENE_MOST
    assert steps[-1]["red"][0] >= 1 - OBJECT_MOST  # a red cube keeps that much of its red


def test_what_hangs_on_a_free_body_is_an_object(scene: tuple[MjModel, MjData]) -> None:
    model, _ = scene
    free = movable_bodies(model)
    assert {name for name in ("table", "robot0_base", "cube", "handle") if free[model.body(name).id]} == {
        "cube",
        "handle",
    }


def test_light_turns_by_the_documented_angle_and_stays_a_light(scene: tuple[MjModel, MjData]) -> None:
    model, _ = scene
    for seed in range(20):
        look = StandardLook(model)
        vary_appearance(model, np.random.default_rng(seed), 1.0)
        turn = np.arccos(np.clip(model.light_dir[0] @ [0, 0, -1], -1, 1))
        assert 0.5 * LIGHT_TURN - 1e-4 <= turn <= LIGHT_TURN + 1e-4
        assert 0.3 < model.light_diffuse[0].mean() <= 1.0
        look.restore()


def test_camera_moves_and_turns_within_the_documented_bounds_and_looks_at_the_workspace(
    scene: tuple[MjModel, MjData],
) -> None:
    start, standard = pose(scene, 0, 0.0)
    distance = (start - WORKSPACE) @ standard[:, 2]
    middle = start - distance * standard[:, 2]
    for seed in range(30):
        position, turned = pose(scene, seed, 1.0)
        assert 0.5 * SHIFT <= np.linalg.norm(position - start) <= SHIFT
        gaze, aim = -turned[:, 2], (middle - position) / np.linalg.norm(middle - position)
        assert np.arccos(np.clip(gaze @ aim, -1, 1)) <= TURN + 1e-6
        assert angle(standard, turned) <= TURN + SHIFT / distance + 1e-3
        np.testing.assert_allclose(turned.T @ turned, np.eye(3), atol=1e-6)


def test_camera_goes_farther_the_same_way_as_the_level_grows_and_then_no_farther(scene: tuple[MjModel, MjData]) -> None:
    start, standard = pose(scene, 5, 0.0)
    half, one, two, most = (pose(scene, 5, level) for level in (0.5, 1.0, 2.0, 50.0))
    np.testing.assert_allclose(one[0] - start, 2 * (half[0] - start), atol=1e-9)
    np.testing.assert_allclose(two[0] - start, 2 * (one[0] - start), atol=1e-9)
    assert angle(standard, half[1]) < angle(standard, one[1]) < angle(standard, two[1])
    assert np.linalg.norm(most[0] - start) <= MOST_SHIFT


def test_the_wrist_camera_stays_on_the_wrist(scene: tuple[MjModel, MjData]) -> None:
    assert external_cameras(["agentview", "robot0_eye_in_hand"]) == ["agentview"]
    with pytest.raises(SimulatorError, match=r"none of \['robot0_eye_in_hand'\] stands outside the robot"):
        external_cameras(["robot0_eye_in_hand"])
    with pytest.raises(SimulatorError, match="no camera 'moonview' to vary"):
        vary_cameras(*scene, ["moonview"], WORKSPACE, np.random.default_rng(0), 1.0)


def test_rotations_have_known_values() -> None:
    np.testing.assert_allclose(turn_about(np.array([0, 0, 1.0]), np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(
        turn_between(np.array([2.0, 0, 0]), np.array([0, 0, 5.0])) @ [1, 0, 0], [0, 0, 1], atol=1e-12
    )
    np.testing.assert_array_equal(turn_between(np.array([1.0, 0, 0]), np.array([3.0, 0, 0])), np.eye(3))
