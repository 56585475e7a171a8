"""Adam whose state takes a byte a number, where the extra `lean` is installed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from files.errors import UserError


def adam_8bit(
    params: Iterable[Any], lr: float = 1e-5, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """8-bit Adam of bitsandbytes (Dettmers et al. 2022, arXiv 2110.02861).

    Args:
        params: What it trains; weights of less than 4096 numbers keep whole states.
        lr: Learning rate.
        betas: Decay of the two averages.
        weight_decay: Added to the gradient, as Adam has it.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.optim import Adam8bit
    except ImportError:
        raise UserError(
            "model.init_args.optimizer is adam_8bit, which needs bitsandbytes: pip install -e .[lean]"
        ) from None
    optimizer: torch.optim.Optimizer = Adam8bit(params, lr=lr, betas=betas, weight_decay=weight_decay)
    return optimizer
