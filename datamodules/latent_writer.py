"""Fill a latent cache: one demo of one file at a time, each whole on disk before it counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.demos import DemoEntry
from datamodules.disk import write_json
from datamodules.errors import DatasetError
from datamodules.latent_cache import (
    DONE,
    EMBEDDINGS,
    KEY,
    SHARD,
    TEXTS,
    arrays_of,
    differing,
    file_identity,
    finished,
    read_json,
    shard_folder,
)


class LatentCacheWriter:
    """Create a cache folder, or go on with the one that is there.

    Args:
        folder: The cache.
        key: What the latents depend on besides the demo files, as JSON values; ``cameras`` and ``variants`` among them.
        rebuild: Throw away what was made with another key or from an earlier state of a file.

    Raises:
        DatasetError: The folder holds something else, or latents of another key, and ``rebuild`` is not set.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], rebuild: bool = False) -> None:
        self.folder = folder
        self.key = json.loads(json.dumps(key))
        if (folder / KEY).exists():
            wrong = differing(read_json(folder / KEY), self.key)
            if wrong and not rebuild:
                raise DatasetError(
                    f"{folder}: this latent cache was made with {'; '.join(wrong)}; choose another --output, or "
                    "replace it with --rebuild."
                )
            if wrong:
                shutil.rmtree(folder)  # it has a key.json, so it is a cache of ours
        elif folder.exists() and any(folder.iterdir()):
            raise DatasetError(f"{folder}: not empty and no latent cache; choose another --output.")
        self._rebuild = rebuild
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / KEY, self.key)

    def write_texts(self, texts: Sequence[str], embeddings: npt.NDArray[np.float32]) -> None:
        """Store the instructions and their embeddings (N, D)."""
        np.save(self.folder / EMBEDDINGS, embeddings)
        write_json(self.folder / TEXTS, list(texts))

    def shard(self, demos: Sequence[DemoEntry], shape_by_kind: Mapping[str, Sequence[int]]) -> LatentShard:
        """The shard of one demo file, new or as far as it got.

        Args:
            demos: All demos of the file.
            shape_by_kind: Shape of one frame's ``moments`` and ``condition``.

        Raises:
            DatasetError: An earlier state of this file is in the cache and ``rebuild`` is not set, or the shard was
                made for other demos.
        """
        identity = file_identity(demos[0].path, demos[0].task)
        folder = shard_folder(self.folder, identity)
        path = str(Path(demos[0].path).resolve())
        for other in self.folder.glob(f"*/{SHARD}"):
            described = read_json(other)
            is_stale = described["path"] == path and described["file"] != identity
            is_other = other.parent == folder and described["offsets"] != offsets(demos)
            if not (is_stale or is_other):
                continue
            if not self._rebuild:
                what = "the file was changed" if is_stale else "other demos of the file were chosen"
                raise DatasetError(f"{path}: {what} since {self.folder} was filled; encode it anew with --rebuild.")
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
        if not (folder / SHARD).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name, shape in shapes.items():
                _array(folder, name, shape).flush()
            write_json(folder / SHARD, {**described, "offsets": self._offsets})
        self._maps = {name: _array(folder, name) for name in shapes}
        self.done = set(finished(folder))

    def write(self, demo: DemoEntry, name: str, variant: int, start: int, values: npt.NDArray[np.float16]) -> None:
        """Put the latents of consecutive frames from this step of a demo into an array."""
        row = self._offsets[demo.name] + start
        self._maps[name][variant, row : row + len(values)] = values

    def finish(self, demo: DemoEntry) -> None:
        """Count a demo as done, once all of it is on disk."""
        for array in self._maps.values():
            array.flush()
        self.done.add(demo.name)
        write_json(self.folder / DONE, sorted(self.done))


def _array(folder: Path, name: str, shape: tuple[int, ...] | None = None) -> np.memmap[Any, Any]:
    """Map an array that is there, or with a shape make it."""
    mode, path = "r+" if shape is None else "w+", folder / f"{name}.npy"
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        path, mode=mode, dtype=np.float16, shape=shape
    )
    return array


def offsets(demos: Sequence[DemoEntry]) -> dict[str, int]:
    """Row of every demo's first step."""
    rows, result = 0, {}
    for demo in demos:
        result[demo.name] = rows
        rows += demo.length
    return result
