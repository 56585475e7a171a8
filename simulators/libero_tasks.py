"""LIBERO's tasks and recorded initial states, read from its files: its own benchmark module would import torch."""

from __future__ import annotations

import io
import pickle
import re
import runpy
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulators.errors import SimulatorError
from simulators.libero_assets import package_folder
from simulators.messages import Array

STEP_LIMITS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Suite -> published step limit (OpenVLA's evaluation): the longest human demo of the suite, rounded up."""


@dataclass(frozen=True)
class LiberoTask:
    """One task of a suite, in the order of LIBERO's benchmark.

    Args:
        name: Name of its files, for instance `pick_up_the_milk_and_place_it_in_the_basket`.
        problem_folder: Folder of its files, the suite's name.
    """

    name: str
    problem_folder: str

    @property
    def language(self) -> str:
        """The words of the name; those of libero_10 and libero_90 begin after the scene."""
        return re.sub(r"^[A-Z_0-9]*SCENE\d+_", "", self.name).replace("_", " ")

    @property
    def bddl_file(self) -> str:
        """File of the goal and the places."""
        return f"{self.name}.bddl"

    @property
    def init_states_file(self) -> str:
        """File of the recorded initial states."""
        return f"{self.name}.pruned_init"


def suite_tasks(suite: str) -> list[LiberoTask]:
    """The tasks of a suite, 10 or, in libero_90, 90."""
    names = runpy.run_path(str(package_folder() / "benchmark" / "libero_suite_task_map.py"))["libero_task_map"]
    return [LiberoTask(name, suite) for name in names[suite]]


def bddl_language(path: Path) -> str:
    """The words of a task file, in small letters as LIBERO reads them; the official demos store these.

    Raises:
        SimulatorError: The file is missing, or holds no words.
    """
    try:
        words = re.search(r"\(:language\s([^)]*)\)", re.sub(r";.*", "", path.read_text()).lower())
    except OSError as error:
        raise SimulatorError(f"{path}: cannot be read ({error.strerror}); reinstall LIBERO.") from error
    if words is None:
        raise SimulatorError(f"{path}: has no (:language ...); reinstall LIBERO.")
    return " ".join(words[1].split())


def load_init_states(path: Path) -> Array:
    """The recorded initial states (N, S) float64 of one task, from the torch file that LIBERO ships.

    Such a file is a zip archive with one pickle; here it holds a numpy array and no tensor, so numpy can read it. What
    else a pickle could name is refused.

    Raises:
        SimulatorError: The file is missing, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            states = _ArrayUnpickler(io.BytesIO(archive.read(name)), encoding="latin1").load()
        return np.asarray(states, dtype=np.float64)
    except (OSError, StopIteration, zipfile.BadZipFile, pickle.UnpicklingError, ValueError) as error:
        raise SimulatorError(
            f"{path}: not LIBERO's recorded initial states ({error}); reinstall LIBERO (docs/simulators.md)."
        ) from error


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays and nothing else."""

    allowed = frozenset({("multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - whatever the pickle names
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        if (module.rpartition(".")[2], name) not in self.allowed or module.partition(".")[0] != "numpy":
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _reconstruct if name == "_reconstruct" else getattr(np, name)


def _reconstruct(subtype: type[Array], shape: tuple[int, ...], dtype: bytes) -> Array:
    """An empty array that the pickle then fills; numpy 1 and 2 keep their own in different modules."""
    return np.ndarray.__new__(subtype, shape, dtype.decode())
