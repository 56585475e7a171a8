"""Names of simulators -> the adapter class that a worker imports, and what to install for it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulators.errors import SimulatorError

if TYPE_CHECKING:
    from simulators.protocol import Simulator


@dataclass(frozen=True)
class SimulatorEntry:
    """Where a simulator is.

    Args:
        adapter: `module:Class`, imported in the worker only.
        install: What to do when the simulator's packages are missing, as the end of a sentence.
        suite: Suite name used when the config gives none.
        num_init_states: Recorded initial states a task, or None if the seed decides the initial state.
    """

    adapter: str
    install: str = ""
    suite: str = ""
    num_init_states: int | None = None


SIMULATORS: dict[str, SimulatorEntry] = {
    "robosuite": SimulatorEntry(
        "simulators.robosuite_adapter:RobosuiteSimulator",
        install="pip install -e '.[robosuite]' in the folder of this project",
        suite="robosuite",
    ),
    "libero": SimulatorEntry(
        "simulators.libero_adapter:LiberoSimulator",
        install="pip install -e '.[libero]' in the folder of this project",
        suite="libero_object",
        num_init_states=50,
    ),
    "robocasa": SimulatorEntry(
        "simulators.robocasa_adapter:RoboCasaSimulator",
        install="make sim-robocasa builds an environment that has it; name it in `python:` (docs/simulators.md)",
        suite="robocasa",
    ),
}


def entry(name: str) -> SimulatorEntry:
    """The simulator called `name`, or the adapter given as `package.module:Class`.

    Raises:
        SimulatorError: If there is no such simulator; lists those there are.
    """
    if name in SIMULATORS:
        return SIMULATORS[name]
    if ":" in name:
        return SimulatorEntry(adapter=name, suite=name.rpartition(":")[2])
    raise SimulatorError(
        f"unknown simulator {name!r}; there are {sorted(SIMULATORS)}, or your own adapter as 'package.module:Class'."
    )


def load_adapter(name: str) -> type[Simulator]:
    """Import the adapter class; called inside workers.

    Raises:
        SimulatorError: If the module or class does not exist.
    """
    module_name, _, class_name = entry(name).adapter.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SimulatorError(f"simulator {name!r}: cannot import {module_name} ({error}).") from error
    if not hasattr(module, class_name):
        raise SimulatorError(f"simulator {name!r}: {module_name} has no class {class_name!r}.")
    adapter: type[Simulator] = getattr(module, class_name)
    return adapter
