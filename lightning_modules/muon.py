"""Muon for the matrices of a network, AdamW for all else, as one optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """Orthogonalised momentum (Jordan et al. 2024, "Muon") on weights of two axes, AdamW on the others.

    Both are torch's, and a schedule serves both.

    Args:
        params: Weights, or groups of them with ``params``.
        lr: Learning rate of AdamW.
        matrix_lr_scale: Muon's rate in units of that rate; a step changes a matrix by about its rate in spectral norm.
        weight_decay: Decoupled weight decay.
        momentum: Of Muon.
        betas: Of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        matrix_lr_scale: float = 20.0,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        given = list(params)
        groups: list[dict[str, Any]] = given if given and isinstance(given[0], dict) else [{"params": given}]
        matrices: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for group in groups:
            weights = list(group["params"])
            rate = group.get("lr", lr)
            of_two_axes = [weight for weight in weights if weight.ndim == 2]
            matrices.append({**group, "params": of_two_axes, "lr": matrix_lr_scale * rate})
            others.append({**group, "params": [weight for weight in weights if weight.ndim != 2], "lr": rate})
        parts: list[Optimizer] = []
        if matrices := [group for group in matrices if group["params"]]:
            parts.append(Muon(matrices, weight_decay=weight_decay, momentum=momentum))
        if others := [group for group in others if group["params"]]:
            parts.append(AdamW(others, betas=betas, weight_decay=weight_decay))
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        self._share()

    def step(self, closure: Any = None) -> Any:  # noqa: ANN401 - as torch's
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; the parts go on with what was loaded."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let the parts read and write this optimizer's groups and state."""
        start = 0
        for part in self._parts:
            count = len(part.param_groups)
            part.param_groups = self.param_groups[start : start + count]
            part.state = self.state
            start += count
