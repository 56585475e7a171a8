"""What a worker can say about its simulator without building a task: the interpreter, OpenGL and the assets."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from simulators.rendering import gl_renderer

if TYPE_CHECKING:
    from simulators.config import SimulatorConfig
    from simulators.protocol import Simulator

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
