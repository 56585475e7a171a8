"""Checkpoints that are whole or not there, and that cannot run code when they are read."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or must not be read; the message says what to do."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside the old one, flush it to disk and rename it over the old one in one step.

    A full disk, a kill or a power cut while writing leaves the previous file as it was. Reading admits tensors and
    plain values only (``weights_only=True``), whatever the caller asks for.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,  # noqa: ANN401 - Lightning's signature
    ) -> None:
        """Write a checkpoint to a local path.

        Raises:
            CheckpointError: The disk is full or the folder not writable; the file that was there is untouched.
        """
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.writing")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(checkpoint, temporary)
            os.replace(temporary, target)
            _sync_folder(target.parent)
        except (OSError, RuntimeError) as error:  # torch reports a failed write of its stream as RuntimeError
            if temporary.is_file():
                temporary.unlink()
            reason = _os_error(error)
            if reason is None:
                raise
            kept = "the previous checkpoint there is whole" if target.exists() else "nothing was left behind"
            advice = "Free some space" if reason.errno in (errno.ENOSPC, errno.EDQUOT) else "Make the folder writable"
            raise CheckpointError(
                f"{target}: could not be written ({reason.strerror or reason}); {kept}. "
                f"{advice} and start the same command again."
            ) from error

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,  # noqa: ANN401 - Lightning's signature
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU unless told otherwise; objects other than tensors and plain values are refused.

        Raises:
            CheckpointError: No such file, a damaged one, or one that holds pickled objects.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"{path}: no such checkpoint.")
        try:
            content: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path}: holds pickled objects besides tensors and plain values, which could run code, and is not "
                "loaded; use a checkpoint that this framework wrote."
            ) from error
        except (RuntimeError, EOFError) as error:
            raise CheckpointError(
                f"{path}: damaged or no checkpoint ({str(error).splitlines()[0]}); delete it to start over, or use "
                "another one."
            ) from error
        return content


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as stream:
        torch.save(checkpoint, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _os_error(error: BaseException | None) -> OSError | None:
    """The OSError behind an exception, if there is one."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
