"""Learning rates over a run."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from files.errors import UserError


class TrapezoidalLR(LambdaLR):
    """Rise linearly, stay, fall linearly to zero: warm-up, constant rate, cool-down.

    The constant part knows nothing of the end, so a run can be lengthened from any checkpoint taken before the
    cool-down, which a cosine does not allow (Hägele et al. 2024, arXiv 2405.18392). A resumed run takes these
    arguments from its config, not from the checkpoint. transformers has the same as `get_wsd_schedule`, a function
    without a return type, which a YAML file cannot name.

    Args:
        optimizer: Every parameter group keeps its own rate as the height.
        total_steps: Optimizer steps of the run, ``${trainer.max_steps}`` in an experiment file.
        warm_up: Share of the steps over which the rate rises.
        cool_down: Share of the steps over which it falls.

    Raises:
        UserError: The shares are negative or more than the whole.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warm_up: float = 0.01, cool_down: float = 0.2) -> None:
        if min(warm_up, cool_down) < 0 or warm_up + cool_down > 1:
            raise UserError(
                f"TrapezoidalLR: warm_up is {warm_up} and cool_down {cool_down}; they are shares of the steps, neither "
                "negative nor together more than 1."
            )
        rise, fall = math.ceil(warm_up * total_steps), math.ceil(cool_down * total_steps)

        def factor(step: int) -> float:
            """Factor on the rate of the optimizer step that comes after `step` others."""
            rising = (step + 1) / rise if rise else 1.0
            falling = (total_steps - step) / fall if fall else 1.0
            return max(0.0, min(1.0, rising, falling))

        super().__init__(optimizer, factor)


class WarmUpCosineLR(LambdaLR):
    """Rise linearly from 0, then fall to 0 by half a cosine: Diffusion Policy's rate.

    As diffusers' `get_cosine_schedule_with_warmup`, a function, which a YAML file cannot name.

    Args:
        optimizer: Every parameter group keeps its own rate as the height.
        total_steps: Optimizer steps of the run, ``${trainer.max_steps}`` in an experiment file.
        warm_up_steps: Those over which the rate rises.

    Raises:
        UserError: There are not more steps than those of the rise.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warm_up_steps: int = 500) -> None:
        if not 0 <= warm_up_steps < total_steps:
            raise UserError(
                f"WarmUpCosineLR: warm_up_steps is {warm_up_steps} of total_steps {total_steps}; it must be from 0 to "
                "below that."
            )

        def factor(step: int) -> float:
            """Factor on the rate of the optimizer step that comes after `step` others."""
            if step < warm_up_steps:
                return step / warm_up_steps
            return 0.5 * (1 + math.cos(math.pi * (step - warm_up_steps) / (total_steps - warm_up_steps)))

        super().__init__(optimizer, factor)
