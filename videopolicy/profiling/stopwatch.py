"""Seconds and peak memory of what runs on this machine."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from videopolicy.hardware import wait_for


@dataclass(frozen=True)
class Timing:
    """Several runs of one thing.

    Attributes:
        median_s: Median, in seconds.
        fastest_s: Shortest.
        slowest_s: Longest.
        num_runs: How many there were, warm-up left out.
    """

    median_s: float
    fastest_s: float
    slowest_s: float
    num_runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Sum up some runs."""
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def time_runs(run: Callable[[], Any], device: torch.device, enough_s: float, most: int = 20) -> Timing:
    """Run once to warm up, then until there are `enough_s` seconds or `most` runs, at least once.

    Args:
        run: What to time.
        device: Where it computes; waited for before every look at the clock.
        enough_s: Seconds of timed runs.
        most: Most timed runs.
    """
    run()
    seconds: list[float] = []
    while not seconds or (sum(seconds) < enough_s and len(seconds) < most):
        wait_for(device)
        start = time.perf_counter()
        run()
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return Timing.of(seconds)


class StepTimes(Callback):
    """Time every training step of a Trainer, from the batch on the device to the optimizer's update.

    Args:
        enough_s: Stop the training once timed steps took so long; 0 leaves the end to the Trainer.

    Attributes:
        seconds: One entry a batch, the first ones included, which warm up.
        losses: The loss of every batch.
    """

    def __init__(self, enough_s: float = 0.0) -> None:
        self.enough_s = enough_s
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Start the clock."""
        wait_for(pl_module.device)
        self._start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Stop the clock, and the training if that was enough."""
        wait_for(pl_module.device)
        self.seconds.append(time.perf_counter() - self._start)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.losses.append(float(loss) if isinstance(loss, Tensor) else float("nan"))
        if self.enough_s and len(self.seconds) > 1 and sum(self.seconds[1:]) >= self.enough_s:
            trainer.should_stop = True


def restart_peak(device: torch.device) -> None:
    """Forget a GPU's peak so far; a process's peak cannot be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> dict[str, int]:
    """Most memory taken: on a GPU by tensors and by the allocator, else by the process since it began."""
    if device.type == "cuda":
        return {
            "allocated_bytes": torch.cuda.max_memory_allocated(device),
            "reserved_bytes": torch.cuda.max_memory_reserved(device),
        }
    return {"resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def available_bytes(device: torch.device) -> int | None:
    """Memory that is free now; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    table = Path("/proc/meminfo")
    if not table.exists():
        return None
    lines = dict(line.split(":", 1) for line in table.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
