"""Scripted expert of robosuite Stack: grasp the red cube, carry it over the green one, lower it, let go, back off."""

from __future__ import annotations

import numpy as np

from simulators.experts.base import Expert, height, move_towards
from simulators.experts.lift import CLOSE, OPEN, above_or_on, grasp_ready, noise_near
from simulators.messages import Array
from simulators.mujoco_types import Environment, right_arm

CLOSE_STEPS = 5
CARRY = 0.13
"""Height of the carried cube over the green cube's centre, in metres."""
CUBES_APART = 0.046
"""Height of the red centre over the green one when it is let go: half sizes 0.020 + 0.025, and a millimetre."""
BACK_OFF = 0.12


class StackExpert(Expert):
    """Phases: grasp, raise, carry, lower, release; each moves on when the world says so.

    Args:
        env: robosuite's Stack environment (cubeA red, cubeB green).
    """

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.phase = "grasp"
        self.closed_steps = 0
        self.released_at = np.zeros(3)
        self.calm = 1.0

    @property
    def noisy(self) -> bool:
        """Until the gripper closes."""
        return self.phase == "grasp"

    def noise_scale(self) -> Array:
        """Less noise close to the cube."""
        return self.calm * super().noise_scale()

    def act(self) -> Array:
        """See `Expert.act`."""
        data = self.env.sim.data
        gripper = np.array(data.site_xpos[right_arm(self.env.robots[0].eef_site_id)])
        red = np.array(data.body_xpos[self.env.cubeA_body_id])
        green = np.array(data.body_xpos[self.env.cubeB_body_id])
        if self.phase == "grasp":
            self.calm = noise_near(gripper, red)
            if not grasp_ready(gripper, red):
                return move_towards(above_or_on(gripper, red), gripper, OPEN)
            self.phase = "close"
        if self.phase == "close":
            self.closed_steps += 1
            if self.closed_steps > CLOSE_STEPS:
                self.phase = "carry"
            return move_towards(gripper, gripper, CLOSE)
        return self._place(gripper, red, green)

    def _place(self, gripper: Array, red: Array, green: Array) -> Array:
        """Carry, lower and release; the goal is the cube's, so a slanted grasp does not matter."""
        held = gripper - red
        if self.phase == "carry":
            over = green + height(CARRY)
            if red[2] < green[2] + CARRY - 0.04:  # first up, so that the cubes do not touch
                over[:2] = red[:2]
            elif np.linalg.norm((red - green)[:2]) < 0.008:
                self.phase = "lower"
            return move_towards(over + held, gripper, CLOSE)
        if self.phase == "lower":
            if red[2] - green[2] > CUBES_APART + 0.004:
                return move_towards(green + held + height(CUBES_APART), gripper, CLOSE)
            self.phase = "release"
            self.released_at = gripper
        return move_towards(self.released_at + height(BACK_OFF * self._is_open()), gripper, OPEN)

    def _is_open(self) -> bool:
        """The fingers are far enough apart to leave the cube."""
        fingers = right_arm(self.env.robots[0]._ref_gripper_joint_pos_indexes)
        return bool(np.abs(self.env.sim.data.qpos[fingers]).min() > 0.03)
