"""Rotations of plain vectors and matrices, in numpy."""

from __future__ import annotations

import numpy as np

from simulators.messages import Array


def turned(vector: Array, axis: Array, angle: float) -> Array:
    """`vector` (3,) turned about the unit vector `axis` by `angle` in radians (Rodrigues' formula)."""
    across = np.cross(axis, vector)
    along = axis * float(axis @ vector)
    return np.asarray(np.cos(angle) * (vector - along) + np.sin(angle) * across + along)


def turn_about(axis: Array, angle: float) -> Array:
    """The rotation (3, 3) about the unit vector `axis` by `angle` in radians."""
    return np.stack([turned(unit, axis, angle) for unit in np.eye(3)], axis=1)


def turn_between(start: Array, end: Array) -> Array:
    """The smallest rotation (3, 3) that takes the direction of `start` (3,) to that of `end` (3,)."""
    axis = np.cross(start, end)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-12:
        return np.eye(3)
    return turn_about(axis / sine, float(np.arctan2(sine, start @ end)))
