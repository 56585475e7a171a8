"""The parity folder's rule for weights and inputs (its README, section 1), rebuilt from names alone."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor


def _unit(name: str, shape: Sequence[int]) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    words = np.random.PCG64(seed).random_raw(math.prod(shape))
    uniform = (words >> np.uint64(11)) * 2.0**-53
    return torch.from_numpy((math.sqrt(3) * (2 * uniform - 1)).astype(np.float32).reshape(tuple(shape)))


def _weight(key: str, shape: Sequence[int]) -> Tensor:
    unit = _unit(key, shape)
    if key.endswith("mix_factor"):
        return unit
    if len(shape) >= 2:
        return unit * float(np.float32(1 / math.sqrt(math.prod(shape[1:]))))
    return 1 + unit * float(np.float32(0.1)) if key.endswith("weight") else unit * float(np.float32(0.1))


def filled(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Weights by published key (as the key is spelt in `shapes`), following the rule."""
    return {key: _weight(key, shape) for key, shape in shapes.items()}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors on one thread: many threads on a busy machine wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def unit() -> Callable[[str, Sequence[int]], Tensor]:
    """`unit(name, shape)`: float32 tensor of zero mean and unit variance that the name alone decides."""
    return _unit


@pytest.fixture(scope="session")
def fill_by_rule() -> Callable[[Mapping[str, Sequence[int]]], dict[str, Tensor]]:
    """`fill_by_rule(shapes)`: weights by published key (as the key is spelt in `shapes`), following the rule."""
    return filled


@pytest.fixture(scope="session")
def parity_arrays(parity_dir: Path) -> Callable[[str], dict[str, Tensor]]:
    """`parity_arrays("unet_tiny")`: every array of one parity file as a tensor."""

    def load(stem: str) -> dict[str, Tensor]:
        with np.load(parity_dir / f"{stem}.npz") as arrays:
            return {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind in "fiub"}

    return load


@pytest.fixture(scope="session")
def sampled() -> Callable[[Tensor, int], Tensor]:
    """`sampled(x, n)`: the n evenly spread elements that the arrays named "sampled" hold."""
    return lambda x, n: x.flatten()[torch.from_numpy(np.linspace(0, x.numel() - 1, n).astype(np.int64))]
