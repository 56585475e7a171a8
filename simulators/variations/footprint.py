"""What an object covers, and what it stands on: enough to move it over a table without touching anything else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from simulators.messages import Array
from simulators.mujoco_types import MjData, MjModel


@dataclass(frozen=True)
class Footprint:
    """An upright rectangle on the ground, and the heights between which something stands on it; metres, world frame.

    Args:
        low: Lowest x, y (2,).
        high: Highest x, y (2,).
        bottom: Lowest z.
        top: Highest z.
    """

    low: Array
    high: Array
    bottom: float
    top: float

    @property
    def middle(self) -> Array:
        """Centre of the rectangle (2,)."""
        return np.asarray((self.low + self.high) / 2)

    def moved(self, shift: Array) -> Footprint:
        """The same elsewhere; `shift` is (2,)."""
        return Footprint(self.low + shift, self.high + shift, self.bottom, self.top)

    def gap(self, other: Footprint) -> float:
        """Largest distance along x or y between the two rectangles; negative where they overlap."""
        return float(np.maximum(self.low - other.high, other.low - self.high).max())

    def inside(self, other: Footprint, margin: float) -> bool:
        """The rectangle lies in the other, `margin` metres from its edges."""
        return bool((self.low >= other.low + margin).all() and (self.high <= other.high - margin).all())


@dataclass(frozen=True)
class Support:
    """What is under an object: a body, and the height of its surface there."""

    body: int
    surface: float


def subtree(model: MjModel, body: int) -> set[int]:
    """A body and everything that hangs on it."""
    found = {body}
    for child in range(body + 1, model.nbody):  # a parent comes before its children
        if int(model.body_parentid[child]) in found:
            found.add(child)
    return found


def footprint(model: MjModel, data: MjData, bodies: Collection[int]) -> Footprint:
    """Box around the collision geoms of `bodies`; a plane has no end.

    Args:
        model: The raw `mujoco.MjModel`.
        data: Its data, positions up to date.
        bodies: Body ids.
    """
    import mujoco

    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for geom in np.flatnonzero(np.isin(model.geom_bodyid, list(bodies))):
        if not _solid(model, geom):
            continue
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE:
            return Footprint(np.full(2, -np.inf), np.full(2, np.inf), -np.inf, float(data.geom_xpos[geom, 2]))
        rotation = data.geom_xmat[geom].reshape(3, 3)
        centre = data.geom_xpos[geom] + rotation @ model.geom_aabb[geom, :3]
        half = np.abs(rotation) @ model.geom_aabb[geom, 3:]
        low, high = np.minimum(low, centre - half), np.maximum(high, centre + half)
    return Footprint(low[:2], high[:2], float(low[2]), float(high[2]))


def support_below(model: MjModel, data: MjData, area: Footprint, ignored: Collection[int]) -> Support | None:
    """What a ray from the top of `area` straight down through its middle meets first; None if there is nothing.

    Args:
        model: The raw `mujoco.MjModel`.
        data: Its data, positions up to date.
        area: Of the object.
        ignored: Body ids to look through: the object's own, and of what is inside or above it.
    """
    start = np.array([*area.middle, area.top])
    nearest, body = np.inf, -1
    for geom in range(model.ngeom):
        if _solid(model, geom) and int(model.geom_bodyid[geom]) not in ignored:
            distance = _drop(model, data, geom, start)
            if 0.0 <= distance < nearest:
                nearest, body = distance, int(model.geom_bodyid[geom])
    return None if body < 0 else Support(body, float(start[2] - nearest))


def _drop(model: MjModel, data: MjData, geom: int, start: Array) -> float:
    """Distance from a point (3,) straight down to a geom, visible or not; below 0 if it is not there."""
    import mujoco

    down = np.array([0.0, 0.0, -1.0])
    kind = int(model.geom_type[geom])
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        return float(mujoco.mj_rayMesh(model, data, geom, start, down))
    return float(
        mujoco.mju_rayGeom(data.geom_xpos[geom], data.geom_xmat[geom], model.geom_size[geom], start, down, kind)
    )


def _solid(model: MjModel, geom: int) -> bool:
    return bool(model.geom_contype[geom] or model.geom_conaffinity[geom])
