"""Action statistics are computed once and kept in a small JSON file beside the demos.

The file names what it was computed from (every file with its size and modification time, the dimensions and the
method), so an appended, replaced or edited demo file makes it stale and it is computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datamodules.statistics import ActionStatistics, ConstantActions, StatisticsMethod

log = logging.getLogger(__name__)


def load_or_compute(
    files: Sequence[Path],
    dims: Sequence[int],
    method: StatisticsMethod,
    constant: ConstantActions,
    compute: Callable[[], ActionStatistics],
) -> ActionStatistics:
    """Return the stored statistics of these files, or compute and store them.

    They are stored in the folder that the files share, or under ``$XDG_CACHE_HOME/videopolicy`` (default
    ``~/.cache``) if that folder cannot be written. Several processes may do this at the same time.
    """
    source = _describe(files, dims, method, constant)
    candidates = [folder / _file_name(source) for folder in _folders(files)]
    for path in candidates:
        if (stored := _load(path, source)) is not None:
            return stored
    statistics = compute()
    for path in candidates:
        try:
            _write(path, {"source": source, "statistics": statistics.to_dict()})
        except OSError as error:
            log.info("%s: action statistics not stored here (%s)", path, error)
        else:
            return statistics
    log.warning("action statistics of %s could not be stored; they are computed again in every run", files[0])
    return statistics


def _folders(files: Sequence[Path]) -> list[Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [_common_folder(files), cache / "videopolicy"]


def _common_folder(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.resolve().parent for path in files]))


def _describe(
    files: Sequence[Path], dims: Sequence[int], method: StatisticsMethod, constant: ConstantActions
) -> dict[str, Any]:
    folder = _common_folder(files)
    described = []
    for path in sorted(path.resolve() for path in files):
        status = path.stat()
        name = path.relative_to(folder).as_posix()
        described.append({"name": name, "size": status.st_size, "mtime_ns": status.st_mtime_ns})
    return {"files": described, "action_dims": list(dims), "method": method, "constant": constant}


def _file_name(source: dict[str, Any]) -> str:
    """One name per set of files and settings, whatever the files' contents and wherever the folder lies."""
    names = [file["name"] for file in source["files"]]
    key = json.dumps([names, source["action_dims"], source["method"], source["constant"]])
    return f"action_statistics-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"


def _load(path: Path, source: dict[str, Any]) -> ActionStatistics | None:
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s: unreadable action statistics (%s); computing them again", path, error)
        return None
    if not isinstance(stored, dict) or stored.get("source") != source:
        return None
    return ActionStatistics.from_dict(stored["statistics"])


def _write(path: Path, content: dict[str, Any]) -> None:
    """Replace the file in one step, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(content, file, indent=1)
        Path(temporary).chmod(0o644)  # mkstemp makes it private; other users of the data may read it
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
