"""Find the demo files, check every demo before training starts, and list them."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from datamodules.errors import DatasetError
from datamodules.readers import DemoReader, demo_names, masked_names, open_demo_file, require_layout

HDF5_SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class DemoEntry:
    """One demo on disk.

    Attributes:
        path: The file.
        name: Its group under ``data``, e.g. ``demo_12``.
        length: Steps, at least 1.
        action_width: Numbers in a recorded action.
        image_size: Height and width of its camera images in pixels.
        task: What the file calls the task.
        instruction: What the robot was told.
    """

    path: str
    name: str
    length: int
    action_width: int
    image_size: int
    task: str
    instruction: str

    def __str__(self) -> str:
        return f"{self.path} {self.name}"


def find_files(paths: str | Sequence[str]) -> list[Path]:
    """Resolve files, globs (``**`` too) and folders (searched recursively) to a sorted list without repeats.

    Raises:
        DatasetError: A path matches nothing.
    """
    files: dict[Path, None] = {}
    for text in [paths] if isinstance(paths, str) else paths:
        path = Path(text).expanduser()
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix in HDF5_SUFFIXES)
            problem = f"{text}: the folder holds no {' or '.join(HDF5_SUFFIXES)} file"
        elif glob.has_magic(text) and not path.exists():
            found = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
            problem = f"{text}: no file matches this pattern"
        else:
            found = [path] if path.exists() else []
            problem = f"{text}: no such file"
        if not found:
            raise DatasetError(f"{problem}; correct data.init_args.paths, or collect demos with `videopolicy collect`.")
        files.update(dict.fromkeys(found))
    if not files:
        raise DatasetError("paths is empty; name at least one HDF5 file, glob or folder in data.init_args.paths.")
    return list(files)


def list_demos(
    path: Path,
    reader: DemoReader,
    cameras: Sequence[str],
    *,
    instruction: str | None = None,
    filter_key: str | None = None,
    limit: int | None = None,
) -> list[DemoEntry]:
    """Check the demos of one file that will be trained on, and list them.

    Args:
        path: The file.
        reader: The layout that the file must be in.
        cameras: Cameras that every demo must have.
        instruction: Replaces what the file says.
        filter_key: Only the demos of ``mask/<filter_key>``.
        limit: Only the first so many.

    Raises:
        DatasetError: The first problem found.
    """
    with open_demo_file(path) as file:
        require_layout(file, reader)
        names = demo_names(file) if filter_key is None else masked_names(file, filter_key)
        task = reader.task(file)
        entries = []
        for name in names[:limit]:
            demo = file["data"][name]
            for problem in demo_problems(demo, reader, cameras):
                raise DatasetError(f"{path} {name}: {problem}")
            if (text := instruction or reader.instruction(demo)) is None:
                raise DatasetError(
                    f"{path} {name}: the file holds no instruction; "
                    "set data.init_args.instruction to what the robot was told."
                )
            length, width = demo["actions"].shape
            size = demo[reader.camera_key(cameras[0])].shape[1]
            entries.append(DemoEntry(str(path), name, length, width, size, task, text))
    if not entries:
        raise DatasetError(f"{path}: no demo left after filter_key={filter_key!r}, limit_demos={limit}; loosen them.")
    return entries


def demo_problems(demo: h5py.Group, reader: DemoReader, cameras: Sequence[str]) -> Iterator[str]:
    """What keeps a demo from being trained on, without reading its contents; each problem with its way out."""
    actions = demo.get("actions")
    if not isinstance(actions, h5py.Dataset):
        yield f"no dataset 'actions', only {sorted(demo)}; record or export the actions."
        return
    if actions.ndim != 2 or actions.dtype.kind not in "fiu":
        yield f"actions are {actions.dtype} of shape {actions.shape}; expected numbers of shape (steps, dimensions)."
        return
    length = actions.shape[0]
    if length < 1:
        yield "no steps, shorter than one step; remove this demo."
    elif (declared := int(demo.attrs.get("num_samples", length))) != length:
        yield f"{length} actions but num_samples says {declared}; the demo was cut short, so record it again."
    there = reader.cameras(demo)
    if missing := [camera for camera in cameras if camera not in there]:
        yield f"no camera {missing}; the file has {there}. Set data.init_args.cameras to a subset of these."
    yield from _image_problems(demo, reader, [camera for camera in cameras if camera in there], length)


def _image_problems(demo: h5py.Group, reader: DemoReader, cameras: Sequence[str], length: int) -> Iterator[str]:
    shape_by_camera: dict[str, tuple[int, int]] = {}
    for camera in cameras:
        images = demo[reader.camera_key(camera)]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            yield f"images of {camera} are {images.dtype} of shape {images.shape}; expected uint8 (steps, H, W, 3)."
            continue
        if len(images) != length:
            yield f"{len(images)} images of {camera} but {length} actions; the demo was cut short, so record it again."
        shape_by_camera[camera] = images.shape[1:3]
    sizes = {camera: f"{height}x{width}" for camera, (height, width) in shape_by_camera.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{camera} {size}" for camera, size in sizes.items())
        yield f"cameras of unequal size ({found}); render all cameras in one size."
    elif any(height != width for height, width in shape_by_camera.values()):
        yield f"images are {next(iter(sizes.values()))}, not square; render or crop them to squares."


def read_actions(files: Sequence[Path], dims: Sequence[int]) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Yield the name and the chosen action dimensions (L, D) of every demo of every file, one at a time.

    Raises:
        DatasetError: An action dataset cannot be read, or is not as wide as it must be.
    """
    for path in files:
        with open_demo_file(path) as file:
            for name in demo_names(file):
                yield f"{path} {name}", _read_demo_actions(file["data"][name], dims)


def _read_demo_actions(demo: h5py.Group, dims: Sequence[int]) -> npt.NDArray[np.float64]:
    where = f"{demo.file.filename} {demo.name.rpartition('/')[2]}"
    try:
        actions = np.asarray(demo["actions"][()], dtype=np.float64)
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(
            f"{where}: actions cannot be read ({' '.join(str(error).split())}); remove this demo."
        ) from None
    if actions.ndim != 2 or not len(actions) or actions.shape[1] <= max(dims):
        raise DatasetError(
            f"{where}: actions have shape {actions.shape} but action_dims wants dimensions {list(dims)}; "
            "choose action_dims that are there or remove this demo."
        )
    return actions[:, list(dims)]
