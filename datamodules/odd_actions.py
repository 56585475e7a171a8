"""What is odd about recorded actions, although they can be trained on; one sentence each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datamodules.statistics import QUANTILES, ActionStatistics, nearly_constant

FAR = 10.0  # a range so many times that of 98 % of the steps is an outlier's
FAR_PADDING = 2.0  # normalised; recorded actions lie in [-1, 1]

NamedActions = Sequence[tuple[str, npt.NDArray[Any]]]


def odd_actions(demos: NamedActions, dims: Sequence[int]) -> list[str]:
    """Outliers that set the scale, and demos that are copies.

    Args:
        demos: Pairs of a demo's name and its finite actions (L, D).
        dims: What the D dimensions are called.
    """
    return [*_outliers(demos, dims), *_copies(demos)]


def padding_problem(statistics: ActionStatistics, dims: Sequence[int]) -> str | None:
    """That raw zeros, which stand past the end of a demo, are far from every recorded action."""
    zeros = statistics.normalize(torch.zeros(1, statistics.action_dim, dtype=torch.float64))[0]
    far = [(dim, float(zero)) for dim, zero in zip(dims, zeros, strict=True) if abs(zero) > FAR_PADDING]
    if not far:
        return None
    found = ", ".join(f"{dim} ({zero:.3g})" for dim, zero in far)
    return (
        f"action dimensions {found} are never near 0, where raw zeros past the end of a demo put them after scaling to "
        "[-1, 1]; set data.init_args.action_padding: hold, or mask_padding: true of the action stage."
    )


def _outliers(demos: NamedActions, dims: Sequence[int]) -> Iterator[str]:
    together = np.concatenate([actions for _, actions in demos])
    low = np.quantile(together, QUANTILES[0], axis=0, method="higher")
    high = np.quantile(together, QUANTILES[1], axis=0, method="lower")
    smallest, largest = together.min(0), together.max(0)
    outside = ((together < low) | (together > high)).sum(0)
    # where 98 % stand still, a gripper may close now and then: only a step or two are outliers
    few = (high > low) | (outside <= max(1, len(together) // 1000))
    ends = np.cumsum([len(actions) for _, actions in demos])
    for d in np.flatnonzero((largest - smallest > FAR * (high - low)) & few & ~nearly_constant(smallest, largest)):
        row = int(np.maximum(together[:, d] - high[d], low[d] - together[:, d]).argmax())
        demo = int(np.searchsorted(ends, row, side="right"))
        name, actions = demos[demo]
        yield (
            f"{name}: the action at step {row - int(ends[demo]) + len(actions)}, dimension {dims[d]} is "
            f"{together[row, d]:g}, where 98 % of all steps are from {low[d]:g} to {high[d]:g}; it sets the scale and "
            "squeezes the others, so leave this demo out or set data.init_args.statistics: quantile."
        )


def _copies(demos: NamedActions) -> Iterator[str]:
    """Demos with the same actions to the bit, of which one may be held out while the other is trained on."""
    first_by_digest: dict[bytes, str] = {}
    copies = []
    for name, actions in demos:
        if len(actions) > 1 and (actions != actions[0]).any():
            digest = hashlib.sha256(np.ascontiguousarray(actions).tobytes()).digest()
            if (first := first_by_digest.setdefault(digest, name)) != name:
                copies.append((name, first))
    if copies:
        more = f" (and {len(copies) - 1} more)" if len(copies) > 1 else ""
        yield (
            f"{copies[0][0]}: has the actions of {copies[0][1]}{more}, so one is a copy; leave one out, or a demo that "
            "is held out is trained on all the same."
        )
