"""Names for objects of packages without types, which are imported inside workers only."""

from __future__ import annotations

from typing import Any, TypeVar

Environment = Any
"""A robosuite-style environment: `.sim`, `.robots`, `.action_dim`, `.step`, `._check_success`."""
MjModel = Any
"""`mujoco.MjModel`."""
MjData = Any
"""`mujoco.MjData`."""

_Value = TypeVar("_Value")


def right_arm(value: _Value | dict[str, _Value]) -> _Value:
    """The entry itself, or the right arm's: robosuite 1.5 keeps one an arm."""
    return value["right"] if isinstance(value, dict) else value
