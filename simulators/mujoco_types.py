"""Names for objects of packages without types, which are imported inside workers only."""

from __future__ import annotations

from typing import Any

Environment = Any
"""A robosuite-style environment: `.sim`, `.robots`, `.action_dim`, `.step`, `._check_success`."""
MjModel = Any
"""`mujoco.MjModel`."""
MjData = Any
"""`mujoco.MjData`."""
