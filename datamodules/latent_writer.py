"""Fill a latent cache: one demo of one file at a time, each whole on disk before it counts."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.demos import DemoEntry
from datamodules.latent_cache import (
    DONE,
    FORMAT,
    KEY,
    SHARD,
    TEXTS,
    arrays_of,
    finished,
    read_json,
    read_key,
    read_texts,
    shard_folder,
)
from files.differences import differing_keys
from files.errors import UserError
from files.hashes import file_identity
from files.writing import not_written, replacing, write_json


class LatentCacheWriter:
    """Create a cache folder, or go on with the one that is there.

    Args:
        folder: The cache.
        key: What the latents depend on besides the demo files, as JSON values; ``cameras`` and ``variants`` among them.
        rebuild: Throw away what was made with another key or from an earlier state of a file.

    Raises:
        UserError: The folder holds something else, or latents of another key, and ``rebuild`` is not set.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], rebuild: bool = False) -> None:
        self.folder = folder
        self.key = json.loads(json.dumps({"format": FORMAT, **key}))
        self._rebuild = rebuild
        try:
            self._claim()
        except OSError as error:
            raise not_written(folder, error) from error

    def _claim(self) -> None:
        if (self.folder / KEY).exists():
            wrong = differing_keys(read_key(self.folder), self.key)
            if wrong and not self._rebuild:
                raise UserError(
                    f"{self.folder}: this latent cache was made with {'; '.join(wrong)}; choose another --output, or "
                    "replace it with --rebuild."
                )
            if wrong:
                _remove_contents(self.folder)
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.glob("[!.]*"))):
            raise UserError(f"{self.folder}: not empty and no latent cache; choose another --output.")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / KEY, self.key)

    def write_texts(self, texts: Sequence[str], embeddings: npt.NDArray[np.float32]) -> None:
        """Store instructions and their embeddings (N, D) in one file, beside those that another experiment needs."""
        row_by_text = {**read_texts(self.folder), **dict(zip(texts, embeddings, strict=True))}
        arrays = {"texts": np.array(list(row_by_text), np.str_), "embeddings": np.stack(list(row_by_text.values()))}
        with replacing(self.folder / TEXTS) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    def shard(self, demos: Sequence[DemoEntry], shape_by_kind: Mapping[str, Sequence[int]]) -> LatentShard:
        """The shard of one demo file, new or as far as it got.

        Args:
            demos: All demos of the file.
            shape_by_kind: Shape of one frame's ``moments`` and ``condition``.

        Raises:
            UserError: An earlier state of this file is in the cache and ``rebuild`` is not set, or the shard was
                made for other demos.
        """
        identity = file_identity(demos[0].path, demos[0].task)
        folder = shard_folder(self.folder, identity)
        path = str(Path(demos[0].path).resolve())
        for other in self.folder.glob(f"*/{SHARD}"):
            described = read_json(other)
            is_stale = described.get("path") == path and described.get("file") != identity
            is_other = other.parent == folder and described.get("offsets") != offsets(demos)
            if not (is_stale or is_other):
                continue
            if not self._rebuild:
                what = "the file was changed" if is_stale else "other demos of the file were chosen"
                raise UserError(f"{path}: {what} since {self.folder} was filled; encode it anew with --rebuild.")
            shutil.rmtree(other.parent)
        return LatentShard(folder, demos, {"path": path, "file": identity}, self.key, shape_by_kind)


class LatentShard:
    """Arrays of one demo file, open for writing.

    Args:
        folder: Where they are.
        demos: All demos of the file.
        described: What ``shard.json`` says of the file.
        key: The cache's key.
        shape_by_kind: Shape of one frame's ``moments`` and ``condition``.
    """

    def __init__(
        self,
        folder: Path,
        demos: Sequence[DemoEntry],
        described: Mapping[str, Any],
        key: Mapping[str, Any],
        shape_by_kind: Mapping[str, Sequence[int]],
    ) -> None:
        self.folder = folder
        self._offsets = offsets(demos)
        steps = sum(demo.length for demo in demos)
        shapes = {
            name: (1 + key["variants"], steps, *shape_by_kind[name.rpartition(".")[2]])
            for name in arrays_of(key["cameras"])
        }
        try:
            if not (folder / SHARD).exists():
                shutil.rmtree(folder, ignore_errors=True)  # made, and then interrupted
                folder.mkdir()
                for name, shape in shapes.items():
                    _make_array(folder / f"{name}.npy", shape)
                write_json(folder / SHARD, {**described, "offsets": self._offsets})
        except OSError as error:
            raise not_written(folder, error) from error
        self._shapes = shapes
        self.done = set(finished(folder))

    def write(self, demo: DemoEntry, name: str, variant: int, start: int, values: npt.NDArray[np.float16]) -> None:
        """Put the latents of consecutive frames from this step of a demo into an array.

        Raises:
            UserError: The disk is full. (Through a memory map the process would be killed without a word.)
        """
        path, (_, steps, *shape) = self.folder / f"{name}.npy", self._shapes[name]
        row_bytes = 2 * int(np.prod(shape))
        row = variant * steps + self._offsets[demo.name] + start
        content = np.broadcast_to(values, (len(values), *shape)).astype(np.float16)
        try:
            with path.open("r+b") as file:
                header = path.stat().st_size - int(np.prod(self._shapes[name])) * 2
                file.seek(header + row * row_bytes)
                file.write(content.tobytes())
        except OSError as error:
            raise not_written(path, error) from error

    def finish(self, demo: DemoEntry) -> None:
        """Count a demo as done, once all of it is on disk."""
        for name in self._shapes:
            with (self.folder / f"{name}.npy").open("r+b") as file:
                os.fsync(file.fileno())
        self.done.add(demo.name)
        write_json(self.folder / DONE, sorted(self.done))


def _make_array(path: Path, shape: tuple[int, ...]) -> None:
    """Make a file of float16 zeros, which takes no room until it is written to."""
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        path, mode="w+", dtype=np.float16, shape=shape
    )
    array.flush()


def _remove_contents(folder: Path) -> None:
    """Remove the shards and texts of a latent cache, and nothing that somebody else put into its folder."""
    arrays = {f"{name}.npy" for name in arrays_of(read_key(folder)["cameras"])}
    for shard in (path for path in folder.iterdir() if path.is_dir() and re.search(r"-[0-9a-f]{12}$", path.name)):
        if (shard / SHARD).exists() or {file.name for file in shard.iterdir()} <= arrays:
            shutil.rmtree(shard)
    for name in (TEXTS, "instructions.json", "instructions.npy"):  # the last two of format 1
        (folder / name).unlink(missing_ok=True)


def offsets(demos: Sequence[DemoEntry]) -> dict[str, int]:
    """Row of every demo's first step."""
    rows, result = 0, {}
    for demo in demos:
        result[demo.name] = rows
        rows += demo.length
    return result
