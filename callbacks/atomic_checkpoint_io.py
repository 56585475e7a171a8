"""Lightning's door to checkpoint files: whole or not there, and never able to run code when they are read."""

from __future__ import annotations

import os
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from networks.checkpoints.file import read_checkpoint, write_checkpoint


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
            UserError: The disk is full or the folder not writable; the file that was there is untouched.
        """
        write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,  # noqa: ANN401 - Lightning's signature
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU unless told otherwise; objects other than tensors and plain values are refused.

        Raises:
            UserError: No such file, a damaged one, or one that holds pickled objects.
        """
        return read_checkpoint(path, map_location)
