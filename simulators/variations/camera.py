"""Camera: external cameras stand a little elsewhere and look a little aside, still at the workspace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulators.errors import SimulatorError
from simulators.messages import Array
from simulators.mujoco_types import MjData, MjModel
from simulators.variations.rotation import turn_about, turn_between

SHIFT, MOST_SHIFT = 0.05, 0.30
"""Largest shift in metres at level 1, and at any level."""
TURN, MOST_TURN = np.deg2rad(4.0), np.deg2rad(15.0)
"""Largest turn at level 1, and at any level: with 45 degrees of view the point looked at stays in the picture."""
WRIST = "eye_in_hand"
"""Cameras with this in their name are screwed to the hand and stay where they are."""


def external_cameras(cameras: Sequence[str]) -> list[str]:
    """The cameras that can be varied.

    Raises:
        SimulatorError: If there is none among them.
    """
    external = [name for name in cameras if WRIST not in name]
    if not external:
        raise SimulatorError(
            f"variation 'camera': none of {list(cameras)} stands outside the robot; add one that does."
        )
    return external


def vary_cameras(
    model: MjModel, data: MjData, cameras: Sequence[str], workspace: Array, rng: np.random.Generator, level: float
) -> None:
    """Change the pose of every external camera in place.

    A camera is shifted, aimed again at the point that was in the middle of its picture, and then turned about a random
    axis, so that the shift alone does not move the scene out of sight.

    Args:
        model: The raw `mujoco.MjModel`, in its standard look.
        data: Its data, for the poses of the bodies that cameras are on.
        cameras: Names, in the order of the data.
        workspace: A point (3,) in the world that the distance to look at is taken from, metres.
        rng: Draws twice a camera.
        level: Above 0.
    """
    import mujoco

    for name in external_cameras(cameras):
        camera = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
        if camera < 0:
            raise SimulatorError(f"no camera {name!r} to vary; set `cameras` to those of the task.")
        shift, turn = _in_ball(rng), _in_ball(rng)
        pose = _rotation(model.cam_quat[camera])  # columns: right, up, backwards
        parent = data.xmat[model.cam_bodyid[camera]].reshape(3, 3)
        workspace_here = parent.T @ (workspace - data.xpos[model.cam_bodyid[camera]])
        old = model.cam_pos[camera].copy()
        middle = old - pose[:, 2] * max(float((old - workspace_here) @ pose[:, 2]), 0.3)
        new = old + shift * min(level * SHIFT, MOST_SHIFT)
        pose = turn_between(old - middle, new - middle) @ pose
        size = float(np.linalg.norm(turn))
        pose = turn_about(turn / size, size * min(level * TURN, MOST_TURN)) @ pose
        model.cam_pos[camera] = new
        mujoco.mju_mat2Quat(model.cam_quat[camera], pose.flatten())


def _in_ball(rng: np.random.Generator) -> Array:
    """A vector (3,) in the outer half of the unit ball, so that no episode is hardly varied."""
    direction = rng.standard_normal(3)
    return np.asarray(direction / np.linalg.norm(direction) * rng.uniform(0.5, 1.0))


def _rotation(quat: Array) -> Array:
    import mujoco

    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.asarray(quat, dtype=np.float64))
    return matrix.reshape(3, 3)
