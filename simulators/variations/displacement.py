"""Position in LIBERO: objects of a recorded initial state are moved over the surface they stand on."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

from simulators.mujoco_types import Environment, MjData, MjModel
from simulators.protocol import Array
from simulators.variations.footprint import Footprint, body_below, footprint, subtree

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
    groups, table = _groups(env, model, data, bodies)
    if PLACES.search(instruction):
        groups = [[name for group in groups for name in group]] if groups else []
    base = np.array(data.xpos[model.body("robot0_base").id][:2])
    moved: dict[str, Array] = {}
    for group in groups:
        for _ in range(ATTEMPTS):
            shift = STEP * level * rng.uniform(-1.0, 1.0, 2)
            if all(_fits(name, shift, areas, group, table[name], base) for name in group):
                for name in group:
                    _move(model, data, env.obj_body_id[name], shift)
                    areas[name] = areas[name].moved(shift)
                    moved[name] = shift
                break
    return moved


def _groups(
    env: Environment, model: MjModel, data: MjData, bodies: dict[str, set[int]]
) -> tuple[list[list[str]], Areas]:
    """Objects that move as one (what stands on an object goes with it), and the table each group stands on."""
    owner = {body: name for name, found in bodies.items() for body in found}
    below = {name: body_below(model, data, bodies[name]) for name in env.objects_dict}
    groups: dict[str, list[str]] = {}
    table: Areas = {}
    for name in env.objects_dict:
        lowest, support = name, below[name]
        for _ in below:  # down a stack, which is no higher than there are objects
            if support is not None and owner.get(support) in below:
                lowest = owner[support]
                support = below[lowest]
        if support is None or support in owner:  # in the air, or on a fixture
            continue
        groups.setdefault(lowest, []).append(name)
        table[name] = footprint(model, data, {support})
    may_move = _may_move(env)
    return [group for group in groups.values() if may_move.issuperset(group)], table


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


def _fits(name: str, shift: Array, areas: Areas, group: Collection[str], table: Footprint, base: Array) -> bool:
    """The object would be on its table, in reach, and clear of everything outside its group."""
    here, there = areas[name], areas[name].moved(shift)
    distance = np.linalg.norm(there.middle - base)
    return (
        (there.inside(table, EDGE) or not here.inside(table, EDGE))
        and (distance <= REACH or distance <= np.linalg.norm(here.middle - base))
        and all(
            there.gap(area) >= min(CLEARANCE, here.gap(area)) for other, area in areas.items() if other not in group
        )
    )


def _move(model: MjModel, data: MjData, body: int, shift: Array) -> None:
    """Add to x and y of a body's free joint."""
    start = model.jnt_qposadr[model.body_jntadr[body]]
    data.qpos[start : start + 2] += shift
