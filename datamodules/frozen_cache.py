"""What frozen networks say of demos, computed once and kept: latents (`videopolicy cache`) and features (FeatureCache).

A folder holds ``key.json``, all that its numbers depend on besides the demo files, and a shard for every demo file:

- ``<name>.npy``: float16, a row for every step of the file's demos laid end to end;
- ``shard.json``: the file as it was, the names of the arrays, and the row of every demo's first step;
- ``done.json``: the demos that are complete, each whole on the disk before it counts.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from datamodules.demos import DemoEntry
from files.differences import differing_keys
from files.errors import UserError
from files.hashes import file_identity, json_sha256
from files.locks import HeldError, hold_folder
from files.writing import not_written, require_room, write_json

FORMAT = 3
KEY, SHARD, DONE = "key.json", "shard.json", "done.json"
_FORMAT_2 = {"format", "cameras", "variants"}
_ARRAY = re.compile(r".+\.(moments|condition)\.npy|tap\d+\.npy")
OLD = re.compile(r"(train|val)_\d+\.npy|fingerprint\.json|instructions\.np[yz]|instructions\.json")  # earlier formats
MAX_SHARDS_OPEN = 32  # in a process; each takes a file handle for every array
WINDOWS_PER_RELEASE = 64  # then the pages read so far are given back, or a worker's memory would grow with the files

Rows = npt.NDArray[np.float16]


def read_key(folder: Path) -> dict[str, Any] | None:
    """What the numbers of a folder depend on; None if it is no cache."""
    try:
        key = json.loads((folder / KEY).read_text())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(key, dict) and any(names <= set(key) for names in ({"format", "kind"}, _FORMAT_2))
    return key if is_ours else None


class FrozenCache:
    """Read rows of a cache; arrays are mapped per process and shard.

    Args:
        folder: The cache.
        demos: Every demo that will be read.

    Attributes:
        key: All that the numbers depend on besides the demo files.

    Raises:
        UserError: No cache, or one that lacks a demo or holds an earlier state of its file.
    """

    kind: ClassVar[str] = "cache"
    remedy: ClassVar[str] = "delete the folder, and the next run fills it again"

    def __init__(self, folder: str | Path, demos: Sequence[DemoEntry]) -> None:
        self.folder = Path(folder)
        if (key := read_key(self.folder)) is None:
            raise UserError(f"{self.folder}: no {self.kind} (no {KEY} that can be read); {self.remedy}.")
        self.key: dict[str, Any] = key
        self._shards: dict[str, Path] = {}
        self._rows: dict[tuple[str, str], int] = {}  # of every demo's first step
        for (path, task), members in groupby(sorted(demos, key=_of_file), _of_file):
            self._find_shard(path, task, list(members))
        self._maps: dict[str, dict[str, Rows]] = {}
        self._pid, self._num_read = os.getpid(), 0

    def require(self, wanted: Mapping[str, Any]) -> None:
        """Refuse numbers that were made in another way.

        Raises:
            UserError: A value of the key differs.
        """
        wanted = json.loads(json.dumps(wanted))
        if wrong := differing_keys({name: self.key.get(name) for name in wanted}, wanted):
            raise UserError(f"{self.folder}: the {self.kind} was made with {'; '.join(wrong)}; {self.remedy}.")

    def arrays(self, demo: DemoEntry) -> tuple[dict[str, Rows], int]:
        """The arrays of a demo's file by name, and the row of its first step."""
        if self._pid != os.getpid():
            self._pid, self._maps = os.getpid(), {}
        if demo.path not in self._maps:
            while len(self._maps) >= MAX_SHARDS_OPEN:
                del self._maps[next(iter(self._maps))]  # the one that was opened first
            self._maps[demo.path] = self._open(self._shards[demo.path])
        self._num_read += 1
        if self._num_read % WINDOWS_PER_RELEASE == 0:
            self._release()
        return self._maps[demo.path], self._rows[demo.path, demo.name]

    def _find_shard(self, path: str, task: str, demos: Sequence[DemoEntry]) -> None:
        folder = shard_folder(self.folder, file_identity(path, task))
        if not (folder / SHARD).exists():
            raise UserError(
                f"{path}: the {self.kind} {self.folder} holds nothing of this file as it is now (it is new, or was "
                f"changed since); {self.remedy}."
            )
        rows, done = _read_json(folder / SHARD)["rows"], set(finished(folder))
        for demo in demos:
            if demo.name not in done or demo.name not in rows:
                raise UserError(f"{demo}: not in the {self.kind} {self.folder}, which is not complete; {self.remedy}.")
            self._rows[demo.path, demo.name] = rows[demo.name]
        self._shards[path] = folder

    def _open(self, shard: Path) -> dict[str, Rows]:
        """Map the arrays, and only then look whether they are those: a run that replaces them says so beforehand."""
        maps = {}
        for name in _read_json(shard / SHARD)["arrays"]:
            try:
                maps[name] = np.load(shard / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise damaged(shard / f"{name}.npy", error) from None
        if read_key(self.folder) != self.key:
            raise UserError(f"{self.folder}: another run replaced this {self.kind}; give each run a folder of its own.")
        return maps

    def _release(self) -> None:
        """Give mapped pages back now and then; the system still keeps them as file cache."""
        for array in (array for maps in self._maps.values() for array in maps.values()):
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped: Any = array.base  # the mmap under a memory map
                mapped.madvise(mmap.MADV_DONTNEED)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}


class CacheWriter:
    """Create a cache, or go on with the one that is there; nobody else can fill it until it is closed.

    Args:
        folder: The cache.
        key: What the numbers depend on besides the demo files, as JSON values; ``kind`` says what they are.
        demos: All demos that will be read.
        shapes: Array name -> shape of a row.
        rebuild: Replace what was made with another key, of other demos, or from an earlier state of a file.

    Attributes:
        missing: Demos that are not complete yet.
        replaced: In what the key differs from that of the numbers that were replaced.

    Raises:
        UserError: There is too little room, the folder cannot be written, another process fills it, it holds something
            else, or it would have to be replaced and ``rebuild`` is not set.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        demos: Sequence[DemoEntry],
        shapes: Mapping[str, Sequence[int]],
        rebuild: bool = False,
    ) -> None:
        self.folder, self._rebuild = folder, rebuild
        self.key = json.loads(json.dumps({"format": FORMAT, **key}))
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        files = {of: list(members) for of, members in groupby(sorted(demos, key=_of_file), _of_file)}
        self._rows = {demo: row for members in files.values() for demo, row in _rows_of(members).items()}
        self._steps = {path: sum(demo.length for demo in members) for (path, _), members in files.items()}
        identities = {path: file_identity(path, task) for path, task in files}
        self._shards = {path: shard_folder(folder, identity) for path, identity in identities.items()}
        self.replaced: list[str] = []
        is_other = self._is_another()
        replaced = folder.rglob("*.npy") if is_other else (f for s in self._shards.values() for f in s.glob("*.npy"))
        require_room(folder, self.num_bytes, reused=sum(file.stat().st_blocks * 512 for file in replaced))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = hold_folder(folder)
        except HeldError as error:
            raise UserError(
                f"{folder}: another run ({error}) fills this folder at the same time; give each run a folder of its "
                "own, or start this one again when the other is done."
            ) from None
        except OSError as error:
            raise not_written(folder, error) from error
        try:
            if self._is_another():  # asked again: another run may have been done with it just now
                _remove_contents(folder)
            write_json(folder / KEY, self.key)
            for (path, _), members in files.items():
                self._make_shard(Path(path), identities[path], members)
        except OSError as error:
            raise not_written(folder, error) from error
        except UserError:
            self._lock.release()
            raise
        self._done = {path: finished(shard) for path, shard in self._shards.items()}
        self.missing = [demo for demo in demos if demo.name not in self._done[demo.path]]

    @property
    def num_bytes(self) -> int:
        """What the complete cache takes."""
        return sum(self._steps.values()) * sum(2 * int(np.prod(shape)) for shape in self.shapes.values())

    def write(self, demo: DemoEntry, name: str, start: int, values: npt.NDArray[Any]) -> None:
        """Put the rows of consecutive steps from this step of a demo into an array.

        Raises:
            UserError: The disk is full (through a memory map the process would be killed without a word), or a number
                is too large for float16.
        """
        path, shape = self._shards[demo.path] / f"{name}.npy", self.shapes[name]
        rows = _half(path, np.broadcast_to(values, (len(values), *shape)))
        row_bytes = 2 * int(np.prod(shape))
        try:
            with path.open("r+b") as file:
                header = path.stat().st_size - self._steps[demo.path] * row_bytes
                file.seek(header + (self._rows[demo] + start) * row_bytes)
                file.write(rows.tobytes())
        except OSError as error:
            raise not_written(path, error) from error

    def finish(self, demo: DemoEntry) -> None:
        """Count a demo as done, once all of it is on disk."""
        shard = self._shards[demo.path]
        for name in self.shapes:
            with (shard / f"{name}.npy").open("r+b") as file:
                os.fsync(file.fileno())
        self._done[demo.path].append(demo.name)
        write_json(shard / DONE, self._done[demo.path])

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def _is_another(self) -> bool:
        """Whether what is in the folder has to go.

        Raises:
            UserError: It may not.
        """
        found = read_key(self.folder)
        if found is None:
            there = list(self.folder.glob("[!.]*")) if self.folder.is_dir() else [self.folder][: self.folder.exists()]
            if foreign := [path for path in there if not (OLD.fullmatch(path.name) or path.name == KEY)]:
                raise UserError(f"{foreign[0]}: {self.folder} is no cache of ours; choose another folder.")
            return bool(there)
        wrong = differing_keys(found, self.key)
        if wrong and not self._rebuild:
            raise UserError(
                f"{self.folder}: this cache was made with {'; '.join(wrong)}; choose another --output, or replace it "
                "with --rebuild."
            )
        self.replaced = wrong
        return bool(wrong)

    def _make_shard(self, path: Path, identity: Mapping[str, Any], demos: Sequence[DemoEntry]) -> None:
        shard, rows = self._shards[str(path)], {demo.name: row for demo, row in _rows_of(demos).items()}
        for other in self.folder.glob(f"*/{SHARD}"):
            described = _read_json(other)
            is_stale = described["path"] == str(path.resolve()) and described["file"] != identity
            is_other = other.parent == shard and described["rows"] != rows
            if (is_stale or is_other) and not self._rebuild:
                what = "the file was changed" if is_stale else "other demos of the file were chosen"
                raise UserError(f"{path}: {what} since {self.folder} was filled; encode it anew with --rebuild.")
            if is_stale or is_other:
                shutil.rmtree(other.parent)
        if not (shard / SHARD).exists():
            shutil.rmtree(shard, ignore_errors=True)  # made, and then interrupted
            shard.mkdir()
            for name, shape in self.shapes.items():
                _make_array(shard / f"{name}.npy", (self._steps[str(path)], *shape))
            described = {"path": str(path.resolve()), "file": identity, "arrays": list(self.shapes), "rows": rows}
            write_json(shard / SHARD, described)


def shard_folder(root: Path, identity: Mapping[str, Any]) -> Path:
    """Folder of a demo file's shard."""
    return root / f"{Path(identity['name']).stem}-{json_sha256(identity, 12)}"


def finished(shard: Path) -> list[str]:
    """Names of the demos of a shard that are complete."""
    return list(_read_json(shard / DONE)) if (shard / DONE).exists() else []


def damaged(path: Path, reason: object) -> UserError:
    """What to raise where a part of a cache cannot be read."""
    why = " ".join(str(reason).split())
    return UserError(f"{path}: not readable as a part of a cache ({why}); delete the cache's folder and fill it again.")


def _read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None


def _of_file(demo: DemoEntry) -> tuple[str, str]:
    return demo.path, demo.task


def _rows_of(demos: Sequence[DemoEntry]) -> dict[DemoEntry, int]:
    """Row of every demo's first step, whatever the order in which the demos of a file are given."""
    row, result = 0, {}
    for demo in sorted(demos, key=lambda demo: demo.name):
        result[demo] = row
        row += demo.length
    return result


def _half(path: Path, values: npt.NDArray[Any]) -> Rows:
    with np.errstate(over="ignore"):
        half: Rows = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise UserError(
            f"{path}: numbers of magnitude {np.abs(values).max():.3g} do not fit float16, which ends at 65504; train "
            "without the cache, or read other taps."
        )
    return half


def _make_array(path: Path, shape: tuple[int, ...]) -> None:
    """Make a file of float16 zeros, which takes no room until it is written to."""
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        path, mode="w+", dtype=np.float16, shape=shape
    )
    array.flush()


def _remove_contents(folder: Path) -> None:
    """Remove what a cache put there, of this format or an earlier one, and nothing of somebody else's.

    Files are removed rather than written over: a run that still reads them keeps them to its end.
    """
    for path in folder.iterdir():
        is_shard = path.is_dir() and re.search(r"-[0-9a-f]{12}$", path.name)
        if is_shard and ((path / SHARD).exists() or all(_ARRAY.fullmatch(file.name) for file in path.iterdir())):
            shutil.rmtree(path)
        elif OLD.fullmatch(path.name):
            path.unlink()
