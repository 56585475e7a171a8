"""Which simulator packages the workers' interpreter has."""

from __future__ import annotations

import platform
import re
from importlib.metadata import distributions

_PACKAGES = re.compile(r"numpy|mujoco|robosuite|libero|robocasa", re.IGNORECASE)


def simulator_versions() -> dict[str, str]:
    """Python, and every installed package that a simulator's behaviour may depend on -> version.

    Runs inside a worker and imports none of them.
    """
    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name and _PACKAGES.search(name) and "assets" not in name:
            found.setdefault(name, distribution.version)  # the first of a name on the path is imported
    return {"python": platform.python_version(), **dict(sorted(found.items()))}
