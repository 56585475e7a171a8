"""What tells a file, or a JSON value, from others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

NUM_SAMPLES, SAMPLE_BYTES = 16, 2**16


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def json_sha256(value: Any, digits: int = 64) -> str:  # noqa: ANN401 - any JSON value
    """The first hex digits of the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def file_identity(path: str | Path, task: str) -> dict[str, Any]:
    """Name, task, size, time of change and a sample of the content of a demo file, which may lie anywhere.

    The key of everything that is computed from demos once. Size and time alone do not tell demos of equal lengths
    apart whose times a copy has cut to seconds.
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
