"""One process at a time in a folder: a lock that the kernel gives back however its holder ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"


class HeldError(Exception):
    """Another process has the lock; ``holder`` names it."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


def hold_folder(folder: Path, warn: Callable[[str], object] | None = None) -> FileLock:
    """Take a folder's lock, until what comes back is released or the process ends.

    A file system without locks (some network file systems) is warned of and gone on with: refusing would help nobody.

    Args:
        folder: A folder that is there.
        warn: Gets the warning; by default it goes to stderr.

    Raises:
        HeldError: Another process, or this one elsewhere, holds it.
        OSError: The folder cannot be written.
    """
    path = folder / LOCK
    path.touch()  # what is wrong with the folder is not taken for a want of locks
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        number = path.read_text().strip()
        raise HeldError(f"process {number}" if number else "another process") from error
    except OSError as error:
        sentence = f"{folder}: this file system has no locks ({error.strerror}); write to it from one process only"
        (warn or _to_stderr)(sentence)
    path.write_text(str(os.getpid()))
    return lock


def _to_stderr(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)
