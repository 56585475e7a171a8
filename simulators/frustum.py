"""Which geoms a camera can see at all: what lies outside its view need not be drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulators.messages import Array
from simulators.mujoco_types import MjData, MjModel

MARGIN = 0.01
"""Geoms count as this much larger (relative), so that rounding never loses a pixel at the picture's edge."""


def geoms_in_view(model: MjModel, data: MjData, camera: Any) -> Array:  # noqa: ANN401 - an mjvGLCamera
    """Whether the box around each geom reaches into a camera's view.

    Args:
        model: Bounding boxes.
        data: Poses of the geoms.
        camera: The mean of `MjvScene.camera`, as `mjv_updateScene` has left them; the picture is as wide as it is high.

    Returns:
        (num_geoms,) bool; all of them for cameras that are no plain pinhole, and always for planes.
    """
    if camera.orthographic or camera.frustum_width or camera.frustum_center:
        return np.ones(model.ngeom, dtype=bool)
    normals = _side_normals(camera)  # (4, 3), pointing inwards
    rotation = data.geom_xmat.reshape(-1, 3, 3)
    box = model.geom_aabb  # (num_geoms, 6): centre and half sizes in the geom's frame
    centre = data.geom_xpos + np.einsum("gij,gj->gi", rotation, box[:, :3])
    along = np.abs(np.einsum("pi,gij->gpj", normals, rotation))
    reach = np.einsum("gpj,gj->gp", along, box[:, 3:]) * (1.0 + MARGIN)
    inside = (centre - np.asarray(camera.pos)) @ normals.T > -reach
    seen: Array = inside.all(axis=1) | (model.geom_rbound == 0)  # planes go on for ever and have no radius
    return seen


def _side_normals(camera: Any) -> Array:  # noqa: ANN401
    """Inward unit normals of the view's four sides; all four pass through the camera."""
    forward, up = np.asarray(camera.forward, dtype=np.float64), np.asarray(camera.up, dtype=np.float64)
    right = np.cross(forward, up)
    top, bottom = camera.frustum_top / camera.frustum_near, -camera.frustum_bottom / camera.frustum_near
    side = (top + bottom) / 2
    sides = np.stack([side * forward - right, side * forward + right, top * forward - up, bottom * forward + up])
    unit: Array = sides / np.linalg.norm(sides, axis=1, keepdims=True)
    return unit
