"""What tells a demo file, and this state of it, from others: the key of everything that is computed from demos once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

NUM_SAMPLES, SAMPLE_BYTES = 16, 2**16


def file_identity(path: str | Path, task: str) -> dict[str, Any]:
    """Name, task, size, time of change and a sample of the content; the file may lie anywhere.

    Size and time alone do not tell demos of equal lengths apart whose times a copy has cut to seconds.
    """
    status = Path(path).stat()
    return {
        "name": Path(path).name,
        "task": task,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "content": content_sample(Path(path), status.st_size),
    }


def content_sample(path: Path, size: int) -> str:
    """Hex SHA-256 over stretches spread evenly over a file, of at most 1 MiB together; of a smaller file over all."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for index in range(NUM_SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * index // (NUM_SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
