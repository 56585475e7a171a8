"""The range of every action dimension, and the map between raw and normalised actions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.errors import DatasetError

StatisticsMethod = Literal["minmax", "quantile"]
ConstantActions = Literal["error", "zero"]

# Low and high quantile of the "quantile" method; 1 % and 99 % are what OpenVLA and pi0 use.
QUANTILES = (0.01, 0.99)


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

    @property
    def constant_dims(self) -> tuple[int, ...]:
        """Positions of the dimensions whose two ends are equal."""
        return tuple(i for i, (low, high) in enumerate(zip(self.minimum, self.maximum, strict=True)) if low == high)

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
            raise DatasetError(
                f"actions have {actions.shape[-1]} dimensions but the statistics were computed for {self.action_dim}; "
                "use the statistics of the same data."
            )
        low = actions.new_tensor(self.minimum)
        return low, actions.new_tensor(self.maximum) - low


def compute_statistics(
    demos: Iterable[tuple[str, npt.NDArray[Any]]],
    method: StatisticsMethod = "minmax",
    constant: ConstantActions = "error",
) -> ActionStatistics:
    """One pass over the actions of every demo.

    Args:
        demos: Pairs of a demo's name (for messages) and its actions (L, D). "minmax" holds one demo at a
            time; "quantile" needs all actions at once (float32).
        method: Which two values are mapped to -1 and 1.
        constant: What to do with a dimension that never changes.

    Raises:
        DatasetError: NaN or infinite actions, differing widths, no demo, or a constant dimension.
    """
    low: npt.NDArray[np.float64] | None = None
    high: npt.NDArray[np.float64] | None = None
    kept: list[npt.NDArray[np.float32]] = []
    first = ""
    for name, actions in demos:
        if not np.isfinite(actions).all():
            step, dim = np.argwhere(~np.isfinite(actions))[0]
            raise DatasetError(
                f"{name}: the action at step {step}, dimension {dim} is {actions[step, dim]}; "
                "actions must be finite, so remove or repair this demo."
            )
        demo_low, demo_high = actions.min(0).astype(np.float64), actions.max(0).astype(np.float64)
        if low is None or high is None:
            first, low, high = name, demo_low, demo_high
        elif demo_low.shape != low.shape:
            raise DatasetError(
                f"{name}: actions are {len(demo_low)} wide but those of {first} are {len(low)} wide; "
                "train on files with one action space."
            )
        else:
            low, high = np.minimum(low, demo_low), np.maximum(high, demo_high)
        if method == "quantile":
            kept.append(actions.astype(np.float32))
    if low is None or high is None:
        raise DatasetError("no demo to compute action statistics from; check the paths.")
    source = f"{first} and every other demo"
    _check_constant(low, high, constant, source)
    if method == "minmax":
        return ActionStatistics(tuple(low.tolist()), tuple(high.tolist()), method, constant)
    return _quantile_statistics(np.concatenate(kept), low, high, constant, source)


def _quantile_statistics(
    actions: npt.NDArray[np.float32],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    constant: ConstantActions,
    source: str,
) -> ActionStatistics:
    q_low, q_high = np.quantile(actions, QUANTILES, axis=0).astype(np.float64)
    # A dimension can move and still have equal quantiles (a gripper that closes in one step of a
    # thousand): normalising it to 0 would lose it without a word.
    if rare := [int(d) for d in np.flatnonzero((q_low == q_high) & (low < high))]:
        raise DatasetError(
            f"{source}: the 1 % and 99 % quantiles of action dimensions {rare} are equal although their "
            "values differ; set statistics: minmax."
        )
    return ActionStatistics(tuple(q_low.tolist()), tuple(q_high.tolist()), "quantile", constant)


def _check_constant(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], constant: ConstantActions, source: str
) -> None:
    dims = np.flatnonzero(low == high)
    if dims.size and constant == "error":
        found = ", ".join(f"{int(d)} (always {low[d]:g})" for d in dims)
        raise DatasetError(
            f"{source}: constant action dimensions {found} cannot be scaled to [-1, 1]; "
            "leave them out with action_dims or set constant_actions: zero."
        )
