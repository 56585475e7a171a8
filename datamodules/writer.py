"""Write demos in robomimic's layout, one whole demo at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from datamodules.attributes import read_json_attribute
from datamodules.journal import JournaledFile
from datamodules.readers import demo_names
from files.errors import UserError


@dataclass
class Demo:
    """One recorded episode of L steps.

    Attributes:
        actions: (L, D) raw actions.
        images: Camera name to uint8 (L, H, W, 3), upright.
        states: (L, S) simulator states, if they were recorded.
        instruction: What the robot was told.
        attrs: Further texts to keep with the demo, e.g. ``model_file`` or the key of its episode.
    """

    actions: npt.NDArray[Any]
    images: Mapping[str, npt.NDArray[np.uint8]]
    states: npt.NDArray[Any] | None = None
    instruction: str = ""
    attrs: dict[str, str] = field(default_factory=dict)


class RobomimicWriter:
    """Create a demo file or go on with one; ``RobosuiteDataModule`` reads it.

    Every ``add`` brings a whole demo to the disk or nothing: a writer killed at any moment leaves the demos that were
    added before. While it is open nobody else can open the file.

    Args:
        path: The HDF5 file; its folder is made if need be.
        env_name: Name of the task, kept in ``env_args`` as robomimic does.
        env_kwargs: Settings of the environment, JSON-able.

    Raises:
        UserError: The file cannot be written, is in use, is no demo file, or holds demos of another task.
    """

    def __init__(self, path: str | Path, env_name: str, env_kwargs: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self._file: h5py.File = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._journaled = JournaledFile(self.path)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); choose an output in a folder you may write to."
            ) from None
        try:
            self._file = self._open()
            self._start(env_name, env_kwargs or {})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RobomimicWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(demo_names(self._file))

    def attributes(self, name: str) -> list[str]:
        """The value of a text attribute of every demo that has it, e.g. to see which episodes are done."""
        data = self._file["data"]
        return [str(data[demo].attrs[name]) for demo in demo_names(self._file) if name in data[demo].attrs]

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Settings of the environment as the file's first writer gave them; empty if it gave none."""
        kwargs = read_json_attribute(self._file["data"], "env_args").get("env_kwargs")
        return dict(kwargs) if isinstance(kwargs, dict) else {}

    def add(self, demo: Demo) -> str:
        """Append a demo and return its name.

        Raises:
            UserError: The demo does not fit the others, or the disk is full; the file is as before.
        """
        self._check(demo)
        names = demo_names(self._file)
        name = f"demo_{int(names[-1].rpartition('_')[2]) + 1}" if names else "demo_0"
        data = self._file["data"]
        group = data.create_group(name)
        group["actions"] = np.asarray(demo.actions, dtype=np.float64)
        if demo.states is not None:
            group["states"] = np.asarray(demo.states, dtype=np.float64)
        for camera, images in demo.images.items():
            # a chunk a frame: training reads single frames, and gzip's first level is nearly as small as its ninth
            group.create_dataset(
                f"obs/{camera}_image",
                data=images,
                chunks=(1, *images.shape[1:]),
                compression="gzip",
                compression_opts=1,
            )
        group.attrs.update(demo.attrs | {"instruction": demo.instruction, "num_samples": len(demo.actions)})
        data.attrs["total"] = int(data.attrs["total"]) + len(demo.actions)
        self._commit(name)
        return name

    def close(self) -> None:
        """Close the file; every added demo is already on the disk."""
        if self._file is not None:
            self._file.close()
        self._journaled.close()

    def _open(self) -> h5py.File:
        try:
            return h5py.File(self._journaled, "r+" if self._journaled.seek(0, 2) else "w")
        except OSError as error:
            what = " ".join(str(error).split())
            raise UserError(f"{self.path}: not an HDF5 file ({what}); choose another output.") from None

    def _start(self, env_name: str, env_kwargs: Mapping[str, Any]) -> None:
        """Write the header of an empty file, or check that of another."""
        if not len(self._file):
            data = self._file.create_group("data")
            data.attrs["total"] = 0
            data.attrs["env_args"] = json.dumps({"env_name": env_name, "type": 1, "env_kwargs": dict(env_kwargs)})
            self._commit("the header")
        data = self._file.get("data")
        if not isinstance(data, h5py.Group) or "total" not in data.attrs:
            raise UserError(f"{self.path}: not a file of demos in robomimic's layout; choose another output.")
        if (found := read_json_attribute(data, "env_args").get("env_name")) != env_name:
            raise UserError(f"{self.path}: holds demos of {found}, not of {env_name}; choose another output.")

    def _commit(self, what: str) -> None:
        self._file.flush()
        try:
            self._journaled.commit()
        except OSError as error:
            raise UserError(
                f"{self.path}: {what} was not written ({error.strerror}); what the file held before is whole, so "
                "make room and start again to go on."
            ) from None

    def _check(self, demo: Demo) -> None:
        length = len(demo.actions)
        if demo.actions.ndim != 2 or length < 1 or not np.isfinite(demo.actions).all():
            raise UserError(f"{self.path}: actions must be finite and (steps, D), not {demo.actions.shape}.")
        shapes = {camera: images.shape for camera, images in demo.images.items()}
        for camera, images in demo.images.items():
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or len(images) != length:
                raise UserError(
                    f"{self.path}: images of {camera} are {images.dtype} {images.shape}; they must be uint8 "
                    f"({length}, H, W, 3), one per action."
                )
        if names := demo_names(self._file):
            first = self._file["data"][names[0]]
            there = {key.removesuffix("_image"): data.shape[1:] for key, data in first["obs"].items()}
            mine = {camera: shape[1:] for camera, shape in shapes.items()}
            if there != mine or first["actions"].shape[1] != demo.actions.shape[1]:
                raise UserError(
                    f"{self.path}: its demos have cameras {there} and {first['actions'].shape[1]} action dimensions, "
                    f"this one {mine} and {demo.actions.shape[1]}; write it to another output."
                )
