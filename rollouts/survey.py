"""What one worker says of its simulator before any episode: tasks, installed packages, and the words of the tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_KINDS = ("robosuite", "mujoco", "libero", "robocasa")
_PARTS: dict[str, tuple[str, ...]] = {
    "robosuite": ("robosuite", "mujoco"),
    "libero": ("libero", "robosuite", "mujoco"),
    "robocasa": ("robocasa", "robosuite", "mujoco"),
}
"""Simulator -> the packages whose releases decide its episodes; an adapter of one's own may use any of `_KINDS`."""


@dataclass(frozen=True)
class Survey:
    """A worker's answer at set-up.

    Args:
        tasks: Every task of the suite.
        packages: Installed packages that a simulator may depend on -> version, see `simulator_versions`.
        instructions: Task -> its words, where the adapter knows them without building the task; a class method
            ``instructions(config)`` of an adapter says them. Empty where it has none.
    """

    tasks: list[str]
    packages: dict[str, str]
    instructions: dict[str, str]


def releases(simulator: str, packages: Mapping[str, str]) -> dict[str, str]:
    """What of the installed packages decides how an episode goes.

    Args:
        simulator: Name of the simulator.
        packages: Package -> version, as a worker gave them.

    Returns:
        ``robosuite``, ``mujoco``, ``libero`` or ``robocasa`` -> release, with the package's own name where that is
        another one, as in ``praxis-robosuite 1.5.2``.
    """
    found = {}
    for kind in _PARTS.get(simulator, _KINDS):
        names = [name for name in sorted(packages) if re.fullmatch(rf"(.*[-_])?{kind}\d*", name, re.IGNORECASE)]
        if names:
            found[kind] = ", ".join(packages[n] if n.lower() == kind else f"{n} {packages[n]}" for n in names)
    return found
