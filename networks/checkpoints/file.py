"""Checkpoint files: whole or not there, and never able to run code when they are read."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from files.errors import UserError
from files.writing import replacing

GROUP_BYTES = 2**28  # of a .safetensors file mapped at a time: mapped pages count as memory until the map is closed


def read_checkpoint(
    path: str | os.PathLike[str],
    map_location: Any | None = None,  # noqa: ANN401 - torch's own union
    mapped: bool = False,
) -> dict[str, Any]:
    """Read a ``.ckpt`` as tensors and plain values, to the CPU unless told otherwise; nothing in it is executed.

    Args:
        path: The file.
        map_location: As in ``torch.load``.
        mapped: Leave the tensors in the file until they are used; for those that are copied into a network at once.

    Raises:
        UserError: No such file, a damaged one, or one that holds other objects.
    """
    if Path(path).is_dir():
        inside = sorted(str(found) for found in Path(path).rglob("*.ckpt"))[:3]
        there = f"it has {', '.join(inside)}" if inside else "there is no .ckpt in it"
        raise UserError(f"{path}: is a folder, and a checkpoint file is needed; {there}.")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint; correct the path, or train first (make train-action).")
    if _is_safetensors(Path(path)):
        raise UserError(
            f"{path}: is a .safetensors file, bare weights without a description; make a checkpoint of it first: "
            "videopolicy convert --to native."
        )
    try:
        content: dict[str, Any] = torch.load(
            path, map_location or "cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds pickled objects besides tensors and plain values; they could run code, so it is not "
            "loaded. If you trust its source, save only its tensors where it came from: "
            "torch.save({'state_dict': torch.load(PATH, weights_only=False)['state_dict']}, 'weights.ckpt')."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"{path}: damaged or no checkpoint ({str(error).splitlines()[0]}); delete it to start over, or use "
            "another one."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint; give another file.")
    return content


def _is_safetensors(path: Path) -> bool:
    """Whether a file has the head of one, whatever its name: the size of a JSON header, and its brace."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def read_safetensors(path: Path, advance: Callable[[int], object] = lambda _: None) -> dict[str, Tensor]:
    """Read every tensor of a ``.safetensors`` file into memory of its own, without ever holding it twice.

    Args:
        path: The file.
        advance: Told the bytes of every group that was read.

    Raises:
        UserError: The file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())  # the only list of names that there is
        while len(tensors) < len(names):
            with safe_open(path, "pt") as file:
                size = 0
                while size < GROUP_BYTES and len(tensors) < len(names):
                    name = names[len(tensors)]
                    tensors[name] = file.get_tensor(name).clone()
                    size += tensors[name].nbytes
            advance(size)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged, or no .safetensors file ({error}); download or write it again.") from error
    return tensors


def write_checkpoint(
    document: Mapping[str, Any], path: str | os.PathLike[str], advance: Callable[[int], object] = lambda _: None
) -> None:
    """Write a ``.ckpt`` beside the old one, flush it to disk and rename it over the old one in one step.

    Args:
        document: Tensors and plain values.
        path: The file.
        advance: Told the bytes of every piece that was written.

    Raises:
        UserError: The disk is full or the folder not writable; the file that was there is untouched.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            torch.save(document, cast(IO[bytes], _Counted(stream, advance)))

    _in_one_step(Path(path), write)


def write_safetensors(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """As `write_checkpoint`, a flat table without pickle.

    Raises:
        UserError: The disk is full or the folder not writable; the file that was there is untouched.
    """

    def write(temporary: Path) -> None:
        save_file(dict(tensors), temporary)
        temporary.chmod(0o644)  # it makes the file private

    _in_one_step(Path(path), write)


class _Counted:
    """A stream for ``torch.save`` that tells how much went through it."""

    def __init__(self, stream: BinaryIO, advance: Callable[[int], object]) -> None:
        self._stream = stream
        self._advance = advance
        self.flush = stream.flush

    def write(self, data: bytes | memoryview) -> int:
        size = self._stream.write(data)
        self._advance(size)
        return size


def _in_one_step(target: Path, write: Callable[[Path], object]) -> None:
    with replacing(target) as temporary:
        try:
            write(temporary)
        except (RuntimeError, SafetensorError) as error:  # torch and safetensors report a failed write so
            reason = _os_error(error)
            if reason is None and not isinstance(error, SafetensorError):
                raise
            raise reason or OSError(str(error)) from error


def _os_error(error: BaseException | None) -> OSError | None:
    """The OSError behind an exception, if there is one."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
