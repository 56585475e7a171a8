"""Sentences for simulators that are not there, or not as asked for; used by adapters inside their worker.

A worker may run another interpreter than the caller: what is installed is asked where it counts, and every message
names that interpreter. Missing OpenGL is found by `rendering.py`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Collection
from types import ModuleType
from typing import Any

from simulators.catalogue import SIMULATORS
from simulators.errors import SimulatorError


def import_simulator(module: str, simulator: str) -> ModuleType:
    """Import a simulator's package in this worker.

    Args:
        module: The module, for instance `libero.libero`.
        simulator: Its name in the registry, which knows what to install.

    Raises:
        SimulatorError: If it is missing or does not import.
    """
    require_installed(module.partition(".")[0], simulator)
    try:
        return importlib.import_module(module)
    except Exception as error:  # version asserts, missing assets: each package fails in its own way
        raise SimulatorError(
            f"simulator {simulator!r}: {module} is installed in {sys.executable} but does not import "
            f"({type(error).__name__}: {error}); see docs/simulators.md for the versions that work."
        ) from error


def require_installed(package: str, simulator: str, advice: str | None = None) -> None:
    """Look for a package without importing it.

    Args:
        package: Top-level module.
        simulator: Its name in the registry, which knows what to install.
        advice: What to do instead, as the end of a sentence.

    Raises:
        SimulatorError: If this interpreter has no such package; says what to install.
    """
    if importlib.util.find_spec(package) is None:
        raise SimulatorError(
            f"simulator {simulator!r}: {package} is not installed in {sys.executable}; "
            f"{advice or SIMULATORS[simulator].install}."
        )


def require_known(kind: str, found: str, allowed: Collection[str], simulator: str) -> None:
    """Fail on a name that is not there, with the nearest right one.

    Args:
        kind: What it names: `suite`, `task`.
        found: What the config says.
        allowed: What there is.
        simulator: Name for the message.

    Raises:
        SimulatorError: If `found` is not among `allowed`.
    """
    if found not in allowed:
        near = difflib.get_close_matches(found, allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SimulatorError(f"{simulator} has no {kind} {found!r}; there are {sorted(allowed)}.{hint}")


def read_options(simulator: str, options: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`defaults` with `options` on top.

    Raises:
        SimulatorError: If an option is misspelt or of another type than its default (None takes a string).
    """
    if unknown := sorted(set(options) - set(defaults)):
        raise SimulatorError(f"{simulator} has no option {unknown}; allowed are {sorted(defaults)}.")
    for name, value in options.items():
        kind = str if defaults[name] is None else type(defaults[name])
        if not isinstance(value, kind) and not (value is None and defaults[name] is None):
            raise SimulatorError(f"{simulator}: option {name} is {value!r}; it must be a {kind.__name__}.")
    return {**defaults, **options}
