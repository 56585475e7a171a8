"""Scripted expert for the ten LIBERO-Object tasks: pick one grocery item, drop it into the basket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from simulators.errors import SimulatorError
from simulators.experts.base import Expert, beside, height, move_towards
from simulators.messages import Array

Reader = Callable[[], Array]
"""Reads a position (3,) in metres or a rotation matrix (3, 3), world frame, from the running simulation."""

GRASP_OFFSETS: dict[str, tuple[float, float, float]] = {
    "alphabet_soup": (0.0, 0.0, 0.025),  # cans fill the open gripper: at half height the fingers knock them over
    "cream_cheese": (-0.025, 0.0, 0.0),  # at its end: over its middle the hand lands on the tomato sauce beside it
    "salad_dressing": (0.0, 0.0, 0.03),
    "bbq_sauce": (0.0, 0.0, 0.03),
    "ketchup": (0.0, 0.0, 0.03),
    "tomato_sauce": (0.0, 0.0, 0.025),
    "butter": (0.0, 0.0, 0.0),
    "milk": (0.0, 0.0, 0.03),
    "chocolate_pudding": (0.0, 0.0, 0.0),
    "orange_juice": (0.0, 0.0, 0.03),
}
"""Where to close the gripper, relative to the item's centre, in metres."""

HOVER = 0.12
"""Height over the grasp from which to go down: clears the tallest neighbour (15 cm bottles) with open fingers."""
LIFT = 0.20
"""How far to raise the item: its lower end then passes the basket's rim, 14 cm above the floor."""
RELEASE = 0.145
"""Height of the gripper over the basket's origin when it lets go: the hand is just over the rim."""
ALIGNED = 0.008
"""Horizontal distance within which the widest item, a can, fits between the fingers."""
CONE = 0.2
"""How fast the allowed horizontal distance grows with height on the way down."""
NEAR = 0.15
"""Closer to the grasp than this, in metres, noise shrinks in proportion, else the fingers knock the item over."""
CLOSE_ENOUGH = 0.03
"""A descent that ends farther than this from the grasp is tried again."""
SLIPPED = 0.06
"""An item that has moved this far inside the closed gripper is lost."""
MISS = (0.03, 0.06)
"""Horizontal distances in metres at which a missed grasp closes."""
MISS_HEIGHT = (0.01, 0.07)
"""Heights over the right grasp at which a missed one closes: most do not touch the item, some knock it over."""
MISS_STEPS = 40
"""Most steps to each of the two points on the way to a missed grasp."""
CLOSING_STEPS = (4, 13)
"""Fewest and one more than most steps for which a missed grasp closes where it is."""
RISING_STEPS = 8
"""A missed grasp rises for fewer steps than this."""
TURN_GAIN = 1.0
"""Action units a radian; a full unit is half a radian, so half of the error goes in a step, as in translation."""


@dataclass(frozen=True)
class Leg:
    """One leg of the motion.

    Args:
        gripper: -1 open, +1 closed.
        tolerance: Distance in metres at which the leg is over; 0 for legs that last a fixed time.
        max_steps: Control steps after which it is over in any case, for the arm keeps a steady-state error.
    """

    gripper: float
    tolerance: float
    max_steps: int


LEGS: dict[str, Leg] = {
    "approach": Leg(-1.0, 0.020, 60),
    "descend": Leg(-1.0, 0.010, 30),
    "grasp": Leg(1.0, 0.0, 12),  # from fully open to a firm grip
    "lift": Leg(1.0, 0.020, 40),
    "carry": Leg(1.0, 0.030, 40),
    "lower": Leg(1.0, 0.020, 25),
    "release": Leg(-1.0, 0.0, 25),  # then the item lies still
}
ORDER = tuple(LEGS)


class LiberoObjectExpert(Expert):
    """Over the item, down, close, up, over the basket, down, open; starts again if the item slipped or missed.

    Args:
        item: Kind of grocery, a key of `GRASP_OFFSETS`.
        item_position: Reads the centre of the item.
        basket_position: Reads the origin of the basket.
        gripper_position: Reads the grip point between the fingers.
        gripper_rotation: Reads the orientation of the gripper; the one it begins with is kept.

    Raises:
        SimulatorError: If no grasp is known for the item.
    """

    def __init__(
        self,
        item: str,
        item_position: Reader,
        basket_position: Reader,
        gripper_position: Reader,
        gripper_rotation: Reader,
    ) -> None:
        if item not in GRASP_OFFSETS:
            raise SimulatorError(f"no scripted grasp for {item!r}; there are grasps for {sorted(GRASP_OFFSETS)}.")
        self.offset = np.array(GRASP_OFFSETS[item])
        self.item_position = item_position
        self.basket_position = basket_position
        self.gripper_position = gripper_position
        self.gripper_rotation = gripper_rotation
        self.rotation = gripper_rotation()
        self._enter("approach")

    def act(self) -> Array:
        """The action (7,) towards the current leg's target, after moving on to the next leg if this one is over."""
        self._advance()
        self.steps += 1
        return self._towards(self._target(), LEGS[self.leg].gripper)

    def _towards(self, target: Array, gripper: float) -> Array:
        """An action (7,) that moves the grip point to `target` and turns the gripper as it was at the start."""
        action = move_towards(target, self.gripper_position(), gripper)
        action[3:6] = np.clip(TURN_GAIN * turn(self.gripper_rotation(), self.rotation), -1.0, 1.0)
        return action

    def mistake(self, rng: np.random.Generator) -> Iterator[Array]:
        """Miss the item: close the fingers beside or over it, and rise a little, empty."""
        miss = self._grasp() + beside(rng, MISS) + height(rng.uniform(*MISS_HEIGHT))
        for target in (miss + height(HOVER), miss):  # from above, clear of the neighbours
            for _ in range(MISS_STEPS):
                if np.linalg.norm(target - self.gripper_position()) < LEGS["descend"].tolerance:
                    break
                yield self._towards(target, gripper=-1.0)
        for _ in range(rng.integers(*CLOSING_STEPS)):
            yield self._towards(self.gripper_position(), gripper=1.0)
        for _ in range(rng.integers(RISING_STEPS)):
            yield self._towards(self.gripper_position() + height(HOVER), gripper=1.0)

    @property
    def noisy(self) -> bool:
        """True until the fingers begin to close."""
        return self.leg in ("approach", "descend")

    def noise_scale(self) -> Array:
        """Less noise close to the item."""
        gap = float(np.linalg.norm(self._grasp() - self.gripper_position()))
        return min(max(gap / NEAR, 0.1), 1.0) * super().noise_scale()

    def _grasp(self) -> Array:
        """Where the grip point should be when the fingers close (3,)."""
        return np.asarray(self.item_position() + self.offset)

    def _distance(self) -> float:
        return float(np.linalg.norm(self._target() - self.gripper_position()))

    def _enter(self, leg: str) -> None:
        self.leg = leg
        self.steps = 0
        if leg == "grasp":  # where it is held, and how
            self.grip = self.gripper_position()
            self.held = self.item_position() - self.grip

    def _advance(self) -> None:
        leg = LEGS[self.leg]
        if self._distance() >= leg.tolerance and self.steps < leg.max_steps:
            return
        missed = self.leg == "descend" and self._distance() > CLOSE_ENOUGH
        slipped = self.leg in ("lift", "carry") and self._slipped()
        if missed or slipped or self.leg == "release":
            self._enter("approach")
        else:
            self._enter(ORDER[ORDER.index(self.leg) + 1])

    def _slipped(self) -> bool:
        return float(np.linalg.norm(self.item_position() - self.gripper_position() - self.held)) > SLIPPED

    def _target(self) -> Array:
        """Where the gripper should be (3,); computed anew every step, so that noise and slips are corrected."""
        if self.leg in ("approach", "descend"):
            return self._above_or_on(self._grasp())
        if self.leg == "grasp":
            return self.grip
        if self.leg == "lift":
            return self.grip + height(LIFT)
        basket = self.basket_position()
        over = basket - np.array([*self.held[:2], 0.0])  # the item's centre over the basket's, not the gripper's
        up = float(self.grip[2] - basket[2]) + LIFT if self.leg == "carry" else RELEASE
        return np.asarray(over + height(up))

    def _above_or_on(self, grasp: Array) -> Array:
        """The grasp itself while descending within the cone over it, else the point from which to go down."""
        gap = self.gripper_position() - grasp
        allowed = ALIGNED + CONE * max(gap[2], 0.0)
        inside = self.leg == "descend" and np.linalg.norm(gap[:2]) < allowed
        return grasp if inside else grasp + height(HOVER)


def turn(current: Array, wanted: Array) -> Array:
    """Rotation vector (3,) in radians, world frame, from one orientation (3, 3) to another within 90 degrees."""
    error: Array = wanted @ current.T
    return 0.5 * np.array([error[2, 1] - error[1, 2], error[0, 2] - error[2, 0], error[1, 0] - error[0, 1]])
