"""Write demos in robomimic's layout: each to a file of its own at once, all of them into one file at the end."""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from datamodules.demo_files import PARTS
from datamodules.hdf5 import READ_ERRORS, one_line, read_json_attribute, refuse_journal, text_of
from datamodules.preprocessing import ROBOT
from datamodules.readers import demo_names
from files.errors import UserError
from files.locks import HeldError, hold_folder
from files.writing import replacing

IMAGE = "_image"  # ends the key of a camera's pictures


@dataclass
class Demo:
    """One recorded episode of L steps.

    Attributes:
        actions: (L, D) raw actions.
        images: Camera name to uint8 (L, H, W, 3), upright.
        states: (L, S) simulator states, if they were recorded.
        instruction: What the robot was told.
        attrs: Further texts to keep with the demo, e.g. ``model_file`` or the key of its episode.
        proprio: Name to (L, n) vectors of the robot, kept under ``obs/robot0_<name>`` as robomimic does.
    """

    actions: npt.NDArray[Any]
    images: Mapping[str, npt.NDArray[np.uint8]]
    states: npt.NDArray[Any] | None = None
    instruction: str = ""
    attrs: dict[str, str] = field(default_factory=dict)
    proprio: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class RobomimicWriter:
    """Create a demo file or go on with one; ``RobosuiteDataModule`` reads it.

    Every ``add`` brings a whole demo to the disk or nothing, as ``<path>.parts/demo_N.hdf5``, a demo file in itself.
    When the ``with`` block ends well all of them move into the one file at ``path``, in one step. A writer killed at
    any moment loses no demo that was added: the next one goes on with the parts that it finds.

    Args:
        path: The HDF5 file; its folder is made if need be.
        env_name: Name of the task, kept in ``env_args`` as robomimic does.
        env_kwargs: Settings of the environment, JSON-able.

    Raises:
        UserError: The file cannot be written, another process adds to it, it is no demo file, or holds demos of
            another task.
    """

    def __init__(self, path: str | Path, env_name: str, env_kwargs: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.parts = self.path.with_name(f"{self.path.name}{PARTS}")
        self._header = {"env_name": env_name, "type": 1, "env_kwargs": dict(env_kwargs or {})}
        self._attrs: dict[str, dict[str, str]] = {}  # of every demo by its name
        self._like: tuple[dict[str, Any], int] | None = None  # shapes by camera and action width of the first
        self._read(self.path)
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            self._lock = hold_folder(self.parts)
        except HeldError as error:
            raise UserError(f"{path}: another process is using this file ({error}); wait until it is done.") from None
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); choose an output in a folder you may write to."
            ) from None
        for unfinished in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.writing"):
            unfinished.unlink()  # of a process that was killed while it joined the parts
        self._attrs = {}
        self._read(self.path)  # again: another process may have added to it just now
        for part in self.parts.glob("*.hdf5"):
            if part.stem in self._attrs:
                part.unlink()  # moved already; the kill came before it was taken away
            else:
                self._read(part)

    def __enter__(self) -> RobomimicWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(merge=error is None)

    def __len__(self) -> int:
        return len(self._attrs)

    def attributes(self, name: str) -> list[str]:
        """The value of a text attribute of every demo that has it, e.g. to see which episodes are done."""
        return [attrs[name] for attrs in self._attrs.values() if name in attrs]

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Settings of the environment as the file's first writer gave them; empty if it gave none."""
        kwargs = self._header.get("env_kwargs")
        return dict(kwargs) if isinstance(kwargs, dict) else {}

    def add(self, demo: Demo) -> str:
        """Bring a demo to the disk and return its name.

        Raises:
            UserError: The demo does not fit the others, or the disk is full; those added before are whole.
        """
        self._check(demo)
        name = f"demo_{1 + max((int(name.rpartition('_')[2]) for name in self._attrs), default=-1)}"
        with _written(self.parts / f"{name}.hdf5") as temporary, h5py.File(temporary, "w") as file:
            data = file.create_group("data")
            data.attrs.update({"total": len(demo.actions), "env_args": json.dumps(self._header)})
            _write(data.create_group(name), demo)
        self._attrs[name] = dict(demo.attrs)
        self._like = self._like or _shapes(demo)
        return name

    def close(self, merge: bool = True) -> None:
        """Move the parts into the one file, unless told not to, and let others write.

        Raises:
            UserError: There is no room for both; the parts stay.
        """
        try:
            parts = [part for name in self._attrs if (part := self.parts / f"{name}.hdf5").exists()]
            if merge and parts:
                self._merge(parts)
            if merge or not parts:
                shutil.rmtree(self.parts, ignore_errors=True)
        finally:
            self._lock.release()

    def _merge(self, parts: list[Path]) -> None:
        with _written(self.path) as temporary:
            if self.path.exists():
                shutil.copyfile(self.path, temporary)
            with h5py.File(temporary, "a") as file:
                data = file.require_group("data")
                data.attrs.setdefault("env_args", json.dumps(self._header))
                for part in parts:
                    with h5py.File(part) as source:
                        source.copy(f"data/{part.stem}", data)  # copies compressed chunks as they are
                data.attrs["total"] = sum(len(group["actions"]) for group in data.values())

    def _read(self, path: Path) -> None:
        """Take in the header and the demos of a file, if there is one.

        Raises:
            UserError: It is no file of ours to go on with.
        """
        refuse_journal(self.path)
        if not path.exists():
            return
        if path.is_dir():
            raise UserError(f"{path}: cannot be written (Is a directory); choose another output.")
        try:
            with h5py.File(path) as file:
                self._take_in(file)
        except UserError:
            raise
        except READ_ERRORS as error:
            raise UserError(f"{path}: not an HDF5 file ({one_line(error)}); choose another output.") from None

    def _take_in(self, file: h5py.File) -> None:
        data = file.get("data")
        if not isinstance(data, h5py.Group) or "total" not in data.attrs:
            raise UserError(f"{self.path}: not a file of demos in robomimic's layout; choose another output.")
        header = read_json_attribute(data, "env_args")
        if (found := header.get("env_name")) != self._header["env_name"]:
            wanted = self._header["env_name"]
            raise UserError(f"{self.path}: holds demos of {found}, not of {wanted}; choose another output.")
        self._header = header
        for name in demo_names(file):
            group = data[name]
            self._attrs[name] = {key: text_of(value) for key, value in group.attrs.items()}
            if self._like is None:
                pictures = {key: images for key, images in group["obs"].items() if key.endswith(IMAGE)}
                images = {key.removesuffix(IMAGE): images.shape[1:] for key, images in pictures.items()}
                self._like = images, group["actions"].shape[1]

    def _check(self, demo: Demo) -> None:
        length = len(demo.actions)
        if demo.actions.ndim != 2 or length < 1 or not np.isfinite(demo.actions).all():
            raise UserError(f"{self.path}: actions must be finite and (steps, D), not {demo.actions.shape}.")
        for camera, images in demo.images.items():
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or len(images) != length:
                raise UserError(
                    f"{self.path}: images of {camera} are {images.dtype} {images.shape}; they must be uint8 "
                    f"({length}, H, W, 3), one per action."
                )
        if self._like is not None and self._like != _shapes(demo):
            there, here = ("cameras {} and {} action dimensions".format(*like) for like in (self._like, _shapes(demo)))
            raise UserError(f"{self.path}: its demos have {there}, this one {here}; write it to another output.")


def _shapes(demo: Demo) -> tuple[dict[str, Any], int]:
    return {camera: images.shape[1:] for camera, images in demo.images.items()}, demo.actions.shape[1]


def _write(group: h5py.Group, demo: Demo) -> None:
    group["actions"] = np.asarray(demo.actions, dtype=np.float64)
    if demo.states is not None:
        group["states"] = np.asarray(demo.states, dtype=np.float64)
    for camera, images in demo.images.items():
        # a chunk a frame: training reads single frames, and gzip's first level is nearly as small as its ninth
        options = {"chunks": (1, *images.shape[1:]), "compression": "gzip", "compression_opts": 1}
        group.create_dataset(f"obs/{camera}{IMAGE}", data=images, **options)
    for name, vectors in demo.proprio.items():
        group[f"obs/{ROBOT}{name}"] = vectors
    group.attrs.update(demo.attrs | {"instruction": demo.instruction, "num_samples": len(demo.actions)})


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """As `replacing`; HDF5 tells a full disk in errors of several kinds and lines."""
    with replacing(path) as temporary:
        try:
            yield temporary
        except (OSError, RuntimeError) as error:
            raise OSError(getattr(error, "errno", None), getattr(error, "strerror", "") or one_line(error)) from error
