"""How far predicted videos are from the true ones, measured against holding the current picture."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MOVED = 0.2
"""A channel has changed if it differs by more than this in [-1, 1], a tenth of its range."""


class SquaredErrors(NamedTuple):
    """Squared errors in [-1, 1], summed over channels and pixels, a future frame.

    Args:
        predicted: Of the predicted pictures (B, V, T - 1).
        held: Of the current picture in their place, as if nothing moved.
        size: How many values were summed over.
    """

    predicted: Tensor
    held: Tensor
    size: Tensor


def moving(true: Tensor) -> Tensor:
    """Where something moves: pixels of which a channel is changed by more than `MOVED` in any future frame.

    Args:
        true: Videos (B, V, T, 3, H, W) in [-1, 1]; frame 0 is the current picture.

    Returns:
        bool (B, V, 1, 1, H, W), the same for all frames: a prediction that leaves the arm where it was, or puts it
        where it has not been yet, errs here.
    """
    return ((true[:, :, 1:] - true[:, :, :1]).abs() > MOVED).any(dim=3, keepdim=True).any(dim=2, keepdim=True)


def squared_errors(true: Tensor, predicted: Tensor, where: Tensor | None = None) -> SquaredErrors:
    """Compare the future frames of videos (B, V, T, 3, H, W); frame 0, which is given, counts nowhere.

    Args:
        true: In [-1, 1].
        predicted: The same.
        where: Pixels that count, for instance `moving`; all if None.
    """
    future = true[:, :, 1:].float()
    counts = torch.ones_like(future) if where is None else where.float().expand_as(future)
    errors = [(wrong.float() - future).square() for wrong in (predicted[:, :, 1:], true[:, :, :1])]
    return SquaredErrors(*((value * counts).sum(dim=(3, 4, 5)) for value in (*errors, torch.ones_like(future))))


def skill(predicted: Tensor, held: Tensor) -> Tensor:
    """1 - MSE / MSE of holding the current picture, from sums over the same values.

    1 is perfect, 0 no better than the current picture, below 0 worse; not a number where nothing changed.
    """
    return 1.0 - predicted / held.where(held > 0, torch.nan)
