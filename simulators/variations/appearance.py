"""Appearance: colours of everything but the robot, and lights, drawn for an episode and mixed in as the level grows."""

from __future__ import annotations

import colorsys

import numpy as np

from simulators.messages import Array
from simulators.mujoco_types import MjModel
from simulators.variations.rotation import turned

SCENE_MIX, SCENE_MOST = 0.6, 0.95
"""Share of the drawn colour in walls, floor, table and furniture at level 1, and at most."""
OBJECT_MIX, OBJECT_MOST = 0.25, 0.5
"""The same for objects that can be picked up: less, so that a red cube stays reddish and keeps its name."""
INTENSITY, DIMMEST, BRIGHTEST = 0.4, 0.5, 1.6
"""Spread of a light's intensity in natural logarithms at level 1, and the factors it stays between."""
LIGHT_HUE = 0.15
"""Largest relative change of a light's red, green or blue at level 1."""
LIGHT_TURN, MOST_TURN = np.deg2rad(25.0), np.deg2rad(60.0)
"""Largest turn of a light's direction at level 1, and at any level."""
ROBOT_BODIES = ("robot", "gripper", "mount", "fixed_mount", "base0", "mobilebase")
"""First letters of the bodies of a robosuite robot, whose looks stay."""


def vary_appearance(model: MjModel, rng: np.random.Generator, level: float) -> None:
    """Change colours and lights in place.

    Textures stay and are tinted. Geoms of one material share their colour, those without a material share their body's.

    Args:
        model: The raw `mujoco.MjModel`, in its standard look.
        rng: Draws in an order that only the model decides.
        level: Above 0.
    """
    _vary_colours(model, rng, level)
    _vary_lights(model, rng, level)


def _vary_colours(model: MjModel, rng: np.random.Generator, level: float) -> None:
    import mujoco

    names = [mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_BODY, i) or "" for i in range(model.nbody)]
    movable = movable_bodies(model)
    drawn: dict[tuple[str, int], Array] = {}
    for geom in range(model.ngeom):
        body, material = int(model.geom_bodyid[geom]), int(model.geom_matid[geom])
        if names[body].startswith(ROBOT_BODIES):
            continue
        group = ("material", material) if material >= 0 else ("body", body)
        if group not in drawn:
            drawn[group] = random_colour(rng)
        share = min(OBJECT_MIX * level, OBJECT_MOST) if movable[body] else min(SCENE_MIX * level, SCENE_MOST)
        standard = shown_colour(model, geom)
        model.geom_rgba[geom, :3] = (1.0 - share) * standard[:3] + share * drawn[group]
        model.geom_rgba[geom, 3] = standard[3]


def movable_bodies(model: MjModel) -> Array:
    """Which bodies can be moved freely: those with a free joint, and what hangs on them; (nbody,) bool."""
    import mujoco

    movable = np.zeros(model.nbody, dtype=bool)
    movable[model.jnt_bodyid[model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]] = True
    for body in range(1, model.nbody):  # a parent comes before its children
        movable[body] |= movable[model.body_parentid[body]]
    return movable


def shown_colour(model: MjModel, geom: int) -> Array:
    """RGBA (4,) that MuJoCo draws a geom with: its own, or its material's where its own was left at the default."""
    own, material = model.geom_rgba[geom], int(model.geom_matid[geom])
    default = np.array([0.5, 0.5, 0.5, 1.0], dtype=own.dtype)
    if material >= 0 and np.array_equal(own, default):
        return np.array(model.mat_rgba[material])
    return np.array(own)


def random_colour(rng: np.random.Generator) -> Array:
    """A saturated colour, RGB (3,) in [0, 1]."""
    hue, saturation, value = rng.uniform([0.0, 0.5, 0.6], [1.0, 1.0, 1.0])
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _vary_lights(model: MjModel, rng: np.random.Generator, level: float) -> None:
    headlight = model.vis.headlight
    factor = _light_factor(rng, level)
    for name in ("ambient", "diffuse"):
        values = getattr(headlight, name)
        values[:] = np.clip(values * factor, 0.0, 1.0)
    for light in range(model.nlight):
        factor = _light_factor(rng, level)
        for values in (model.light_diffuse, model.light_ambient):
            values[light] = np.clip(values[light] * factor, 0.0, 1.0)
        heading, share = rng.uniform([0.0, 0.5], [2 * np.pi, 1.0])
        axis = np.array([np.cos(heading), np.sin(heading), 0.0])
        angle = min(level * LIGHT_TURN, MOST_TURN) * share
        model.light_dir[light] = turned(model.light_dir[light], axis, angle)
        model.light_pos[light] = turned(model.light_pos[light], axis, angle)  # about the middle of the scene


def _light_factor(rng: np.random.Generator, level: float) -> Array:
    """Factor of red, green and blue (3,)."""
    intensity = float(np.clip(np.exp(INTENSITY * level * rng.uniform(-1.0, 1.0)), DIMMEST, BRIGHTEST))
    hue = 1.0 + min(LIGHT_HUE * level, 0.5) * rng.uniform(-1.0, 1.0, 3)
    return np.asarray(intensity * hue)
