"""One process at a time in a folder: a lock that the kernel gives back however its holder ends."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path
from typing import IO

LOCK = ".lock"


class HeldError(Exception):
    """Another process has the lock; ``holder`` names it."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


def hold_folder(folder: Path) -> IO[str]:
    """Take a folder's lock, until the stream that comes back is closed.

    A file system without locks (some network file systems) is warned of and gone on with: refusing would help nobody.
    filelock, which would otherwise serve, takes such a file system for one whose lock is held.

    Args:
        folder: A folder that is there.

    Raises:
        HeldError: Another process holds it.
        OSError: The folder cannot be written.
    """
    stream = (folder / LOCK).open("a+")
    try:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            stream.seek(0)
            number = stream.read().strip()
            stream.close()
            raise HeldError(f"process {number}" if number else "another process") from error
        print(
            f"warning: {folder}: this file system has no locks ({error.strerror}); write to it from one process only",
            file=sys.stderr,
        )
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream
