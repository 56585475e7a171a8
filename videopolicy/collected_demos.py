"""A demo file of `videopolicy collect`: how its demos were made, so that no others join them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datamodules import RobomimicWriter
from files.differences import flatten
from files.errors import UserError
from files.hashes import json_sha256


@contextmanager
def open_demos(path: Path, env_name: str, recorded: Mapping[str, Any]) -> Iterator[RobomimicWriter]:
    """The demo file, new or to go on with.

    Args:
        path: The file.
        env_name: Its task or suite.
        recorded: How its demos are made: ``simulator``, ``expert`` and ``versions``.

    Raises:
        UserError: The file is none of ours, or its demos were made in another way; it is left as it is.
    """
    with RobomimicWriter(path, env_name, recorded) as writer:
        require_same_settings(path, writer.env_kwargs, recorded)
        yield writer


_FREE = ("simulator.tasks", "simulator.python", "simulator.gl")
"""Settings that may differ between the demos of a file; what `python` leads to stands in the versions."""


def require_same_settings(path: Path, there: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """Refuse to mix demos that were made in different ways, naming what differs.

    Raises:
        UserError: They were, or `videopolicy collect` did not make the file.
    """
    if "simulator" not in there or "expert" not in there:
        raise UserError(f"{path}: its demos were not made by `videopolicy collect`; choose another output.")
    known = {  # a file may be older than a setting
        part: {key: value for key, value in settings.items() if key in there[part] or part == "versions"}
        for part, settings in recorded.items()
        if part in there
    }
    old, new = flatten(there), flatten(known)
    unequal = [key for key in sorted(old | new) if old.get(key) != new.get(key) and key not in _FREE]
    if unequal:
        listed = "; ".join(f"{key} {old.get(key)!r}, not {new.get(key)!r}" for key in unequal)
        raise UserError(f"{path}: its demos were collected with {listed}; use the same options or another output.")


def settings_mark(recorded: Mapping[str, Any]) -> str:
    """Of the settings that a failed episode failed under; with others it is tried again."""
    kept = {key: value for key, value in flatten(recorded).items() if key not in _FREE}
    return json_sha256(kept, 16)
