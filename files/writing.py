"""Files that are whole or not there, and room for large ones."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from files.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file to; when the block ends well, that file takes the place of ``path`` in one step.

    The content is on the disk before its name is, so a kill, a full disk or a power cut leaves the file that was there.

    Raises:
        UserError: The disk is full or the folder not writable.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)  # makes the new name survive a power cut too
    except OSError as error:
        kept = "what was there before is whole" if path.exists() else "nothing was left behind"
        raise not_written(path, error, f"{kept}; ") from error
    finally:
        if temporary.is_file():
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - any JSON value
    """Replace a JSON file in one step; see `replacing`."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def not_written(path: Path, error: OSError, kept: str = "") -> UserError:
    """What to raise where a file could not be written."""
    return UserError(
        f"{path}: could not be written ({error.strerror or error}); {kept}free some space or make the folder writable, "
        "and start the same command again, or choose another folder."
    )


def require_room(folder: Path, num_bytes: int, reused: int = 0) -> None:
    """Fail before hours of work, not after.

    Args:
        folder: Where the files will be; need not exist yet.
        num_bytes: What they will take.
        reused: Bytes of files there that they replace.

    Raises:
        UserError: The disk is too full.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free + reused
    if free < num_bytes:
        raise UserError(
            f"{folder}: {num_bytes / 1e9:,.1f} GB ({num_bytes} bytes) are needed and {free / 1e9:,.1f} GB "
            f"({free} bytes) are free; free some space or choose a folder on another disk."
        )


def sync(path: Path) -> None:
    """Have the content of a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
