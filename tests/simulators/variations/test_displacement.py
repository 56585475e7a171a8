"""Objects on a table of 1 x 1 m with a stove, a stack, a bowl with a ball in it and a buried box."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from simulators.messages import Array
from simulators.mujoco_types import Environment, MjData, MjModel
from simulators.rendering import choose_gl
from simulators.variations import displace_objects
from simulators.variations.displacement import CLEARANCE, EDGE, REACH, STEP
from simulators.variations.footprint import footprint, subtree, support_below

pytestmark = pytest.mark.simulator

OBJECTS = {
    "can": (0.0, 0.0, 0.05, 0.05),
    "box": (0.05, 0.25, 0.005, 0.02),  # its lower side is 1.5 cm inside the table
    "plate": (-0.2, 0.2, 0.01, 0.01),
    "mug": (-0.2, 0.2, 0.06, 0.04),  # on the plate
    "pan": (0.25, -0.3, 0.15, 0.03),  # on the stove
    "edge": (-0.1, -0.44, 0.02, 0.02),  # 4 cm from the table's edge
}
"""x, y, z of the middle and half the height; 4 cm wide."""


def scene(**changes: tuple[float, float, float, float]) -> tuple[Environment, MjModel, MjData]:
    choose_gl(None)  # mujoco asks once, when it is imported, and other tests draw
    mujoco = pytest.importorskip("mujoco")
    bodies = "".join(
        f'<body name="{name}" pos="{x} {y} {z}"><freejoint/><geom type="box" size=".02 .02 {half}"/></body>'
        for name, (x, y, z, half) in {**OBJECTS, **changes}.items()
    )
    model = mujoco.MjModel.from_xml_string(f"""
    <mujoco><worldbody>
      <geom type="plane" size="5 5 .1" pos="0 0 -1"/>
      <body name="robot0_base" pos="-.6 0 0"/>
      <body name="table"><geom type="box" size=".5 .5 .05" pos="0 0 -.05"/></body>
      <body name="stove" pos=".25 -.3 .06"><geom type="box" size=".1 .1 .06"/></body>
      {bodies}
    </worldbody></mujoco>""")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    names = [*OBJECTS, "stove"]
    env = SimpleNamespace(
        objects_dict=dict.fromkeys({**OBJECTS, **changes}),
        fixtures_dict={"stove": None},
        obj_body_id={name: model.body(name).id for name in {**dict.fromkeys(names), **changes}},
        parsed_problem={"goal_state": [["on", "can", "plate"]]},
    )
    return env, model, data


def displaced(
    level: float, seed: int = 0, words: str = "put the can on the plate", goal: list[list[str]] | None = None
) -> dict[str, Array]:
    """Object -> displacement (3,) after the fact, in metres."""
    env, model, data = scene()
    mujoco = pytest.importorskip("mujoco")
    if goal is not None:
        env.parsed_problem["goal_state"] = goal
    before = data.xpos.copy()
    told = displace_objects(env, model, data, words, np.random.default_rng(seed), level)
    mujoco.mj_forward(model, data)
    found = {name: data.xpos[body] - before[body] for name, body in env.obj_body_id.items()}
    assert all(np.allclose(found[name][:2], told.get(name, 0.0)) for name in found)
    assert_in_order(env, model, data)
    return found


def assert_in_order(env: Environment, model: MjModel, data: MjData) -> None:
    """On the table, in reach, and not closer to anything than allowed."""
    areas = {name: footprint(model, data, subtree(model, body)) for name, body in env.obj_body_id.items()}
    base = data.xpos[model.body("robot0_base").id][:2]
    for name in ("can", "box", "plate", "mug", "edge"):
        assert (np.abs(areas[name].middle) <= 0.5 - 0.02 - EDGE + 1e-9).all()
        assert np.linalg.norm(areas[name].middle - base) <= REACH + 1e-9
        for other in areas:
            if other != name and {name, other} != {"plate", "mug"}:
                assert areas[name].gap(areas[other]) >= CLEARANCE - 1e-9, (name, other)


@pytest.mark.parametrize("level", [0.5, 1.0, 3.0])
def test_displacements_stay_within_level_times_step_on_the_table_and_clear_of_everything(level: float) -> None:
    most = 0.0
    for seed in range(20):
        found = displaced(level, seed)
        assert all(np.abs(shift[:2]).max() <= level * STEP for shift in found.values())
        most = max(most, np.abs(found["can"]).max())
    assert most > 0.6 * level * STEP


def test_a_seed_gives_the_same_displacement_and_a_growing_level_more_of_it() -> None:
    half, one, again = displaced(0.5, 3), displaced(1.0, 3), displaced(1.0, 3)
    for name in OBJECTS:
        np.testing.assert_array_equal(one[name], again[name])
    np.testing.assert_allclose(one["can"][:2], 2 * half["can"][:2], atol=1e-12)
    assert np.abs(displaced(1.0, 4)["can"] - one["can"]).max() > 1e-3


def test_what_stands_on_a_fixture_stays_and_what_stands_on_an_object_goes_with_it() -> None:
    for seed in range(5):
        found = displaced(1.0, seed)
        np.testing.assert_array_equal(found["pan"], 0.0)
        np.testing.assert_array_equal(found["stove"], 0.0)
        np.testing.assert_allclose(found["plate"][:2], found["mug"][:2], atol=1e-12)
        assert np.abs(found["plate"][:2]).max() > 0


def test_what_is_sunk_into_the_table_is_put_on_it() -> None:
    """LIBERO's recorded states have objects centimetres inside the table, which throws them into the air."""
    found = displaced(1.0)
    assert found["box"][2] == pytest.approx(0.015, abs=1e-6)
    assert found["can"][2] == pytest.approx(0.0, abs=1e-6)


def test_words_of_place_make_all_move_together() -> None:
    found = displaced(0.7, 1, "put the left can on the plate")
    for name in ("box", "plate", "mug", "edge"):
        np.testing.assert_allclose(found[name][:2], found["can"][:2], atol=1e-12)


def test_where_the_goal_is_a_place_on_the_table_only_what_is_to_be_put_there_moves() -> None:
    found = displaced(1.0, 2, "put the can beside the plate", [["on", "can", "main_table_plate_side_region"]])
    assert np.abs(found["can"][:2]).max() > 0
    assert all(not found[name].any() for name in OBJECTS if name != "can")


def test_an_object_without_room_stays() -> None:
    walls = {f"wall{i}": (x, y, 0.05, 0.05) for i, (x, y) in enumerate([(0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)])}
    env, model, data = scene(**walls)
    before = data.qpos.copy()
    env.parsed_problem["goal_state"] = [["on", "can", "table_middle_region"]]  # only the can may move
    assert displace_objects(env, model, data, "move the can", np.random.default_rng(0), 1.0) == {}
    np.testing.assert_array_equal(data.qpos, before)


def test_supports_are_found_through_the_object_itself() -> None:
    env, model, data = scene()
    below = {}
    for name in OBJECTS:
        bodies = subtree(model, env.obj_body_id[name])
        above = subtree(model, env.obj_body_id["mug"]) if name == "plate" else set()
        support = support_below(model, data, footprint(model, data, bodies), bodies | above)
        assert support is not None
        below[name] = (model.body(support.body).name, round(support.surface, 6))
    assert below == {
        "can": ("table", 0.0),
        "box": ("table", 0.0),
        "plate": ("table", 0.0),
        "mug": ("plate", 0.02),
        "pan": ("stove", 0.12),
        "edge": ("table", 0.0),
    }
