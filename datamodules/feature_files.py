"""Features of every window as float16 arrays on disk: written once from the first window to the last, read by workers.

A folder holds one ``.npy`` file a tap for the training windows and one for the held-out ones, (windows, V, T, C, h, w),
and ``fingerprint.json``: what the features depend on, the names of the files that belong to it, and whether they are
complete. What it does not name is never opened.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from files.errors import UserError
from files.writing import not_written, require_room, write_json

FORMAT = 2
MANIFEST = "fingerprint.json"
Split = Literal["train", "val"]
OURS = re.compile(r"(train|val)_\d+\.npy")
FLOAT16 = np.dtype(np.float16)


def stored_key(folder: Path) -> dict[str, Any] | None:
    """What the features of a folder were made with; None if there are none, or not all."""
    manifest = _manifest(folder)
    return manifest["key"] if manifest.get("complete") and manifest.get("format") == FORMAT else None


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):  # none yet, or cut off by the version that did not write it in one step
        return {}
    return content if isinstance(content, dict) else {}


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(
        f"{path}: cannot be read as a part of a feature cache ({' '.join(str(reason).split())}); delete the folder, "
        "and the next run fills it again."
    )


class FeatureWriter:
    """Fill a folder, in place of what another network, other data or an interrupted run left there.

    Args:
        folder: The cache.
        key: All that the features depend on, as JSON values.
        num_windows: Windows of each split; every one has to be written, in order.
        shapes: Shape (V, T, C, h, w) of a window's features at every tap.

    Raises:
        UserError: There is too little room, the folder cannot be written, or holds files of somebody else under the
            names of ours.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        num_windows: Mapping[Split, int],
        shapes: Sequence[Sequence[int]],
    ) -> None:
        self.folder, self.num_windows, self.shapes = folder, dict(num_windows), [tuple(shape) for shape in shapes]
        names = {split: [f"{split}_{tap}.npy" for tap in range(len(shapes))] for split in num_windows}
        self._manifest: dict[str, Any] = {"format": FORMAT, "key": key, "files": names, "filled_by": uuid.uuid4().hex}
        old = self._files_of_a_cache()
        window_bytes = sum(FLOAT16.itemsize * int(np.prod(shape)) for shape in shapes)
        used = sum(path.stat().st_blocks * 512 for path in old)
        require_room(folder, window_bytes * sum(num_windows.values()), reused=used)
        write_json(folder / MANIFEST, self._manifest | {"complete": False})
        for path in old:  # rather than written over: a run that still reads them keeps them to its end
            path.unlink()

    def write(self, split: Split, batches: Any) -> None:  # noqa: ANN401 - an iterable of lists of arrays, one a tap
        """Write the features (n, V, T, C, h, w) of all windows of a split, batch after batch.

        Raises:
            UserError: The disk is full, or a number is too large for float16.
        """
        paths = [self.folder / name for name in self._manifest["files"][split]]
        files: list[BinaryIO] = []
        written = 0
        try:
            for path, shape in zip(paths, self.shapes, strict=True):
                files.append(path.open("wb"))
                header = {"descr": FLOAT16.str, "fortran_order": False, "shape": (self.num_windows[split], *shape)}
                np.lib.format.write_array_header_2_0(files[-1], header)  # type: ignore[no-untyped-call]
            for batch in batches:
                for path, file, values in zip(paths, files, batch, strict=True):
                    file.write(_half(path, values).tobytes())
                written += len(batch[0])
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise not_written(self.folder, error) from error
        finally:
            for file in files:
                file.close()
        assert written == self.num_windows[split], (written, self.num_windows)

    def finish(self) -> None:
        """Count the features as complete.

        Raises:
            UserError: Another run began to fill the folder meanwhile.
        """
        if _manifest(self.folder).get("filled_by") != self._manifest["filled_by"]:
            raise UserError(
                f"{self.folder}: another run fills this folder at the same time; give FeatureCache another folder, or "
                "start this run again when the other one trains."
            )
        write_json(self.folder / MANIFEST, self._manifest | {"complete": True})

    def _files_of_a_cache(self) -> list[Path]:
        """Files that a cache left here, complete or not."""
        if not self.folder.is_dir():
            return []
        old = [path for path in self.folder.iterdir() if OURS.fullmatch(path.name)]
        if not (self.folder / MANIFEST).exists() and (foreign := [path for path in old if not _may_be_ours(path)]):
            raise UserError(
                f"{foreign[0]}: is not of a feature cache, and would be replaced; give FeatureCache another folder."
            )
        return old


def _half(path: Path, values: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half: npt.NDArray[np.float16] = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise UserError(
            f"{path}: features of magnitude {np.abs(values).max():.3g} do not fit float16, which ends at 65504; train "
            "without FeatureCache, or read other taps."
        )
    return half


def _may_be_ours(path: Path) -> bool:
    """Whether a file has the type and axes of features; an interrupted run may have left less."""
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return path.stat().st_size == 0
    return bool(array.dtype == FLOAT16 and array.ndim == 6)


class FeatureReader:
    """Features of the windows of a split by their index; handles are opened per process.

    Args:
        folder: A complete cache.
        split: Which windows.
        key: What the features must have been made with.

    Raises:
        UserError: The cache is not complete, of another key, or damaged.
    """

    def __init__(self, folder: Path, split: Split, key: Mapping[str, Any]) -> None:
        self.folder, self.split, self.key = folder, split, json.loads(json.dumps(key))
        self._pid, self._files = os.getpid(), list[BinaryIO]()
        self._open()

    def __len__(self) -> int:
        """Number of windows."""
        return self._num_windows

    def __getitem__(self, index: int) -> list[Tensor]:
        """Features (V, T, C, h, w) of a window at every tap, float16."""
        if self._pid != os.getpid() or not self._files:
            self._pid, self._files = os.getpid(), []
            self._open()
        assert 0 <= index < len(self), (index, len(self))
        features = []
        for file, start, shape in zip(self._files, self._starts, self._shapes, strict=True):
            content = bytearray(FLOAT16.itemsize * int(np.prod(shape)))
            file.seek(start + index * len(content))
            if file.readinto(content) != len(content):  # type: ignore[attr-defined]
                raise _damaged(Path(file.name), "it ends early")
            features.append(torch.frombuffer(content, dtype=torch.float16).view(*shape))
        return features

    def _open(self) -> None:
        """Open the files, and only then look whether they are those: a run that replaces them says so beforehand."""
        names = _manifest(self.folder).get("files", {}).get(self.split, [])
        headers = []
        for path in (self.folder / name for name in names):
            try:
                self._files.append(path.open("rb", buffering=0))
                headers.append(self._header(self._files[-1]))
            except (OSError, ValueError) as error:
                raise _damaged(path, error) from None
        if stored_key(self.folder) != self.key or not names:
            raise UserError(
                f"{self.folder}: holds no complete features of this network and these windows; another run may have "
                "replaced them. Give each run a folder of its own, and start this one again."
            )
        self._starts = [start for start, _ in headers]
        self._shapes = [shape[1:] for _, shape in headers]
        self._num_windows = headers[0][1][0]

    @staticmethod
    def _header(file: BinaryIO) -> tuple[int, tuple[int, ...]]:
        np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        shape, _, _ = np.lib.format.read_array_header_2_0(file)  # type: ignore[no-untyped-call]
        return file.tell(), shape

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": []}
