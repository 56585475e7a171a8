"""Open HDF5 files for reading, read their attributes, and say truly why one cannot be read."""

from __future__ import annotations

import errno
import fcntl
import importlib
import importlib.util
import json
import os
import resource
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from files.errors import UserError

if importlib.util.find_spec("hdf5plugin") is not None:
    importlib.import_module("hdf5plugin")  # importing it is what registers its filters

READ_ERRORS = (
    OSError,
    KeyError,
    RuntimeError,
    ValueError,
    TypeError,
)  # all that h5py raises for a file that is not whole
MAX_OPEN_FILES = 256  # in a process, or a quarter of the handles that the system grants it if that is less
_NO_LOCK = "unable to lock file"  # in the message of HDF5, whatever the path is
_BUSY = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_FILTER_NAMES = {
    305: "lzo",
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32015: "zstd",
    32026: "blosc2",
}
_NOT_HDF5 = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"PK", "a zip archive; unpack it and name the HDF5 file inside"),
    (b"\x1f\x8b", "gzip-compressed; unpack it with gunzip"),
    (b"<", "a web page or XML, so the download failed; download the file again"),
)  # fmt: skip


def open_demo_file(path: str | Path) -> h5py.File:
    """Open for reading; without locks where the file system has none.

    Raises:
        UserError: The file cannot be opened, or holds no group ``data``; says which and why.
    """
    refuse_journal(Path(path))
    try:
        file = _open(path)
        data = file.get("data")
    except READ_ERRORS as error:
        raise UserError(f"{path}: {why_not_opened(path, error)}") from None
    if not isinstance(data, h5py.Group):
        found = sorted(file)
        file.close()
        raise UserError(
            f"{path}: no group 'data', only {found}; expected the robosuite/robomimic, RoboCasa or LIBERO layout."
        )
    return file


def refuse_journal(path: Path) -> None:
    """Refuse a file that an earlier version was killed in the middle of changing.

    Raises:
        UserError: Its changes wait beside it.
    """
    if (journal := path.with_name(f"{path.name}.journal")).exists():
        raise UserError(
            f"{path}: an earlier version was killed while it changed this file, and {journal.name} beside it holds the "
            "rest; open it once with that version, or collect the demos anew."
        )


@contextmanager
def demo_file(path: str | Path) -> Iterator[h5py.File]:
    """A file that is open while it is looked at.

    Raises:
        UserError: It cannot be opened, or is damaged where it is read.
    """
    try:
        with open_demo_file(path) as file:
            yield file
    except UserError:
        raise
    except READ_ERRORS as error:
        raise UserError(f"{path}: {damaged(error)}") from error


def damaged(error: BaseException) -> str:
    """One sentence: that an open file could not be read, and what to do."""
    return f"damaged ({one_line(error)}); restore it from where it came from."


def _open(path: str | Path) -> h5py.File:
    # asked beforehand: after an open that failed for want of locks HDF5 refuses another without them
    return h5py.File(path, "r") if _has_locks(path) else h5py.File(path, "r", locking=False)


def _has_locks(path: str | Path) -> bool:
    try:
        with open(path, "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    return True


def why_not_opened(path: str | Path, error: BaseException) -> str:
    """One sentence: why a file did not open, and what to do."""
    path, code = Path(path), getattr(error, "errno", None)
    if path.is_symlink() and not path.exists():
        return f"a link to {os.readlink(path)}, which is not there; mend the link or correct data.init_args.paths."
    if not path.exists():
        return "no such file; check data.init_args.paths."
    if path.is_dir():
        return "a folder, not a file; name the HDF5 files in it, or give it to data.init_args.paths as a folder."
    if code in (errno.EMFILE, errno.ENFILE):
        return "too many files are open in this process or machine; raise the limit with `ulimit -n`."
    if isinstance(error, PermissionError) and _NO_LOCK not in str(error):
        return "you may not read this file; change its permissions."
    if code in _BUSY and _NO_LOCK in str(error):
        return "another process is writing this file; wait until it is done."
    if _NO_LOCK in str(error):
        return (
            f"the file system refuses locks ({one_line(error)}); set the environment variable "
            "HDF5_USE_FILE_LOCKING=FALSE to read without them."
        )
    if code in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN):
        return f"the disk or the network failed ({os.strerror(code)}); check the mount and try again."
    return _why_no_hdf5(path, error)


def _why_no_hdf5(path: Path, error: BaseException) -> str:
    if path.stat().st_size == 0:
        return "an empty file (0 bytes), so a copy or download never began; get it again."
    text = one_line(error)
    if "file consistency flags" in text or "file is already open for" in text:
        return (
            "its writer still has it open, or was killed before it closed the file; if nothing writes to it any more, "
            "run `h5clear -s FILE` (of the HDF5 tools) on it."
        )
    if "truncated file" in text:
        return f"truncated ({text}); download or collect it again."
    start = _first_bytes(path)
    for magic, what in _NOT_HDF5:
        if start.startswith(magic):
            return f"not an HDF5 file but {what}."
    if not h5py.is_hdf5(path):
        return f"not an HDF5 file (it begins with {start[:8]!r}); name HDF5 files of demos."
    return damaged(error)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def why_not_read(group: h5py.Group, key: str, error: BaseException) -> str:
    """One clause: why a dataset of an open file cannot be read, and what to do."""
    try:
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink) and not _resolves(group, key):
            return (
                f"{key} is a link to {link.path} in {link.filename}, which cannot be opened; put that file in its place"
            )
        if isinstance(link, h5py.SoftLink) and not _resolves(group, key):
            return f"{key} is a link to {link.path}, which is not there; write the data or remove the link"
        if isinstance(group[key], h5py.Group):
            return f"{key} is a group where a dataset is expected; store the data under this key or remove the group"
        if missing := missing_filters(group[key]):
            return (
                f"{key} is compressed with {missing}, which is not installed here; `pip install hdf5plugin` brings the "
                "usual filters"
            )
    except READ_ERRORS:
        pass  # the message of the first error says more
    if getattr(error, "errno", None) in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN):
        return f"the disk or the network failed while {key} was read ({one_line(error)}); check the mount and try again"
    return f"{key}: {one_line(error)}; the file is damaged there, so restore it or leave this demo out"


def missing_filters(data: Any) -> str:  # noqa: ANN401 - h5py is untyped
    """The compression filters of a dataset that are not installed, e.g. "filter 32001 (blosc)"; empty if none."""
    if not isinstance(data, h5py.Dataset) or data.chunks is None:
        return ""
    plist = data.id.get_create_plist()
    numbers = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    absent = [number for number in numbers if not h5py.h5z.filter_avail(number)]
    return ", ".join(f"filter {n}" + (f" ({_FILTER_NAMES[n]})" if n in _FILTER_NAMES else "") for n in absent)


def _resolves(group: h5py.Group, key: str) -> bool:
    try:
        group[key]
    except READ_ERRORS:
        return False
    return True


def one_line(error: BaseException) -> str:
    """An exception's message without line breaks, and without the quotes of a KeyError."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split())


def read_json_attribute(group: h5py.Group, name: str) -> dict[str, Any]:
    """A JSON object kept as an attribute; empty if there is none.

    Raises:
        UserError: The attribute is there but is not a JSON object.
    """
    if name not in group.attrs:
        return {}
    try:
        value = json.loads(text_of(group.attrs[name]))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        where = f"{group.file.filename} {group.name}"
        raise UserError(f"{where}: attribute {name!r} is not a JSON object; write it again.")
    return value


def text_of(value: Any) -> str:  # noqa: ANN401 - whatever h5py makes of an attribute
    """A text that may come as bytes, or as an array of one element."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else value.tolist()
    if isinstance(value, h5py.Empty):
        return ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def words_of(value: Any) -> str:  # noqa: ANN401
    """An instruction as one line: a text, or a list of its words, or of its letters."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        parts = [text_of(part) for part in value]
        value = ("" if all(len(part) <= 1 for part in parts) else " ").join(parts)
    return " ".join(text_of(value).split()).strip('"').strip()


def max_open_files() -> int:
    """How many files to hold open; beside them a process needs handles for its workers, logs and libraries."""
    granted = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_OPEN_FILES if granted == resource.RLIM_INFINITY else max(1, min(MAX_OPEN_FILES, granted // 4))


class OpenFiles:
    """Files that this process has open; the least lately used is closed where there would be too many.

    HDF5 handles survive neither pickling nor a fork, so neither carries them over.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._open: OrderedDict[str, h5py.File] = OrderedDict()

    def group(self, path: str, name: str) -> h5py.Group:
        """The group of a demo."""
        if self._pid != os.getpid():
            self._pid, self._open = os.getpid(), OrderedDict()
        if path not in self._open:
            while len(self._open) >= max_open_files():
                self._open.popitem(last=False)[1].close()
            self._open[path] = open_demo_file(path)
        self._open.move_to_end(path)
        try:
            return self._open[path]["data"][name]
        except READ_ERRORS as error:
            raise UserError(f"{path} {name}: {why_not_read(self._open[path]['data'], name, error)}.") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"_pid": self._pid, "_open": OrderedDict()}
