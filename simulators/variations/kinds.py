"""Kinds and levels of variation, and where their random numbers come from.

Level 0 is the standard episode, bit for bit. Every draw comes from the episode and the kind alone, and the level only
scales what was drawn: an episode moves farther in the same direction as the level grows, whichever worker runs it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping

import numpy as np

from simulators.errors import SimulatorError
from simulators.messages import EpisodeSpec

KINDS = ("position", "appearance", "camera", "instruction")
"""What can be varied; docs/variation.md says what a level of each means."""


def read_variation(variation: Mapping[str, float]) -> dict[str, float]:
    """Kind -> level above 0, in the order of `KINDS`; level 0 is the standard, so such entries are left out.

    Raises:
        SimulatorError: If a kind is unknown or a level is no finite number from 0 on.
    """
    if unknown := sorted(set(variation) - set(KINDS)):
        raise SimulatorError(f"variation: unknown kind {unknown}; there are {list(KINDS)}.")
    for kind, level in variation.items():
        number = isinstance(level, (int, float)) and not isinstance(level, bool)
        if not number or not math.isfinite(level) or level < 0:
            raise SimulatorError(f"variation {kind!r}: level is {level!r}; it must be a finite number, 0 or more.")
    return {kind: float(variation[kind]) for kind in KINDS if variation.get(kind, 0.0) > 0}


def require_variable(simulator: str, variation: Mapping[str, float], able: Collection[str]) -> None:
    """Fail where a simulator cannot vary what it is asked to.

    Args:
        simulator: Name for the message.
        variation: Kind -> level.
        able: Kinds that the adapter varies itself; `instruction` needs no adapter.

    Raises:
        SimulatorError: Names the kinds it cannot vary and those it can.
    """
    able = [kind for kind in KINDS if kind in able or kind == "instruction"]
    if missing := [kind for kind in variation if kind not in able]:
        raise SimulatorError(f"simulator {simulator!r} cannot vary {missing}; it can vary {able}.")


def variation_rng(spec: EpisodeSpec, kind: str) -> np.random.Generator:
    """The generator of one kind's draws in one episode, the same in every run and worker."""
    digest = hashlib.sha256(f"{spec.key}/vary {kind}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
