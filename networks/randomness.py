"""Random numbers by name: what a draw is for decides it, not when or where it is made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


def stream_seed(*name: int | str) -> int:
    """Seed of the stream with a name, such as ``(seed, "training", step, rank)``: 63 bits, as torch's generators take.

    Streams of different names share no numbers; a small draw of one is not the beginning of a large draw of another.
    """
    digest = hashlib.sha256(repr(name).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generators(seeds: Sequence[int], stream: str) -> list[torch.Generator]:
    """One CPU generator a sample, so that neither the device nor the other samples of a batch change its numbers.

    Args:
        seeds: One seed a sample.
        stream: What is drawn: ``video``, ``action``, ``condition``, ``posterior`` or ``scheduler``.
    """
    return [torch.Generator().manual_seed(stream_seed(seed, stream)) for seed in seeds]


@contextmanager
def isolated_stream(seed: int) -> Iterator[None]:
    """Draw from a stream of one's own where a library knows torch's global CPU stream alone; both go on untouched.

    `torch.manual_seed` would seed every CUDA device as well, which `fork_rng` does not undo for devices it is not told.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
