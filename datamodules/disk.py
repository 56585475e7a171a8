"""Files that are whole or not there, and room for large ones."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from datamodules.errors import DatasetError


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - any JSON value
    """Replace a JSON file in one step that also survives a power cut.

    Raises:
        DatasetError: The disk is full or the folder not writable; the file that was there is untouched.
    """
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def replace_file(path: Path, content: bytes) -> None:
    """As `write_json`, for bytes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)  # mkstemp makes it private; others who share the data may read it
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise not_written(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def not_written(path: Path, error: OSError) -> DatasetError:
    """What to raise where a file could not be written."""
    return DatasetError(
        f"{path}: could not be written ({error.strerror or error}); free some space or make the folder writable, and "
        "start the same command again, or choose another folder."
    )


def require_room(folder: Path, num_bytes: int, reused: int = 0) -> None:
    """Fail before hours of work, not after.

    Args:
        folder: Where the files will be; need not exist yet.
        num_bytes: What they will take.
        reused: Bytes of files there that they replace.

    Raises:
        DatasetError: The disk is too full.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free + reused
    if free < num_bytes:
        raise DatasetError(
            f"{folder}: {num_bytes / 1e9:,.1f} GB ({num_bytes} bytes) are needed and {free / 1e9:,.1f} GB "
            f"({free} bytes) are free; free some space or choose a folder on another disk."
        )
