"""Camera images in a demo group: arrays, or one JPEG or PNG a step."""

from __future__ import annotations

import io
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image

from datamodules.hdf5 import READ_ERRORS, why_not_read

Orientation = Literal["upright", "flip_vertical", "flip_horizontal", "rotate_180"]
_MAGIC = (b"\xff\xd8", b"\x89PNG")


class EncodedPictures:
    """JPEG or PNG pictures, one an element, that are read like an array (T, H, W, 3).

    Attributes:
        dtype: uint8, what they decode to.
        ndim: 4.
        chunks: One picture, so that single pictures are read.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4
    chunks = (1,)

    def __init__(self, data: h5py.Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, H, W, 3), of the first picture."""
        return (len(self), *(self[0].shape if len(self) else (0, 0, 3)))

    def __getitem__(self, index: int | slice) -> npt.NDArray[np.uint8]:
        if isinstance(index, slice):
            return np.stack([_decode(value) for value in self.data[index]])
        return _decode(self.data[index])


def as_pictures(data: h5py.Dataset) -> h5py.Dataset | EncodedPictures:
    """A dataset as something that reads like (T, H, W, 3).

    Raises:
        TypeError: It is no dataset.
    """
    if not isinstance(data, h5py.Dataset):
        raise TypeError("not a dataset")
    return EncodedPictures(data) if _may_be_encoded(data) else data


def are_pictures(data: Any) -> bool:  # noqa: ANN401 - h5py is untyped
    """Whether an object under ``obs`` holds colour pictures, whatever its name."""
    if not isinstance(data, h5py.Dataset):
        return False
    if data.dtype == np.uint8 and data.ndim == 4 and data.shape[-1] == 3:
        return True
    if not _may_be_encoded(data) or not len(data):
        return False
    try:
        return _bytes(data[0]).startswith(_MAGIC)
    except READ_ERRORS:
        return False


def reading_problem(obs: h5py.Group, key: str, steps: tuple[int, ...]) -> str:
    """Why one of these pictures cannot be read; empty if all can."""
    try:
        pictures = as_pictures(obs[key])
        for step in steps:
            pictures[step]
    except READ_ERRORS as error:
        return why_not_read(obs, key, error)
    return ""


def turn_upright(images: npt.NDArray[np.uint8], orientation: Orientation) -> npt.NDArray[np.uint8]:
    """Undo the way images (..., H, W, C) were stored; all three turns are their own inverse."""
    if orientation == "flip_vertical":
        return images[..., ::-1, :, :]
    if orientation == "flip_horizontal":
        return images[..., ::-1, :]
    if orientation == "rotate_180":
        return images[..., ::-1, ::-1, :]
    return images


def _may_be_encoded(data: h5py.Dataset) -> bool:
    """One element of bytes a step: of any length, of one length, or a padded row."""
    if data.ndim == 2:
        return bool(data.dtype == np.uint8)
    element = h5py.check_vlen_dtype(data.dtype)
    return data.ndim == 1 and (data.dtype.kind in "SV" or (element is not None and np.dtype(element).itemsize == 1))


def _bytes(value: Any) -> bytes:  # noqa: ANN401 - an array of bytes, a void or bytes
    return value if isinstance(value, bytes) else bytes(np.asarray(value).tobytes())


def _decode(value: Any) -> npt.NDArray[np.uint8]:  # noqa: ANN401
    with Image.open(io.BytesIO(_bytes(value))) as picture:
        return np.asarray(picture.convert("RGB"))
