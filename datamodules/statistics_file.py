"""Action statistics are computed once and kept in a small JSON file beside the demos.

The file names what it was computed from (every file with its size and modification time, its demos in use, the
dimensions and the method), so an appended, replaced or edited demo file makes it stale and it is computed again.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.demos import DemoEntry
from datamodules.statistics import ActionStatistics, ConstantActions, StatisticsMethod
from files.errors import UserError
from files.hashes import json_sha256
from files.writing import write_json

log = logging.getLogger(__name__)


def load_or_compute(
    files: Sequence[Path],
    dims: Sequence[int],
    method: StatisticsMethod,
    constant: ConstantActions,
    compute: Callable[[], ActionStatistics],
    demos: Sequence[DemoEntry] = (),
    find_odd: Callable[[], list[str]] = list,
) -> ActionStatistics:
    """Return the stored statistics of these files, or compute and store them.

    They are stored in the folder that the files share, or under ``$XDG_CACHE_HOME/videopolicy`` (default
    ``~/.cache``) if that folder cannot be written; where neither can be, the run keeps them. Several processes may do
    this at the same time. What ``find_odd`` tells of these demos' actions is stored beside, and warned of each time.
    """
    source = _describe(files, dims, method, constant, demos)
    candidates = [folder / _file_name(source) for folder in _folders(files)]
    content = next((stored for path in candidates if (stored := _load(path, source)) is not None), None)
    if content is None:
        content = {"source": source, "statistics": compute().to_dict(), "odd": find_odd()}
        for path in candidates:
            with suppress(UserError):  # that folder cannot be written: the next one, or none
                write_json(path, content)
                break
        else:
            log.warning("action statistics of %s could not be stored; they are computed again in every run", files[0])
    for sentence in content["odd"]:
        warnings.warn(sentence, stacklevel=2)
    return ActionStatistics.from_dict(content["statistics"])


def _folders(files: Sequence[Path]) -> list[Path]:
    folders = [_common_folder(files)]
    with suppress(RuntimeError):  # a container's unknown user has no home
        folders.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "videopolicy")
    return folders


def _common_folder(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.resolve().parent for path in files]))


def _describe(
    files: Sequence[Path],
    dims: Sequence[int],
    method: StatisticsMethod,
    constant: ConstantActions,
    demos: Sequence[DemoEntry],
) -> dict[str, Any]:
    folder = _common_folder(files)
    used: dict[str, list[str]] = {}
    for demo in demos:
        used.setdefault(demo.path, []).append(demo.name)
    used_by_file = {Path(path).resolve(): names for path, names in used.items()}
    described = []
    for path in sorted(path.resolve() for path in files):
        status = path.stat()
        name = path.relative_to(folder).as_posix()
        described.append(
            {
                "name": name,
                "size": status.st_size,
                "mtime_ns": status.st_mtime_ns,
                "demos": used_by_file.get(path, []),
            }
        )
    return {"files": described, "action_dims": list(dims), "method": method, "constant": constant}


def _file_name(source: dict[str, Any]) -> str:
    """One name per set of files and settings, whatever the files' contents and wherever the folder lies."""
    names = [[file["name"], file["demos"]] for file in source["files"]]
    key = json_sha256([names, source["action_dims"], source["method"], source["constant"]], 12)
    return f"action_statistics-{key}.json"


def _load(path: Path, source: dict[str, Any]) -> dict[str, Any] | None:
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s: unreadable action statistics (%s); computing them again", path, error)
        return None
    return stored if isinstance(stored, dict) and stored.get("source") == source else None
