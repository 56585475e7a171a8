"""A file whose changes reach the disk all at once or not at all, however the process dies.

HDF5 has no journal: a process killed while it writes can leave a file that nothing opens again. ``JournaledFile`` keeps
every change in memory until ``commit``, which first writes all of them to ``<path>.journal`` and only then to the file.
Killed before the journal is complete, the file is as it was; killed later, the journal is played again when the file is
next opened (``recover``).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from files.errors import UserError

log = logging.getLogger(__name__)

PAGE = 1 << 16
_MAGIC = b"VPJ1"
_HEADER = struct.Struct("<4sQQQ")  # magic, bytes of the old file that stay, size of the new one, number of pages
_INDEX = struct.Struct("<Q")


def journal_path(path: Path) -> Path:
    """Where the changes to a file wait."""
    return path.with_name(f"{path.name}.journal")


def recover(path: Path) -> None:
    """Finish the last commit of a process that was killed in it; does nothing if there is none.

    Raises:
        UserError: The file is being written by another process, or cannot be repaired here.
    """
    if not journal_path(path).exists():
        return
    try:
        with path.open("r+b") as file:
            _lock(file, path)
            _play(path, file)
    except OSError as error:
        raise UserError(
            f"{path}: an interrupted write must be finished first but the file cannot be written ({error.strerror}); "
            "open it once where it can be."
        ) from None


class JournaledFile(io.RawIOBase):
    """A binary file, opened for reading and writing by one process at a time, that changes only in ``commit``."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            _lock(self._file, path)
            if journal_path(path).exists():
                _play(path, self._file)
        except BaseException:
            self._file.close()
            raise
        self._size = self._kept = os.fstat(self._file.fileno()).st_size
        self._position = 0
        self._pages: dict[int, bytearray] = {}

    def readable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """The current byte."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read what the file would hold after a commit."""
        count = min(len(buffer), max(0, self._size - self._position))
        done = 0
        for index, start, stop in self._spans(count):
            page = self._pages.get(index)
            content = self._page_on_disk(index) if page is None else page
            buffer[done : done + stop - start] = content[start:stop]
            done += stop - start
        self._position += count
        return count

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        """Change bytes in memory."""
        content = memoryview(data).cast("B")
        done = 0
        for index, start, stop in self._spans(len(content)):
            if index not in self._pages:
                self._pages[index] = bytearray(self._page_on_disk(index))
            self._pages[index][start:stop] = content[done : done + stop - start]
            done += stop - start
        self._position += done
        self._size = max(self._size, self._position)
        return done

    def truncate(self, size: int | None = None) -> int:
        """Change the length in memory; what a later extension uncovers is zero."""
        self._size = self._position if size is None else size
        self._kept = min(self._kept, self._size)
        last, used = divmod(self._size, PAGE)
        self._pages = {index: page for index, page in self._pages.items() if index <= last}
        if last in self._pages:
            self._pages[last][used:] = bytes(PAGE - used)
        return self._size

    def commit(self) -> None:
        """Bring all changes to the disk in one step.

        Raises:
            OSError: They cannot be written, for example for want of space; the file is then unchanged.
        """
        journal = journal_path(self.path)
        temporary = journal.with_name(f"{journal.name}.tmp")
        try:
            _write_journal(temporary, self._kept, self._size, self._pages)
            temporary.replace(journal)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _play(self.path, self._file)
        self._kept = self._size
        self._pages = {}

    def close(self) -> None:
        """Close and unlock; changes since the last commit are lost."""
        if not self.closed:
            self._file.close()
        super().close()

    def _spans(self, count: int) -> Iterator[tuple[int, int, int]]:
        """Split the next bytes into (page, start in page, end in page)."""
        position, end = self._position, self._position + count
        while position < end:
            index, start = divmod(position, PAGE)
            stop = min(PAGE, start + end - position)
            yield index, start, stop
            position += stop - start

    def _page_on_disk(self, index: int) -> bytes:
        start = index * PAGE
        wanted = max(0, min(PAGE, self._kept - start))
        return os.pread(self._file.fileno(), wanted, start).ljust(PAGE, b"\0")


def _write_journal(path: Path, kept: int, size: int, pages: dict[int, bytearray]) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in _blocks(kept, size, pages):
            file.write(block)
            digest.update(block)
        file.write(digest.digest())
        file.flush()
        os.fsync(file.fileno())


def _blocks(kept: int, size: int, pages: dict[int, bytearray]) -> Iterator[bytes]:
    yield _HEADER.pack(_MAGIC, kept, size, len(pages))
    for index, page in sorted(pages.items()):
        yield _INDEX.pack(index)
        yield bytes(page)


def _play(path: Path, file: BinaryIO | io.FileIO) -> None:
    """Apply the journal to the file and remove it; doing so twice does no harm."""
    journal = journal_path(path)
    content = journal.read_bytes()
    body, digest = memoryview(content)[:-32], content[-32:]
    magic, kept, size, count = _HEADER.unpack_from(body) if len(body) >= _HEADER.size else (b"", 0, 0, 0)
    if magic != _MAGIC or hashlib.sha256(body).digest() != digest:
        raise UserError(f"{journal}: not a journal of {path.name}; move it away to use the file as it is.")
    position = _HEADER.size
    os.ftruncate(file.fileno(), min(kept, os.fstat(file.fileno()).st_size))  # so that what is not written is zero
    for _ in range(count):
        (index,) = _INDEX.unpack_from(body, position)
        position += _INDEX.size
        _write_all(file.fileno(), body[position : position + PAGE], index * PAGE)
        position += PAGE
    os.ftruncate(file.fileno(), size)
    os.fsync(file.fileno())
    journal.unlink()


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while len(data):
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _lock(file: BinaryIO | io.FileIO, path: Path) -> None:
    """Take the lock that HDF5 respects too, until the file is closed."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise UserError(f"{path}: another process is using this file; wait until it is done.") from None
        log.warning("%s: this file system has no locks (%s); write to it from one process only", path, error)
