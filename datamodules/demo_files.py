"""Find the demo files that paths, patterns and folders name."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py

from files.errors import UserError

HDF5_SUFFIXES = (".hdf5", ".h5")
PARTS = ".parts"  # of the folder beside a file that is being collected; its demos are not yet in the file


def find_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Resolve files, globs (``**`` too) and folders (searched recursively) to a list without repeats.

    A path that is there is taken as it stands, whatever characters it holds. Hidden files are skipped, and patterns and
    folders give HDF5 files only. One file under two names (a link, a relative and an absolute path) is one file.

    Raises:
        UserError: A path matches nothing.
    """
    found: dict[tuple[int, int], Path] = {}
    for text in [paths] if isinstance(paths, str | Path) else paths:
        for path in _matches(str(text)):
            status = path.stat() if path.exists() else path.lstat()
            found.setdefault((status.st_dev, status.st_ino), path)
    if not found:
        raise UserError("paths is empty; name at least one HDF5 file, glob or folder in data.init_args.paths.")
    return list(found.values())


def _matches(text: str) -> list[Path]:
    path = _expanded(text)
    if path.is_dir():
        found = sorted(_files_below(path))
        problem = f"{text}: the folder holds no {' or '.join(HDF5_SUFFIXES)} file"
    elif glob.has_magic(text) and not os.path.lexists(path):
        matched = [Path(name) for name in sorted(glob.glob(_pattern(path), recursive=True))]
        found = [file for match in matched for file in _files_of(match)]
        problem = f"{text}: no file matches this pattern"
        if matched:
            problem = f"{text}: this pattern matches no HDF5 file, only {[file.name for file in matched[:3]]}"
        elif "[" in text:
            problem += " ([...] stands for one of these characters; write [[] for a bracket that is meant)"
    else:
        found = [path] if os.path.lexists(path) else []
        problem = f"{text}: no such file"
    if not found:
        raise UserError(f"{problem}; correct data.init_args.paths, or collect demos with `videopolicy collect`.")
    return found


def _expanded(text: str) -> Path:
    if not text.startswith("~") or os.path.lexists(text):
        return Path(text)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: there is no home directory here (HOME is not set); write the whole path.") from None


def _files_of(match: Path) -> list[Path]:
    """What a pattern's match stands for: the files below a folder, or itself if it is HDF5 or should be."""
    if match.is_dir():
        return sorted(_files_below(match))
    return [match] if _has_suffix(match.name) or h5py.is_hdf5(match) else []


def _files_below(folder: Path) -> Iterator[Path]:
    """HDF5 files of a folder and those below it, links followed, hidden ones and parts of others skipped."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(PARTS)]
        folders[:] = [] if (real := os.path.realpath(root)) in seen else folders
        if real not in seen:
            seen.add(real)
            yield from (Path(root, n) for n in files if not n.startswith(".") and _has_suffix(n))


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: the folder cannot be read ({error.strerror}); change its permissions.")


def _pattern(path: Path) -> str:
    """The path as a pattern; leading parts that are there as they stand, such as a folder ``[old]``, are no pattern."""
    literal = Path(path.anchor)
    parts = list(path.parts[1:] if path.anchor else path.parts)
    while parts and os.path.lexists(literal / parts[0]):
        literal /= parts.pop(0)
    return str(Path(glob.escape(str(literal)), *parts))


def _has_suffix(name: str) -> bool:
    return Path(name).suffix.lower() in HDF5_SUFFIXES
