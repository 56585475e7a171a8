"""Scripted expert of robosuite Lift: over the cube, down, close, up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from simulators.experts.base import Expert, beside, height, move_towards
from simulators.messages import Array
from simulators.mujoco_types import Environment, right_arm

OPEN, CLOSE = -1.0, 1.0
HOVER = 0.05
"""Height above the cube, in metres, at which the descent starts."""
ALIGNED = 0.012
"""Horizontal distance in metres within which the cube lies between the fingers."""
CONE = 0.4
"""How fast the allowed horizontal distance grows with height on the way down."""
NEAR = 0.06
"""Closer to the cube than this, in metres, noise shrinks in proportion, else small corrections drown in it."""
CLOSE_STEPS = 4
MISS = (0.035, 0.06)
"""Horizontal distances in metres at which a missed grasp closes."""
MISS_STEPS = 20
"""Most steps on the way to a missed grasp."""
LIFT_HEIGHT = 0.1


class LiftExpert(Expert):
    """Grasp the cube and raise it; goes back over the cube when noise pushed the gripper aside.

    Args:
        env: robosuite's Lift environment.
    """

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.closed_steps = 0
        self.lift_from: Array | None = None
        self.calm = 1.0

    @property
    def noisy(self) -> bool:
        """Until the gripper closes."""
        return self.closed_steps == 0

    def noise_scale(self) -> Array:
        """Less noise close to the cube."""
        return self.calm * super().noise_scale()

    def mistake(self, rng: np.random.Generator) -> Iterator[Array]:
        """Miss the cube: close the fingers beside it and rise, empty."""
        offset = beside(rng, MISS)
        for _ in range(MISS_STEPS):
            gripper, cube = self._where()
            if np.linalg.norm(cube + offset - gripper) < ALIGNED:
                break
            yield move_towards(cube + offset, gripper, OPEN)
        for step in range(CLOSE_STEPS + rng.integers(CLOSE_STEPS + 1)):
            gripper, _ = self._where()
            yield move_towards(gripper + height(LIFT_HEIGHT * (step >= CLOSE_STEPS)), gripper, CLOSE)

    def _where(self) -> tuple[Array, Array]:
        """Positions of the gripper and the cube (3,), metres."""
        data = self.env.sim.data
        gripper = np.array(data.site_xpos[right_arm(self.env.robots[0].eef_site_id)])
        return gripper, np.array(data.body_xpos[self.env.cube_body_id])

    def act(self) -> Array:
        """See `Expert.act`."""
        gripper, cube = self._where()
        if self.closed_steps == 0:
            self.calm = noise_near(gripper, cube)
            if not grasp_ready(gripper, cube):
                return move_towards(above_or_on(gripper, cube), gripper, OPEN)
            self.lift_from = gripper
        self.closed_steps += 1
        assert self.lift_from is not None
        if self.closed_steps <= CLOSE_STEPS:
            return move_towards(gripper, gripper, CLOSE)
        return move_towards(self.lift_from + height(LIFT_HEIGHT), gripper, CLOSE)


def grasp_ready(gripper: Array, cube: Array) -> bool:
    """The cube is between the fingers."""
    offset = np.abs(cube - gripper)
    return bool(offset[:2].max() < ALIGNED and offset[2] < 0.01)


def noise_near(gripper: Array, cube: Array) -> float:
    """Share of the noise to use at this distance."""
    return float(np.clip(np.linalg.norm(cube - gripper) / NEAR, 0.3, 1.0))


def above_or_on(gripper: Array, cube: Array) -> Array:
    """Next point on the way to a grasp: over the cube first, then down to its centre within a cone."""
    allowed = ALIGNED + CONE * max(gripper[2] - cube[2] - 0.02, 0.0)
    return cube if np.linalg.norm((cube - gripper)[:2]) < allowed else cube + height(HOVER)
