"""Position in LIBERO: objects of a recorded initial state are moved over the surface they stand on."""

from __future__ import annotations

import re

import numpy as np

from simulators.messages import Array
from simulators.mujoco_types import Environment, MjData, MjModel
from simulators.variations.footprint import Footprint, Support, footprint, subtree, support_below

STEP = 0.05
"""Largest displacement along x and along y at level 1, metres: twice what the recorded states of a task vary by."""
CLEARANCE = 0.02
"""Room left between things that are moved, metres; where they stood closer, as much as they had."""
EDGE = 0.03
"""Room left to the edge of the table, metres."""
REACH = 0.75
"""Farthest from the robot's base that something is moved to, metres."""
ATTEMPTS = 100
"""Draws for one thing; then it stays where it is."""

PLACES = re.compile(r"\b(left|right|front|back|middle|between|next to|center)\b")
"""Words that tell objects apart by where they are."""


Areas = dict[str, Footprint]
"""Object or fixture -> what it covers now."""


def displace_objects(
    env: Environment, model: MjModel, data: MjData, instruction: str, rng: np.random.Generator, level: float
) -> dict[str, Array]:
    """Move a LIBERO problem's movable objects over the table or floor, in place; heights and turns stay.

    Things that stand on or in a fixture (cabinet, stove, rack) stay, and so does everything if there is no room. Things
    are drawn one after the other, each until it is on its table, in reach, and clear of everything else.

    Args:
        env: A LIBERO problem in its recorded state: `objects_dict`, `fixtures_dict`, `obj_body_id`.
        model: Its raw `mujoco.MjModel`.
        data: Its raw `mujoco.MjData`, positions up to date; joint positions are changed, call `forward` afterwards.
        instruction: Where its words tell objects apart by place, all move together.
        rng: Draws.
        level: Above 0; the largest displacement in units of `STEP`.

    Returns:
        Object -> displacement (2,) in metres, of those that were moved.
    """
    bodies = {name: subtree(model, env.obj_body_id[name]) for name in (*env.objects_dict, *env.fixtures_dict)}
    areas = {name: footprint(model, data, found) for name, found in bodies.items()}
    groups = _groups(env, model, data, bodies, areas)
    if PLACES.search(instruction):
        groups = [{name: support for group in groups for name, support in group.items()}]
    base = np.array(data.xpos[model.body("robot0_base").id][:2])
    moved: dict[str, Array] = {}
    for group in groups:
        tables = {name: footprint(model, data, {support.body}) for name, support in group.items()}
        own = np.random.default_rng(rng.integers(2**63))  # others' refused draws do not change this one's
        for _ in range(ATTEMPTS):
            shift = STEP * level * own.uniform(-1.0, 1.0, 2)
            if all(_fits(name, shift, areas, tables, base) for name in group):
                for name, support in group.items():
                    rise = max(support.surface - areas[name].bottom, 0.0)
                    _move(model, data, env.obj_body_id[name], np.array([*shift, rise]))
                    areas[name] = areas[name].moved(shift)
                    moved[name] = shift
                break
    return moved


def _groups(
    env: Environment, model: MjModel, data: MjData, bodies: dict[str, set[int]], areas: Areas
) -> list[dict[str, Support]]:
    """Objects that move as one (a table's, and what stands on it), each with the table they stand on."""
    owner = {body: name for name, found in bodies.items() for body in found}
    below: dict[str, Support | None] = {}
    for name in env.objects_dict:
        height = areas[name].bottom + areas[name].top
        higher = [other for other in env.objects_dict if areas[other].bottom + areas[other].top >= height]
        below[name] = support_below(model, data, areas[name], set().union(*(bodies[other] for other in higher)))
    groups: dict[str, dict[str, Support]] = {}
    for name in env.objects_dict:
        lowest, support = name, below[name]
        while support is not None and owner.get(support.body) in below:  # what is below is lower: this ends
            lowest = owner[support.body]
            support = below[lowest]
        if support is not None and support.body not in owner:  # neither in the air nor on a fixture
            groups.setdefault(lowest, {})[name] = support
    may_move = _may_move(env)
    return [group for group in groups.values() if may_move.issuperset(group)]


def _may_move(env: Environment) -> set[str]:
    """All movable objects; where the goal is a place on the table itself, only those to be put somewhere.

    "To the right of the plate" is such a place: it does not follow the plate.
    """
    goals = env.parsed_problem["goal_state"]
    owners = (*env.objects_dict, *env.fixtures_dict)
    targets = [target for _, *targets in goals for target in targets[1:]]
    if all(target.startswith(owners) for target in targets):
        return set(env.objects_dict)
    return {goal[1] for goal in goals} & set(env.objects_dict)


def _fits(name: str, shift: Array, areas: Areas, tables: Areas, base: Array) -> bool:
    """The object would be on its table, in reach, and clear of everything that `tables`, its group, does not have."""
    here, there = areas[name], areas[name].moved(shift)
    distance = np.linalg.norm(there.middle - base)
    return (
        (there.inside(tables[name], EDGE) or not here.inside(tables[name], EDGE))
        and bool(distance <= REACH or distance <= np.linalg.norm(here.middle - base))
        and all(
            there.gap(area) >= min(CLEARANCE, here.gap(area)) for other, area in areas.items() if other not in tables
        )
    )


def _move(model: MjModel, data: MjData, body: int, shift: Array) -> None:
    """Add (3,) metres to a body's free joint."""
    start = model.jnt_qposadr[model.body_jntadr[body]]
    data.qpos[start : start + 3] += shift
