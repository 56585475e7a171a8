"""The simulators: adapter, what to install, suites, and where an installation may be.

What is installed is read from metadata; no simulator is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from simulators.errors import SimulatorError


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
    "metaworld": SimulatorEntry(
        "simulators.metaworld_adapter:MetaworldSimulator",
        install="make sim-metaworld builds an environment that has it; name it in `python:` (docs/simulators.md)",
        suite="mt50",
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


HERE = "this Python"
"""What a table says for the interpreter that runs us."""
TABLE_CAMERAS = ("agentview", "robot0_eye_in_hand")
KITCHEN_CAMERAS = ("robot0_agentview_left", "robot0_agentview_right", "robot0_eye_in_hand")


@dataclass(frozen=True)
class Installation:
    """One release of a simulator.

    Args:
        simulator: Its name in the registry.
        title: Name and release, for a sentence.
        suites: Suite -> number of tasks; the first is the default.
        packages: Distributions that are this simulator, whichever is there.
        release: What their version begins with, any of these.
        command: What installs it, as the command to type.
        cameras: The cameras of its published protocols.
        environment: Folder of a virtual environment of its own, or empty.
        shared: It can also live in the environment of this project.
    """

    simulator: str
    title: str
    suites: Mapping[str, int]
    packages: tuple[str, ...]
    release: tuple[str, ...]
    command: str
    cameras: tuple[str, ...]
    environment: str = ""
    shared: bool = True

    @property
    def python(self) -> str:
        """Interpreter of its own environment."""
        return f"{self.environment}/bin/python"

    def found(self) -> tuple[str, str] | None:
        """Interpreter that has it (`HERE` first) and the package's version; None if there is none."""
        places = ([HERE] if self.shared else []) + ([self.python] if self.environment else [])
        for python in places:
            versions = installed_packages(None if python == HERE else Path(self.environment))
            for package in self.packages:
                if package in versions and versions[package].startswith(self.release):
                    return python, f"{package} {versions[package]}"
        return None


LIBERO_SUITES = {"libero_object": 10, "libero_spatial": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}

INSTALLATIONS: dict[str, Installation] = {
    "robosuite": Installation(
        "robosuite",
        "robosuite 1.4",
        {"robosuite": 9},
        ("robosuite",),
        ("1.4",),
        SIMULATORS["robosuite"].install,
        TABLE_CAMERAS,
    ),
    "robosuite15": Installation(
        "robosuite",
        "robosuite 1.5",
        {"robosuite": 9},
        ("praxis-robosuite", "robosuite"),
        ("1.5",),
        "make sim-robosuite15",
        TABLE_CAMERAS,
        ".venvs/robosuite15",
    ),
    "libero": Installation(
        "libero",
        "LIBERO",
        LIBERO_SUITES,
        ("hf-libero", "libero"),
        ("",),
        f"{SIMULATORS['libero'].install}, or make sim-libero for an environment of its own",
        TABLE_CAMERAS,
        ".venvs/libero",
    ),
    "robocasa": Installation(
        "robocasa",
        "RoboCasa v0.2",
        {"robocasa": 24},
        ("robocasa",),
        ("0.2",),
        "make sim-robocasa",
        KITCHEN_CAMERAS,
        ".venvs/robocasa",
        shared=False,
    ),
    "robocasa365": Installation(
        "robocasa",
        "RoboCasa v1.0",
        {"robocasa365": 65},
        ("rpent-robocasa365", "robocasa"),
        ("1.",),
        "make sim-robocasa365",
        KITCHEN_CAMERAS,
        ".venvs/robocasa365",
        shared=False,
    ),
    "metaworld": Installation(
        "metaworld",
        "Meta-World 3",
        {"mt50": 50, "mt10": 10},
        ("metaworld",),
        ("3.",),
        "make sim-metaworld",
        ("corner4", "gripperPOV"),
        ".venvs/metaworld",
        shared=False,
    ),
}
"""Name for `videopolicy simulators check` -> installation; that of a registry entry comes first."""


def advice(interpreter: str) -> str:
    """What to do about an interpreter that cannot be started."""
    for name, installation in INSTALLATIONS.items():
        if installation.environment and installation.python == interpreter:
            return f"`make sim-{name}` makes it"
    return "set `python` to an interpreter that has the simulator, or leave it out"


def installed_packages(environment: Path | None) -> dict[str, str]:
    """Distribution -> version in a virtual environment, or in this interpreter if None."""
    path = sys.path if environment is None else [str(site) for site in environment.glob("lib*/python*/site-packages")]
    found: dict[str, str] = {}
    for distribution in distributions(path=path):
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(name.lower().replace("_", "-"), distribution.version or "")
    return found
