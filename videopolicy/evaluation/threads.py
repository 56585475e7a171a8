"""How many threads the policy computes with beside the simulators, which need cores of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from files.errors import UserError


@contextmanager
def policy_threads(wanted: int | None, workers: int, device: str) -> Iterator[None]:
    """Set torch's threads while it lasts.

    Args:
        wanted: So many; None leaves every simulator process a core if the policy runs on the CPU, unless
            OMP_NUM_THREADS has decided. Threads that wait for one another in turns with software OpenGL starve both.
        workers: Simulator processes.
        device: Where the policy runs.

    Raises:
        UserError: `wanted` is no number from 1 on.
    """
    if wanted is not None and wanted < 1:
        raise UserError(f"--threads {wanted}: the policy needs at least one; leave it out to have it chosen.")
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or chosen_threads(before, workers, device))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def chosen_threads(before: int, workers: int, device: str) -> int:
    """Threads where nobody has asked for a number.

    Args:
        before: What torch would take.
        workers: Simulator processes.
        device: Where the policy runs.
    """
    if torch.device(device).type != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return before
    return min(before, max(num_cores() - workers, 1))


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
