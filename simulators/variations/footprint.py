"""What an object covers of the table, and what it stands on: enough to move it without touching anything else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from simulators.mujoco_types import MjData, MjModel
from simulators.protocol import Array


@dataclass(frozen=True)
class Footprint:
    """An upright rectangle on the ground: (2,) lowest and highest x, y in metres, world frame."""

    low: Array
    high: Array

    @property
    def middle(self) -> Array:
        """Its centre (2,)."""
        return np.asarray((self.low + self.high) / 2)

    def moved(self, shift: Array) -> Footprint:
        """The same rectangle elsewhere."""
        return Footprint(self.low + shift, self.high + shift)

    def gap(self, other: Footprint) -> float:
        """Largest distance along x or y that separates the two; negative where they overlap."""
        return float(np.maximum(self.low - other.high, other.low - self.high).max())

    def inside(self, other: Footprint, margin: float) -> bool:
        """It lies in the other rectangle, `margin` metres from its edges."""
        return bool((self.low >= other.low + margin).all() and (self.high <= other.high - margin).all())


def subtree(model: MjModel, body: int) -> set[int]:
    """A body and everything that hangs on it."""
    found = {body}
    for child in range(body + 1, model.nbody):  # a parent comes before its children
        if int(model.body_parentid[child]) in found:
            found.add(child)
    return found


def footprint(model: MjModel, data: MjData, bodies: Collection[int]) -> Footprint:
    """Rectangle around the collision geoms of `bodies`; a plane has no end.

    Args:
        model: The raw `mujoco.MjModel`.
        data: Its data, positions up to date.
        bodies: Body ids.
    """
    import mujoco

    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for geom in np.flatnonzero(np.isin(model.geom_bodyid, list(bodies))):
        if not (model.geom_contype[geom] or model.geom_conaffinity[geom]):
            continue
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE:
            return Footprint(np.full(2, -np.inf), np.full(2, np.inf))
        rotation = data.geom_xmat[geom].reshape(3, 3)[:2]
        centre = data.geom_xpos[geom, :2] + rotation @ model.geom_aabb[geom, :3]
        half = np.abs(rotation) @ model.geom_aabb[geom, 3:]
        low, high = np.minimum(low, centre - half), np.maximum(high, centre + half)
    return Footprint(low, high)


def body_below(model: MjModel, data: MjData, bodies: Collection[int]) -> int | None:
    """The body that a ray from the middle of `bodies` straight down meets first; None if there is nothing.

    Args:
        model: The raw `mujoco.MjModel`.
        data: Its data, positions up to date.
        bodies: Body ids of one object, the first body's origin being inside it; they are looked through.
    """
    import mujoco

    root = min(bodies)
    start = np.array(data.xpos[root], dtype=np.float64)
    area = footprint(model, data, bodies)
    start[:2] = area.middle
    geom = np.zeros(1, dtype=np.int32)
    while True:
        distance = mujoco.mj_ray(model, data, start, np.array([0.0, 0.0, -1.0]), None, 1, -1, geom)
        if distance < 0:
            return None
        body = int(model.geom_bodyid[geom[0]])
        solid = model.geom_contype[geom[0]] or model.geom_conaffinity[geom[0]]
        if solid and body not in bodies:
            return body
        start[2] -= distance + 1e-4
