"""The range of every action dimension, and the map between raw and normalised actions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from files.errors import UserError

StatisticsMethod = Literal["minmax", "quantile"]
ConstantActions = Literal["error", "zero"]

# Low and high quantile of the "quantile" method; 1 % and 99 % are what OpenVLA and pi0 use.
QUANTILES = (0.01, 0.99)
NO_RANGE = 1e-4  # a range below this share of the values themselves is no movement
SMALLEST_RANGE = 1e-6  # nor is one below a micrometre or a microradian


@dataclass(frozen=True)
class ActionStatistics:
    """Map raw actions to [-1, 1] by ``2 (a - minimum) / (maximum - minimum) - 1`` and back.

    Attributes:
        minimum: D lower ends (the 1 % quantiles for "quantile").
        maximum: D upper ends (the 99 % quantiles for "quantile").
        method: "minmax" is linear everywhere; "quantile" clips what lies outside to -1 and 1.
        constant: "zero" normalises a dimension that never changes to 0 and denormalises it to its constant.
    """

    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    method: StatisticsMethod = "minmax"
    constant: ConstantActions = "error"

    @property
    def action_dim(self) -> int:
        """D, the number of action dimensions."""
        return len(self.minimum)

    def normalize(self, actions: Tensor) -> Tensor:
        """Raw actions (..., D) to normalised ones, in the precision of the input."""
        low, span = self._low_and_span(actions)
        scaled = torch.where(span > 0, 2 * (actions - low) / span.where(span > 0, 1.0) - 1, 0.0)
        return scaled.clamp(-1, 1) if self.method == "quantile" else scaled

    def denormalize(self, actions: Tensor) -> Tensor:
        """Normalised actions (..., D) to raw ones."""
        low, span = self._low_and_span(actions)
        bounded = actions.clamp(-1, 1) if self.method == "quantile" else actions
        return low + (bounded + 1) / 2 * span

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints."""
        return asdict(self) | {"minimum": list(self.minimum), "maximum": list(self.maximum)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ActionStatistics:
        """Rebuild what ``to_dict`` returned."""
        return cls(
            tuple(float(v) for v in values["minimum"]),
            tuple(float(v) for v in values["maximum"]),
            values["method"],
            values["constant"],
        )

    def _low_and_span(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        if actions.shape[-1] != self.action_dim:
            raise UserError(
                f"actions have {actions.shape[-1]} dimensions but the statistics were computed for {self.action_dim}; "
                "use the statistics of the same data."
            )
        low = actions.new_tensor(self.minimum)
        return low, actions.new_tensor(self.maximum) - low


def compute_statistics(
    demos: Iterable[tuple[str, npt.NDArray[Any]]],
    method: StatisticsMethod = "minmax",
    constant: ConstantActions = "error",
    dims: Sequence[int] | None = None,
) -> ActionStatistics:
    """One pass over the actions of the demos.

    Args:
        demos: Pairs of a demo's name (for messages) and its actions (L, D), D the same for all (see `used_dims`).
        method: Which two values are mapped to -1 and 1.
        constant: What to do with a dimension that never changes, or only by rounding.
        dims: What messages call the D dimensions; None for 0 to D - 1.

    Raises:
        UserError: NaN or infinite actions, no demo, or a constant dimension.
    """
    names: list[str] = []
    kept: list[npt.NDArray[np.float64]] = []
    for name, actions in demos:
        _require_finite(name, actions, dims)
        names.append(name)
        kept.append(np.asarray(actions, dtype=np.float64))
    if not kept:
        raise UserError("no demo to compute action statistics from; check the paths.")
    together = np.concatenate(kept)
    numbers = list(dims or range(together.shape[1]))
    source = f"{names[0]} and every other demo" if len(names) > 1 else names[0]
    low, high = together.min(0), together.max(0)
    still = nearly_constant(low, high)
    if still.any() and constant == "error":
        raise UserError(f"{source}: {_constant_sentence(low, high, still, numbers)}")
    low, high = np.where(still, (low + high) / 2, low), np.where(still, (low + high) / 2, high)
    if method == "quantile":
        low, high = _quantiles(together, low, high, numbers, source)
    return ActionStatistics(tuple(low.tolist()), tuple(high.tolist()), method, constant)


def nearly_constant(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which dimensions (D,) move by no more than rounding and sensor noise: they have no scale."""
    return high - low <= np.maximum(NO_RANGE * np.maximum(np.abs(low), np.abs(high)), SMALLEST_RANGE)


def _require_finite(name: str, actions: npt.NDArray[Any], dims: Sequence[int] | None) -> None:
    if not np.isfinite(actions).all():
        step, dim = np.argwhere(~np.isfinite(actions))[0]
        raise UserError(
            f"{name}: the action at step {step}, dimension {dims[dim] if dims else dim} is {actions[step, dim]}; "
            "actions must be finite, so remove or repair this demo."
        )


def _quantiles(
    actions: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    numbers: Sequence[int],
    source: str,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    q_low, q_high = np.quantile(actions.astype(np.float32), QUANTILES, axis=0).astype(np.float64)
    # A dimension can move and still have equal quantiles (a gripper that closes in one step of a
    # thousand): normalising it to 0 would lose it without a word.
    moves = low < high
    if rare := [numbers[d] for d in np.flatnonzero(nearly_constant(q_low, q_high) & moves)]:
        raise UserError(
            f"{source}: the 1 % and 99 % quantiles of action dimensions {rare} are equal although their "
            "values differ; set statistics: minmax."
        )
    return np.where(moves, q_low, low), np.where(moves, q_high, high)


def _constant_sentence(
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    still: npt.NDArray[np.bool_],
    numbers: Sequence[int],
) -> str:
    found = ", ".join(
        f"{numbers[d]} (always {low[d]:g}" + (f" within {high[d] - low[d]:.1g})" if high[d] > low[d] else ")")
        for d in np.flatnonzero(still)
    )
    return (
        f"constant action dimensions {found} cannot be scaled to [-1, 1]; "
        "leave them out with action_dims or set constant_actions: zero."
    )


# --- what is odd about recorded actions, although they can be trained on; one sentence each ---------------------------

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
