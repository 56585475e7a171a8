"""The schedules by hand, and the trapezoid over a resumed run."""

import pytest
import torch

from files.errors import UserError
from lightning_modules import TrapezoidalLR, WarmUpCosineLR


def optimizer() -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (1.0, 5.0)]
    return torch.optim.Adam(groups)


def rates(schedule: torch.optim.lr_scheduler.LambdaLR, steps: int) -> list[float]:
    """Rate of the first group at each of the next steps."""
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_it_rises_stays_and_falls_in_every_group() -> None:
    schedule = TrapezoidalLR(optimizer(), total_steps=10, warm_up=0.2, cool_down=0.4)
    assert rates(schedule, 11) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert schedule.base_lrs == [1.0, 5.0]


def test_without_warm_up_and_cool_down_it_is_constant() -> None:
    assert rates(TrapezoidalLR(optimizer(), 3, warm_up=0.0, cool_down=0.0), 4) == [1.0] * 4


def test_diffusion_policys_rate_rises_from_zero_and_falls_by_half_a_cosine() -> None:
    schedule = WarmUpCosineLR(optimizer(), total_steps=8, warm_up_steps=4)
    assert rates(schedule, 9) == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)
    with pytest.raises(UserError, match="warm_up_steps is 500 of total_steps 100"):
        WarmUpCosineLR(optimizer(), total_steps=100)


def test_a_lengthened_run_stays_up_until_its_new_end() -> None:
    first = TrapezoidalLR(optimizer(), total_steps=10, warm_up=0.0, cool_down=0.2)
    rates(first, 5)
    longer = TrapezoidalLR(optimizer(), total_steps=20, warm_up=0.0, cool_down=0.2)
    longer.load_state_dict(first.state_dict())
    assert rates(longer, 15) == pytest.approx([1.0] * 12 + [0.75, 0.5, 0.25])


def test_shares_beyond_the_whole_are_refused() -> None:
    with pytest.raises(UserError, match="together more than 1"):
        TrapezoidalLR(optimizer(), 10, warm_up=0.6, cool_down=0.6)
