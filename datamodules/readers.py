"""Where the three HDF5 layouts keep images, instructions and task names; one reader class a layout.

All three hold ``data/demo_N/{actions, obs/...}``. They differ in camera keys, in where the instruction
stands, and in which way up the images are.
"""

from __future__ import annotations

import errno
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import h5py
import numpy as np
import numpy.typing as npt

from datamodules.errors import DatasetError
from datamodules.journal import recover

Orientation = Literal["upright", "flip_vertical", "flip_horizontal", "rotate_180"]
LayoutName = Literal["robomimic", "robocasa", "libero"]


def open_demo_file(path: str | Path) -> h5py.File:
    """Open for reading.

    Raises:
        DatasetError: The file is missing, truncated, not HDF5, locked by a writer, or holds no ``data`` group.
    """
    recover(Path(path))
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; check data.init_args.paths.") from None
    except PermissionError:
        raise DatasetError(f"{path}: you may not read this file; change its permissions.") from None
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise DatasetError(f"{path}: another process is writing this file; wait until it is done.") from None
        what = "truncated" if "truncated" in str(error) else "not an HDF5 file, or damaged"
        raise DatasetError(f"{path}: {what} ({_one_line(error)}); download or collect it again.") from None
    if not isinstance(file.get("data"), h5py.Group):
        found = sorted(file)
        file.close()
        raise DatasetError(
            f"{path}: no group 'data', only {found}; expected the robosuite/robomimic, RoboCasa or LIBERO layout."
        )
    return file


class DemoReader(ABC):
    """What one layout means; holds no file, so it pickles freely.

    Attributes:
        name: The layout's name.
        title: How messages call it.
        data_module: The data module that reads it.
        image_suffix: How the keys of camera images under ``obs/`` end.
        orientation: How images are usually stored.
    """

    name: ClassVar[LayoutName]
    title: ClassVar[str]
    data_module: ClassVar[str]
    image_suffix: ClassVar[str]
    orientation: ClassVar[Orientation] = "upright"

    def camera_key(self, camera: str) -> str:
        """Key of a camera's images inside a demo group."""
        return f"obs/{camera}{self.image_suffix}"

    def cameras(self, demo: h5py.Group) -> list[str]:
        """Names of the cameras that a demo has images of."""
        keys = demo.get("obs", ())
        return sorted(key.removesuffix(self.image_suffix) for key in keys if key.endswith(self.image_suffix))

    def task(self, file: h5py.File) -> str:
        """Name of the task, from the environment's name or else the file's."""
        name = read_json_attribute(file["data"], "env_args").get("env_name")
        return str(name) if name else Path(file.filename).stem

    @abstractmethod
    def instruction(self, demo: h5py.Group) -> str | None:
        """What the robot was told, or None if the file does not say."""

    @staticmethod
    @abstractmethod
    def recognises(file: h5py.File) -> bool:
        """Whether a file (with at least one demo) is in this layout."""


class RobomimicReader(DemoReader):
    """robosuite demos as robomimic stores them: ``obs/<camera>_image``, upright.

    The instruction is the demo's attribute ``instruction`` or the one in ``data``'s ``env_args`` (both
    written by ``videopolicy collect``); robomimic's own files have none.
    """

    name = "robomimic"
    title = "robosuite/robomimic"
    data_module = "RobosuiteDataModule"
    image_suffix = "_image"

    def instruction(self, demo: h5py.Group) -> str | None:
        """From the demo's attribute, else from ``env_args``."""
        if "instruction" in demo.attrs:
            return _text(demo.attrs["instruction"])
        text = read_json_attribute(demo.parent, "env_args").get("instruction")
        return None if text is None else str(text)

    @staticmethod
    def recognises(file: h5py.File) -> bool:
        """Keys end in ``_image`` and no ``ep_meta`` carries an instruction."""
        demo = _first_demo(file)
        return _has_keys(demo, "_image") and not RoboCasaReader.recognises(file)


class RoboCasaReader(DemoReader):
    """RoboCasa v0.2: ``obs/<camera>_image``, upright; instruction in the demo's ``ep_meta`` (JSON, "lang")."""

    name = "robocasa"
    title = "RoboCasa v0.2"
    data_module = "RoboCasaDataModule"
    image_suffix = "_image"

    def instruction(self, demo: h5py.Group) -> str | None:
        """``lang`` of the episode's metadata."""
        text = read_json_attribute(demo, "ep_meta").get("lang")
        return None if text is None else str(text)

    @staticmethod
    def recognises(file: h5py.File) -> bool:
        """The first demo's ``ep_meta`` has "lang"; robosuite 1.5 writes ``ep_meta`` too, but without it."""
        return "lang" in read_json_attribute(_first_demo(file), "ep_meta")


class LiberoReader(DemoReader):
    """LIBERO's official demos: ``obs/agentview_rgb`` and ``obs/eye_in_hand_rgb``, one task a file, upside down.

    Cameras go by their simulator names: ``robot0_eye_in_hand`` is stored without the ``robot0_``.
    """

    name = "libero"
    title = "LIBERO"
    data_module = "LiberoDataModule"
    image_suffix = "_rgb"
    orientation = "flip_vertical"

    def camera_key(self, camera: str) -> str:
        """``agentview`` is ``obs/agentview_rgb``, ``robot0_eye_in_hand`` is ``obs/eye_in_hand_rgb``."""
        return super().camera_key(camera.removeprefix("robot0_"))

    def cameras(self, demo: h5py.Group) -> list[str]:
        """Simulator names of the cameras."""
        return sorted("robot0_eye_in_hand" if name == "eye_in_hand" else name for name in super().cameras(demo))

    def task(self, file: h5py.File) -> str:
        """The file's name; ``env_name`` is the scene, which several tasks share."""
        return Path(file.filename).stem.removesuffix("_demo")

    def instruction(self, demo: h5py.Group) -> str | None:
        """``language_instruction`` of ``data``'s ``problem_info`` (some releases wrap it in a list)."""
        text = read_json_attribute(demo.parent, "problem_info").get("language_instruction")
        if isinstance(text, list):
            text = "".join(text)
        return None if text is None else str(text).strip().strip('"')

    @staticmethod
    def recognises(file: h5py.File) -> bool:
        """``problem_info`` is there, or the keys end in ``_rgb``."""
        return "problem_info" in file["data"].attrs or _has_keys(_first_demo(file), "_rgb")


READERS: Mapping[LayoutName, type[DemoReader]] = {
    "robomimic": RobomimicReader,
    "robocasa": RoboCasaReader,
    "libero": LiberoReader,
}


def detect_reader(file: h5py.File) -> DemoReader | None:
    """The reader of a file's layout, or None if it resembles none of the three."""
    if not demo_names(file):
        return None
    return next((reader() for reader in READERS.values() if reader.recognises(file)), None)


def require_layout(file: h5py.File, reader: DemoReader) -> None:
    """Fail at set-up if a file is in another layout than the data module expects.

    Raises:
        DatasetError: Saying which layout it looks like and which data module reads that.
    """
    if not demo_names(file):
        raise DatasetError(f"{file.filename}: no demo under 'data' (expected data/demo_0, ...); collect some first.")
    found = detect_reader(file)
    if found is None:
        keys = sorted(_first_demo(file).get("obs", ()))
        raise DatasetError(
            f"{file.filename}: no camera images (obs has {keys}), so this is not the {reader.title} layout; "
            "render the images into the file first."
        )
    if found.name != reader.name:
        raise DatasetError(
            f"{file.filename}: this looks like the {found.title} layout, not {reader.title}; "
            f"use {found.data_module} for it."
        )


def demo_names(file: h5py.File) -> list[str]:
    """Names of the demo groups in the order of their numbers."""
    names = [name for name in file["data"] if name.startswith("demo")]
    return sorted(names, key=lambda name: (int(digits) if (digits := name.rpartition("_")[2]).isdigit() else -1, name))


def masked_names(file: h5py.File, filter_key: str) -> list[str]:
    """Names of the demos listed under ``mask/<filter_key>``, in the order of their numbers.

    Raises:
        DatasetError: There is no such key; lists those there.
    """
    masks = file.get("mask", {})
    if filter_key not in masks:
        raise DatasetError(
            f"{file.filename}: no filter key {filter_key!r}; the file has {sorted(masks)}. "
            "Set filter_key to one of these."
        )
    wanted = {_text(name) for name in masks[filter_key][()]}
    return [name for name in demo_names(file) if name in wanted]


def turn_upright(images: npt.NDArray[np.uint8], orientation: Orientation) -> npt.NDArray[np.uint8]:
    """Undo the way images (..., H, W, C) were stored; all three turns are their own inverse."""
    if orientation == "flip_vertical":
        return images[..., ::-1, :, :]
    if orientation == "flip_horizontal":
        return images[..., ::-1, :]
    if orientation == "rotate_180":
        return images[..., ::-1, ::-1, :]
    return images


def read_json_attribute(group: h5py.Group, name: str) -> dict[str, Any]:
    """A JSON object kept as an attribute; empty if there is none.

    Raises:
        DatasetError: The attribute is there but is not a JSON object.
    """
    if name not in group.attrs:
        return {}
    try:
        value = json.loads(_text(group.attrs[name]))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        where = f"{group.file.filename} {group.name}"
        raise DatasetError(f"{where}: attribute {name!r} is not a JSON object; write it again.")
    return value


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _first_demo(file: h5py.File) -> h5py.Group:
    return file["data"][demo_names(file)[0]]


def _has_keys(demo: h5py.Group, suffix: str) -> bool:
    return any(key.endswith(suffix) for key in demo.get("obs", ()))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
