"""Latents in place of pictures: memory-mapped arrays that `videopolicy cache` filled, one folder a demo file.

A cache folder holds ``key.json`` (what everything in it was encoded with), ``instructions.npz`` (texts and embeddings),
and a shard for every demo file with three kinds of float16 arrays, variant first, then the steps of all demos end to
end:

- ``<camera>.moments.npy``: mean and log-variance of every frame (1 + K, steps, 2c, h, w);
- ``<camera>.condition.npy``: its latent as a conditioning frame, noise included (1 + K, steps, c, h, w);
- ``lead.condition.npy``: the same of the first camera once more, for video row 0, whose noise is a draw of its own.

Variant 0 has the colours as recorded (validation); variants 1 to K are jittered (training).
"""

from __future__ import annotations

import json
import mmap
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.demos import DemoEntry
from files.differences import differing_keys
from files.errors import UserError
from files.hashes import file_identity, json_sha256

FORMAT = 2
KEY, TEXTS = "key.json", "instructions.npz"
SHARD, DONE = "shard.json", "done.json"
LEAD = "lead"
MAX_SHARDS_OPEN = 32  # in a process; each takes a file handle for every array
WINDOWS_PER_RELEASE = 64  # then the pages read so far are given back, or a worker's memory would grow with the files


@dataclass
class Latents:
    """Latents of one window, or with a leading axis B of a batch.

    Attributes:
        moments: (V, T, 2c, h, w) float16, posterior mean and log-variance of every frame.
        condition: (1 + V, c, h, w) float16, condition latents of the current frames: row 0's, then each camera's.
        text: (D,) float32, the instruction's embedding.
    """

    moments: Tensor
    condition: Tensor
    text: Tensor

    @staticmethod
    def stack(items: Sequence[Latents]) -> Latents:
        """Join along a new first axis."""
        names = ("moments", "condition", "text")
        return Latents(*(torch.stack([getattr(item, name) for item in items]) for name in names))

    def __getitem__(self, index: slice) -> Latents:
        """Some of a batch."""
        return Latents(self.moments[index], self.condition[index], self.text[index])

    def pin_memory(self) -> Latents:
        """Copy every tensor to page-locked memory."""
        return Latents(self.moments.pin_memory(), self.condition.pin_memory(), self.text.pin_memory())


def shard_folder(root: Path, identity: Mapping[str, Any]) -> Path:
    """Folder of a demo file's shard."""
    return root / f"{Path(identity['name']).stem}-{json_sha256(identity, 12)}"


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Read a file of the cache.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: not readable as a part of a latent cache ({' '.join(str(error).split())}); delete the cache's folder "
        "and run `videopolicy cache -c EXPERIMENT`."
    )


def read_key(folder: Path) -> dict[str, Any]:
    """What the latents of a folder were made with.

    Raises:
        UserError: Its ``key.json`` is no latent cache's.
    """
    key = read_json(folder / KEY)
    if not isinstance(key, dict) or not {"format", "cameras", "variants"} <= set(key):
        raise UserError(f"{folder}: its {KEY} is not that of a latent cache; choose another folder.")
    return key


def read_texts(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Embedding (D,) of every instruction; none where the cache was interrupted before.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / TEXTS
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(zip(file["texts"].tolist(), file["embeddings"], strict=True))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from None


def arrays_of(cameras: Sequence[str]) -> list[str]:
    """Names of a shard's arrays."""
    return [*(f"{camera}.{kind}" for camera in cameras for kind in ("moments", "condition")), f"{LEAD}.condition"]


class LatentCache:
    """Read latents of windows from a cache folder.

    Args:
        folder: What `videopolicy cache` wrote.
        wanted: What the data settings say that the latents must have been made of: ``cameras``, ``image_size``,
            ``orientation``, ``colour_jitter`` (the last matters only if there are jittered variants).
        demos: Every demo that will be read.

    Attributes:
        key: All that the latents depend on besides the demo files.
        num_variants: K, jittered variants besides variant 0.

    Raises:
        UserError: No cache, one of other settings, or one that lacks a demo or holds an earlier state of its file.
    """

    def __init__(self, folder: str | Path, wanted: Mapping[str, Any], demos: Sequence[DemoEntry]) -> None:
        self.folder = Path(folder)
        if not (self.folder / KEY).exists():
            raise UserError(
                f"{self.folder}: no latent cache; fill it with `videopolicy cache -c EXPERIMENT --output "
                f"{self.folder}`, or remove data.init_args.latent_cache."
            )
        self.key = read_key(self.folder)
        self.cameras: list[str] = list(self.key["cameras"])
        self.num_variants: int = self.key["variants"]
        checked = set(wanted) - (set() if self.num_variants else {"colour_jitter"})
        self.require({"format": FORMAT, **{name: wanted[name] for name in checked}})
        if wanted["colour_jitter"] is not None and not self.num_variants:
            warnings.warn(
                f"{self.folder}: the latent cache has no jittered variants, so data.init_args.colour_jitter has no "
                "effect; encode some with --variants K, or set colour_jitter: null.",
                stacklevel=2,
            )
        self._texts = {text: torch.from_numpy(row) for text, row in read_texts(self.folder).items()}
        self._shards: dict[str, Path] = {}
        self._offsets: dict[tuple[str, str], int] = {}
        for path, task in dict.fromkeys((demo.path, demo.task) for demo in demos):
            self._find_shard(path, task, [demo for demo in demos if demo.path == path])
        self._maps: dict[str, tuple[npt.NDArray[np.float16], ...]] = {}
        self._pid, self._num_read = os.getpid(), 0

    def require(self, wanted: Mapping[str, Any]) -> None:
        """Refuse latents that were made in another way.

        Raises:
            UserError: A value of the key differs.
        """
        if wrong := differing_keys({name: self.key.get(name) for name in wanted}, wanted):
            raise UserError(
                f"{self.folder}: the latent cache was made with {'; '.join(wrong)}; run `videopolicy cache -c "
                "EXPERIMENT --rebuild`, or point data.init_args.latent_cache to a cache of this experiment."
            )

    def window(self, demo: DemoEntry, steps: npt.NDArray[np.int64], seed: int | None = None) -> Latents:
        """Latents of a window.

        Args:
            demo: The demo.
            steps: Steps (T,) of its frames, none past its end; the first is the current one.
            seed: Draws one jittered variant for every camera; None takes the colours as recorded.
        """
        maps = self._open(demo.path)
        rows = self._offsets[demo.path, demo.name] + steps
        drawn = [0] * len(self.cameras)
        if seed is not None and self.num_variants:
            drawn = np.random.default_rng(seed).integers(1, self.num_variants + 1, len(drawn)).tolist()
        moments = np.stack([maps[2 * view][variant, rows] for view, variant in enumerate(drawn)])
        current = [maps[2 * view + 1][variant, rows[0]] for view, variant in enumerate(drawn)]
        condition = np.stack([maps[-1][drawn[0], rows[0]], *current])
        text = self._texts[demo.instruction]
        self._release()
        return Latents(torch.from_numpy(moments), torch.from_numpy(condition), text)

    def _find_shard(self, path: str, task: str, demos: Sequence[DemoEntry]) -> None:
        folder = shard_folder(self.folder, file_identity(path, task))
        if not (folder / SHARD).exists():
            raise UserError(
                f"{path}: the latent cache {self.folder} holds no latents of this file as it is now (it is new, or was "
                "changed since); run `videopolicy cache -c EXPERIMENT` again, with --rebuild if it was changed."
            )
        offset_by_demo, done = read_json(folder / SHARD)["offsets"], set(finished(folder))
        for demo in demos:
            if demo.name not in done or demo.instruction not in self._texts:
                raise UserError(
                    f"{demo}: not in the latent cache {self.folder}, which is not complete for this experiment; run "
                    "`videopolicy cache -c EXPERIMENT` again, it goes on where it stopped."
                )
            self._offsets[demo.path, demo.name] = offset_by_demo[demo.name]
        self._shards[path] = folder

    def _open(self, path: str) -> tuple[npt.NDArray[np.float16], ...]:
        if self._pid != os.getpid():
            self._pid, self._maps = os.getpid(), {}
        if path not in self._maps:
            while len(self._maps) >= MAX_SHARDS_OPEN:
                del self._maps[next(iter(self._maps))]  # the one that was opened first
            self._maps[path] = tuple(
                _open_array(self._shards[path] / f"{name}.npy") for name in arrays_of(self.cameras)
            )
        return self._maps[path]

    def _release(self) -> None:
        """Give mapped pages back now and then; the system still keeps them as file cache."""
        self._num_read += 1
        if self._num_read % WINDOWS_PER_RELEASE == 0 and hasattr(mmap, "MADV_DONTNEED"):
            for maps in self._maps.values():
                for array in maps:
                    mapped: Any = array.base  # the mmap under a memory map
                    mapped.madvise(mmap.MADV_DONTNEED)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}


def _open_array(path: Path) -> npt.NDArray[np.float16]:
    try:
        array: npt.NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    return array


def finished(shard: Path) -> list[str]:
    """Names of the demos of a shard that are complete."""
    return list(read_json(shard / DONE)) if (shard / DONE).exists() else []
