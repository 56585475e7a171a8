"""Check every demo before training starts, and list them; `videopolicy inspect` makes the same checks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from datamodules.hdf5 import READ_ERRORS, demo_file, why_not_read
from datamodules.pictures import Orientation, reading_problem
from datamodules.readers import (
    DemoReader,
    PictureTiming,
    demo_group,
    demo_names,
    masked_names,
    no_images,
    require_layout,
)
from files.errors import UserError


@dataclass(frozen=True)
class DemoEntry:
    """One demo on disk.

    Attributes:
        path: The file.
        name: Its group under ``data``, e.g. ``demo_12``.
        length: Steps that have a picture and an action, at least 1.
        action_width: Numbers in a recorded action.
        image_size: Height and width of its camera images in pixels.
        task: What the file calls the task.
        instruction: What the robot was told.
        orientation: How its images are stored.
        first_action: Index of the action that follows picture 0: 1 where pictures were stored after their action.
    """

    path: str
    name: str
    length: int
    action_width: int
    image_size: int
    task: str
    instruction: str
    orientation: Orientation = "upright"
    first_action: int = 0

    def __str__(self) -> str:
        return f"{self.path} {self.name}"


@dataclass(frozen=True)
class ReadingSettings:
    """What a data module's arguments say about reading files; None leaves it to the file and its layout.

    Attributes:
        cameras: Cameras that every demo must have.
        instruction: What the robot was told.
        orientation: How images are stored.
        pictures_taken: Whether the picture of a step was taken before or after its action.
        filter_key: Only the demos of ``mask/<filter_key>``.
        limit: Only the first so many.
        left_out: Tasks whose files are not looked at.
    """

    cameras: Sequence[str]
    instruction: str | None = None
    orientation: Orientation | None = None
    pictures_taken: PictureTiming | None = None
    filter_key: str | None = None
    limit: int | None = None
    left_out: Sequence[str] = ()


def list_demos(path: Path, reader: DemoReader, settings: ReadingSettings) -> list[DemoEntry]:
    """Check the demos of one file that will be trained on, and list them.

    Raises:
        UserError: The first problem found.
    """
    with demo_file(path) as file:
        require_layout(file, reader)
        if (task := reader.task(file)) in settings.left_out:
            return []
        key = settings.filter_key
        names = demo_names(file) if key is None else masked_names(file, key)
        orientation = settings.orientation or reader.orientation(file)
        if settings.orientation is None and (doubt := reader.orientation_doubt(file)):
            warnings.warn(f"{path}: {doubt}", stacklevel=2)
        timing = settings.pictures_taken or reader.picture_timing(file)
        entries: list[DemoEntry] = []
        for name in names[: settings.limit]:
            demo = demo_group(file, name)
            problems = demo_problems(demo, reader, settings.cameras, timing, settings.instruction, num_read=not entries)
            for problem in problems:
                raise UserError(f"{path} {name}: {problem}")
            entries.append(describe(demo, reader, settings, task, orientation, timing))
    return entries


def describe(
    demo: h5py.Group,
    reader: DemoReader,
    settings: ReadingSettings,
    task: str,
    orientation: Orientation,
    timing: PictureTiming,
) -> DemoEntry:
    """A demo without problems, as training knows it."""
    images = reader.pictures(demo, settings.cameras[0])
    length, width = demo["actions"].shape
    # one picture more than actions: it is the last one that has no action, so the first is before action 0
    first = int(timing == "after_action" and len(images) == length)
    return DemoEntry(
        path=demo.file.filename,
        name=demo.name.rpartition("/")[2],
        length=length - first,
        action_width=width,
        image_size=images.shape[1],
        task=task,
        instruction=settings.instruction or str(reader.instruction(demo)),
        orientation=orientation,
        first_action=first,
    )


def used_dims(
    demos: Sequence[DemoEntry], wanted: Sequence[int] | None, default: Sequence[int] | None
) -> tuple[int, ...]:
    """The action numbers to use: those wanted, or else the source's, or else all.

    Raises:
        UserError: Demos of different widths, or a number that is not there or stands twice.
    """
    first = demos[0]
    for demo in demos:
        if demo.action_width != first.action_width:
            raise UserError(
                f"{demo}: actions are {demo.action_width} wide but those of {first} are {first.action_width} wide; "
                "train on files with one action space."
            )
    dims = tuple(wanted if wanted is not None else default or range(first.action_width))
    if not dims or len(set(dims)) != len(dims) or min(dims) < 0 or max(dims) >= first.action_width:
        raise UserError(
            f"{first}: actions are {first.action_width} wide but action_dims is {list(dims)}; "
            f"set data.init_args.action_dims to some of 0 to {first.action_width - 1}, each once."
        )
    return dims


def common_size(demos: Sequence[DemoEntry], wanted: int | None) -> int:
    """Pixels of a side: those wanted, or else of the images.

    Raises:
        UserError: They differ.
    """
    if wanted is not None:
        return wanted
    first = demos[0]
    for demo in demos:
        if demo.image_size != first.image_size:
            raise UserError(
                f"{demo}: images are {demo.image_size} pixels wide but those of {first} {first.image_size}; "
                "set data.init_args.image_size to resize both."
            )
    return first.image_size


def demo_problems(
    demo: h5py.Group,
    reader: DemoReader,
    cameras: Sequence[str],
    timing: PictureTiming,
    instruction: str | None = None,
    num_read: int = 0,
) -> Iterator[str]:
    """What keeps a demo from being trained on; each problem with its way out.

    Args:
        demo: The demo.
        reader: Its layout.
        cameras: Cameras that it must have.
        timing: Whether its pictures were taken before or after the action beside them.
        instruction: What the robot was told, where the file need not say it.
        num_read: Pictures of a camera to read: 0, 1 for the first, 2 for the last one too.
    """
    try:
        actions = demo.get("actions")
        if not isinstance(actions, h5py.Dataset):
            yield f"no dataset 'actions', only {sorted(demo)}; record or export the actions."
            return
        if actions.ndim != 2 or actions.dtype.kind not in "fiu":
            yield f"actions are {actions.dtype} of shape {actions.shape}; expected numbers (steps, dimensions)."
            return
    except READ_ERRORS as error:
        yield f"{why_not_read(demo, 'actions', error)}."
        return
    there = list(reader.keys_by_camera(demo))
    usable = [camera for camera in cameras if reader.image_key(demo, camera) is not None]
    yield from _length_problems(demo, timing)
    if not there:
        yield no_images(demo)
    elif missing := [camera for camera in cameras if camera not in usable]:
        yield f"no camera {missing}; the file has {there}. Set data.init_args.cameras to a subset of these."
    yield from _image_problems(demo, reader, usable, len(actions), num_read)
    if not (instruction or reader.instruction(demo)):
        yield "the file holds no instruction; set data.init_args.instruction to what the robot was told."


def _length_problems(demo: h5py.Group, timing: PictureTiming) -> Iterator[str]:
    length = len(demo["actions"])
    declared = np.asarray(demo.attrs.get("num_samples", length)).ravel()
    if length < 1:
        yield "no steps, shorter than one step; remove this demo."
    elif declared.dtype.kind in "iuf" and declared.size == 1 and declared[0] not in (length, length + 1):
        yield f"{length} actions but num_samples says {declared[0]:g}; the demo was cut short, so record it again."
    elif length == 1 and timing == "after_action":
        yield "one step, with no action after its picture, which was taken after the action; remove this demo."


def _image_problems(
    demo: h5py.Group, reader: DemoReader, cameras: Sequence[str], length: int, num_read: int
) -> Iterator[str]:
    shape_by_camera: dict[str, tuple[int, ...]] = {}
    count_by_camera: dict[str, int] = {}
    for camera in cameras:
        key = str(reader.image_key(demo, camera))
        try:
            images = reader.pictures(demo, camera)
            shape = images.shape
        except READ_ERRORS as error:
            yield f"{why_not_read(demo['obs'], key, error)}."
            continue
        if images.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3:
            yield f"images of {camera} are {images.dtype} of shape {shape}; expected uint8 (steps, H, W, 3)."
            continue
        if len(images) < length:
            yield (
                f"{len(images)} images of {camera} but {length} actions; pictures are missing, so render them anew or "
                "remove this demo."
            )
        elif len(images) > length + 1 and length:
            yield (
                f"{len(images)} images of {camera} but {length} actions; which belong together is not known, so store "
                "one picture an action (or one more, after the last)."
            )
        elif length and (problem := reading_problem(demo["obs"], key, (0, length - 1)[:num_read])):
            yield f"{problem}."
        shape_by_camera[camera], count_by_camera[camera] = shape[1:3], len(images)
    if len(set(count_by_camera.values())) > 1:
        yield f"cameras with different numbers of images ({count_by_camera}); render all cameras anew."
    sizes = {camera: f"{height}x{width}" for camera, (height, width) in shape_by_camera.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{camera} {size}" for camera, size in sizes.items())
        yield f"cameras of unequal size ({found}); render all cameras in one size."
    elif any(height != width for height, width in shape_by_camera.values()):
        yield f"images are {next(iter(sizes.values()))}, not square; render or crop them to squares."


def read_actions(demos: Iterable[DemoEntry], dims: Sequence[int]) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Yield the name and the chosen action dimensions (L, D) of every demo, one at a time; no other demo is read.

    Raises:
        UserError: An action dataset cannot be read.
    """
    for path, members in groupby(demos, key=lambda demo: demo.path):
        with demo_file(path) as file:
            for demo in members:
                group = demo_group(file, demo.name)
                try:
                    actions = np.asarray(group["actions"][()], dtype=np.float64)
                except READ_ERRORS as error:
                    raise UserError(f"{demo}: {why_not_read(group, 'actions', error)}.") from None
                yield str(demo), actions[:, list(dims)]
