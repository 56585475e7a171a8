"""Position in robosuite: the ranges that objects start in grow about their middles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from simulators.errors import SimulatorError
from simulators.mujoco_types import Environment

FARTHEST = {"x_range": 0.20, "y_range": 0.25}
"""How far from the middle of the table a grown range may go, in metres: on the table (0.4) and in the arm's reach."""

FILLED = "PickPlace"
"""Tasks whose objects start anywhere in their bin, so that there is no room to grow; first letters of the name."""


def require_room(tasks: Iterable[str]) -> None:
    """Fail at set-up for tasks whose start positions cannot leave their range.

    Raises:
        SimulatorError: Names the tasks.
    """
    if full := [task for task in tasks if task.startswith(FILLED)]:
        raise SimulatorError(
            f"variation 'position': objects of {full} start anywhere in their bin already, which leaves no room; "
            "leave these tasks out, or vary something else."
        )


@contextmanager
def grown_placement(env: Environment, level: float) -> Iterator[None]:
    """Within the context, start positions are drawn from ranges 1 + level times as wide, about the same middle.

    The generator and its draws stay: an object goes farther in the direction it had in the standard episode, unless
    several objects drawn on top of one another were drawn again.

    Args:
        env: A robosuite environment with a `placement_initializer`.
        level: 0 or more.
    """
    samplers = flat_samplers(env.placement_initializer)
    standard = [(sampler, side, getattr(sampler, side)) for sampler in samplers for side in FARTHEST]
    try:
        for sampler, side, bounds in standard:
            if level > 0:
                setattr(sampler, side, grown_range(bounds, level, FARTHEST[side]))
        yield
    finally:
        for sampler, side, bounds in standard:
            setattr(sampler, side, bounds)


def flat_samplers(sampler: Any) -> list[Any]:  # noqa: ANN401 - robosuite's, untyped
    """The uniform samplers inside a composite one, or the sampler itself."""
    parts = getattr(sampler, "samplers", None)
    return [sampler] if parts is None else [leaf for part in parts.values() for leaf in flat_samplers(part)]


def grown_range(bounds: Sequence[float], level: float, farthest: float) -> list[float]:
    """(min, max) about the same middle, 1 + level times as wide, within +-farthest unless it was beyond before."""
    low, high = bounds
    middle, half = (low + high) / 2, (high - low) / 2 * (1.0 + level)
    return [max(middle - half, min(low, -farthest)), min(middle + half, max(high, farthest))]
