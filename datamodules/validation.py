"""Held-out windows in an order of which every beginning represents the data, however few batches are validated."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from lightning import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from datamodules.batch import Batch, Window
from datamodules.demos import DemoEntry
from datamodules.windows import WindowDataset

GOLDEN, SILVER = 5**0.5 / 2 - 0.5, 2**0.5 - 1  # irrational, so that multiples of them fill [0, 1) evenly


class ValidationWindows(Dataset[Window]):
    """The windows of a dataset in the order of `validation_order`; ``Window.index`` stays that of the dataset.

    Ranks that take positions in turn, as a ``DistributedSampler`` that does not shuffle has them do, see the beginning
    of the order between them.

    Args:
        windows: The held-out windows.
        seed: Of the order.
        num_pictured: So many first positions have their frames read besides their latents.
        num_ranks: The last window is repeated until they have equally many; Lightning would repeat the first ones,
            which may be pictured where others of their batch are not.
    """

    def __init__(self, windows: WindowDataset, seed: int, num_pictured: int = 0, num_ranks: int = 1) -> None:
        self.windows = windows
        order = validation_order(windows.demos, seed)
        self.order = np.pad(order, (0, -len(order) % num_ranks), mode="edge")
        self.num_pictured = num_pictured

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Window:
        return self.windows.window(int(self.order[position]), pictured=position < self.num_pictured)


def loader_without_windows(trainer: Trainer | None) -> DataLoader[Window]:
    """Batches of no windows, as many as it takes that a trainer walks at least one and thus validates on its schedule.

    Args:
        trainer: It leaves a loader out of which it would walk less than one batch.
    """
    length, limit = 1, 1.0
    if trainer is not None:
        length, limit = trainer.world_size, trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches
    if isinstance(limit, float) and 0 < limit < 1:
        length *= math.ceil(1 / limit) + 1
    numbers: Any = range(length)
    return DataLoader(numbers, batch_size=1, collate_fn=lambda _: Batch.empty())


def nothing_to_validate(trainer: Trainer | None) -> list[DataLoader[Window]]:
    """No loader; said where validating was all that was asked for."""
    if trainer is not None and trainer.state.fn in (TrainerFn.VALIDATING, TrainerFn.TESTING):
        rank_zero_warn(
            "data.init_args.val_fraction is 0: no demo is held out, so there is nothing to measure; set it above 0, or "
            "give the trainer a SimulationRollout, which needs no held-out demos."
        )
    return []


def validation_order(demos: Sequence[DemoEntry], seed: int) -> npt.NDArray[np.int64]:
    """Every window of these demos once: round after round one window of each demo that has any left, tasks in turn.

    The first n are thus of n demos, and of all tasks, as far as there are so many; the windows of a demo lie spread
    over its length from the first few on. The same seed and demos give the same order.

    Args:
        demos: Demos of a ``WindowDataset``.
        seed: Draws the order of the demos of a task.

    Returns:
        Window indices of the dataset.
    """
    if not demos:
        return np.zeros(0, dtype=np.int64)
    lengths = np.array([demo.length for demo in demos], dtype=np.int64)
    first_windows = np.cumsum(lengths) - lengths
    columns = []  # one of every window: round, place of the demo in its task, task, window
    for number, task in enumerate(dict.fromkeys(demo.task for demo in demos)):
        members = [index for index, demo in enumerate(demos) if demo.task == task]
        rng = np.random.default_rng([seed, zlib.crc32(task.encode()), 1])  # without the 1 it is the split's stream
        for place, demo in enumerate(rng.permutation(members)):
            steps = spread(int(lengths[demo]), (0.5 + GOLDEN * place + SILVER * number) % 1)
            places = np.broadcast_to([[place], [number]], (2, len(steps)))
            columns.append(np.stack([np.arange(len(steps)), *places, first_windows[demo] + steps]))
    rounds, places, tasks, windows = np.concatenate(columns, axis=1)
    order: npt.NDArray[np.int64] = windows[np.lexsort((tasks, places, rounds))]
    return order


def spread(length: int, phase: float) -> npt.NDArray[np.int64]:
    """The steps of a demo so that every beginning lies spread over its length (van der Corput's sequence).

    Args:
        length: Steps of the demo.
        phase: Where to begin, as a share of the length in [0, 1).
    """
    codes = np.arange(1 << (length - 1).bit_length())
    steps = np.zeros_like(codes)
    for _ in range((length - 1).bit_length()):  # the bits of every code the other way round
        steps, codes = steps << 1 | codes & 1, codes >> 1
    order: npt.NDArray[np.int64] = (steps[steps < length] + int(phase * length)) % length
    return order
