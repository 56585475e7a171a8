"""Which simulator packages the workers' interpreter has."""

from __future__ import annotations

import platform
import re
from importlib.metadata import distributions
from typing import TYPE_CHECKING

from simulators.errors import WorkerDied

if TYPE_CHECKING:
    from simulators.config import SimulatorConfig

_PACKAGES = re.compile(r"numpy|mujoco|robosuite|libero|robocasa", re.IGNORECASE)


def simulator_versions() -> dict[str, str]:
    """Python, and every installed package that a simulator's behaviour may depend on -> version.

    Runs inside a worker and imports none of them.
    """
    found = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name and _PACKAGES.search(name) and "assets" not in name:
            found[name] = distribution.version
    return {"python": platform.python_version(), **dict(sorted(found.items()))}


def worker_versions(config: SimulatorConfig, timeout_s: float = 120.0) -> dict[str, str]:
    """Ask a fresh worker for `simulator_versions`.

    Raises:
        SimulatorError: The worker does not start.
    """
    from simulators.worker_process import WorkerProcess, no_start  # here: a worker itself imports this module

    worker = WorkerProcess(config)
    try:
        worker.send("versions")
        versions: dict[str, str] = worker.receive(timeout_s)
    except WorkerDied as error:
        raise no_start(config, error) from error
    finally:
        worker.close()
    return versions
