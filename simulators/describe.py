"""What a worker can say about its simulator without building a task: interpreter, packages, OpenGL, assets."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import distributions

from simulators.config import SimulatorConfig
from simulators.protocol import Simulator
from simulators.rendering import gl_renderer

_PACKAGES = re.compile(r"numpy|mujoco|robosuite|libero|robocasa|metaworld", re.IGNORECASE)
Description = dict[str, str]
"""Line title -> text."""


def describe(adapter: type[Simulator], config: SimulatorConfig) -> Description:
    """Lines for `videopolicy simulators check`.

    An adapter may have a class method `assets(config) -> dict[str, str]`, kind of file -> folder.
    """
    lines = {"interpreter": sys.executable}
    if adapter.uses_gl:
        lines["OpenGL"] = f"{os.environ['MUJOCO_GL']}: {gl_renderer()}"
    find_assets = getattr(adapter, "assets", None)
    if find_assets is not None:
        lines.update(find_assets(config))
    return lines


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
