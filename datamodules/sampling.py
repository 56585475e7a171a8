"""The order in which windows are seen: seeded, split over ranks, weighted by demo, resumable mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from datamodules.batch import Batch, Window
from datamodules.windows import Visit, WindowDataset


class WindowSampler(DistributedSampler[Visit]):
    """A fixed order of windows for every (seed, epoch), of which each rank takes every world_size-th.

    With every window comes a seed of this visit to it, for what the dataset draws, so that neither the number of
    workers nor an interruption changes a draw.

    Without weights an epoch is a permutation of all windows. With weights it is as many draws with replacement: a
    demo with probability proportional to its weight, then one of its windows, so that a demo's share depends on its
    weight and not on its length.

    It is a ``DistributedSampler`` so that Lightning neither replaces nor wraps it.

    Args:
        dataset: The windows.
        seed: Must be the same on every rank.
        demo_weights: One weight per demo of the dataset, or None.
    """

    def __init__(self, dataset: WindowDataset, seed: int, demo_weights: Sequence[float] | None = None) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        super().__init__(
            dataset,
            num_replicas=dist.get_world_size() if distributed else 1,
            rank=dist.get_rank() if distributed else 0,
            seed=seed,
        )
        self.windows = dataset
        self.demo_weights = demo_weights
        self._resumed_epoch = -1
        self._seen = 0  # windows of that epoch, over all ranks, that were seen before an interruption

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Windows of an epoch over all ranks; the first ones are repeated until the ranks have equally many."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.demo_weights is None:
            order = rng.permutation(len(self.windows))
        else:
            share = np.asarray(self.demo_weights, dtype=np.float64)
            lengths = np.array([demo.length for demo in self.windows.demos])
            starts = np.cumsum(lengths) - lengths
            demos = rng.choice(len(share), size=len(self.windows), p=share / share.sum())
            order = starts[demos] + rng.integers(0, lengths[demos])
        return np.resize(order, self.total_size).astype(np.int64)

    @property
    def num_skipped(self) -> int:
        """Windows per rank that a pass over this epoch leaves out."""
        return self._seen // self.num_replicas if self.epoch == self._resumed_epoch else 0

    def resume(self, epoch: int, seen: int) -> None:
        """Go on in this epoch, after so many windows (over all ranks)."""
        self.set_epoch(epoch)
        self._resumed_epoch, self._seen = epoch, seen

    def __iter__(self) -> Iterator[Visit]:
        seeds = np.random.default_rng([self.seed, self.epoch, 1]).integers(2**63, size=self.total_size)
        visits = np.stack([self.order(self.epoch), seeds], axis=1)[self.rank :: self.num_replicas]
        return ((index, seed) for index, seed in visits[self.num_skipped :].tolist())


class ResumableLoader(DataLoader[Window]):
    """A DataLoader that Lightning saves with the checkpoint, so that a resumed epoch goes on with its next batch.

    Without it Lightning starts a resumed epoch over from its first batch. Needs a ``WindowSampler``; with any other
    sampler (``overfit_batches`` installs one) it is a plain DataLoader.
    """

    num_yielded = 0  # batches of this epoch that the trainer has received; workers may be ahead of it

    def __iter__(self) -> _BaseDataLoaderIter:
        skipped = self.sampler.num_skipped if isinstance(self.sampler, WindowSampler) else 0
        self.num_yielded = skipped // (self.batch_size or 1)
        return self._counted(super().__iter__())  # type: ignore[return-value]  # any iterator will do

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.num_yielded += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Which epoch the next batch belongs to and how many windows (over all ranks) come before it."""
        if not isinstance(self.sampler, WindowSampler):
            return {}
        epoch, seen = self.sampler.epoch, self.num_yielded
        if seen >= len(self):
            epoch, seen = epoch + 1, 0
        return {"epoch": epoch, "windows": seen * (self.batch_size or 1) * self.sampler.num_replicas}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next pass where ``state_dict`` was taken."""
        if isinstance(self.sampler, WindowSampler) and state:
            self.sampler.resume(state["epoch"], state["windows"])
