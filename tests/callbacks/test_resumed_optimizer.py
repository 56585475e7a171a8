"""Rates and other settings of a run that goes on, with a real Trainer."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from callbacks.resumed_optimizer import ResumedOptimizer
from callbacks.run_checkpoints import LastCheckpoint
from files.errors import UserError
from lightning_modules.schedules import TrapezoidalLR

Make = Callable[[Any], Optimizer]
Schedule = Callable[[Optimizer], LRScheduler] | None


class Line(LightningModule):
    """Two parameter groups, the second at five times the rate."""

    def __init__(self, make: Make, schedule: Schedule) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.slow, self.fast = nn.Linear(3, 3), nn.Linear(3, 3)
        self.make, self.schedule = make, schedule

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        output: Tensor = self.fast(self.slow(torch.ones(2, 3) * (1 + self.trainer.global_step)))
        return output.square().mean()

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        optimizer = self.make([{"params": self.slow.parameters()}, {"params": self.fast.parameters()}])
        optimizer.param_groups[1]["lr"] *= 5.0
        if self.schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"},
        }

    def train_dataloader(self) -> list[int]:
        return list(range(100))


class Rates(Callback):
    """The settings with which every step was taken."""

    def __init__(self) -> None:
        self.by_step: dict[int, list[float]] = {}
        self.groups: list[dict[str, Any]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self.by_step[trainer.global_step] = [float(group["lr"]) for group in optimizer.param_groups]
        self.groups = [dict(group) for group in optimizer.param_groups]


def run(folder: Path, steps: int, make: Make, schedule: Schedule = None) -> tuple[Rates, Line]:
    rates, model = Rates(), Line(make, schedule)
    trainer = Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LastCheckpoint(), ResumedOptimizer(), rates],
        plugins=[AtomicCheckpointIO()],
    )
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(model, ckpt_path=last if last.exists() else None, weights_only=True)
    return rates, model


def adam(lr: float = 0.01, **settings: Any) -> Make:  # noqa: ANN401
    return lambda params: AdamW(params, lr=lr, **settings)


def warm_cosine(total: int) -> Schedule:
    return lambda optimizer: SequentialLR(
        optimizer, [LinearLR(optimizer, 0.1, total_iters=4), CosineAnnealingLR(optimizer, total - 4)], [4]
    )


SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "cosine": lambda total: lambda optimizer: CosineAnnealingLR(optimizer, total),
    "trapezoid": lambda total: lambda optimizer: TrapezoidalLR(optimizer, total, 0.2, 0.3),
    "lambda": lambda total: lambda optimizer: LambdaLR(optimizer, lambda step: 1 - step / total),
    "warm-up, then cosine": warm_cosine,
    "steps": lambda total: lambda optimizer: MultiStepLR(optimizer, [total // 2, total - 3]),
    "one cycle": lambda total: lambda optimizer: OneCycleLR(optimizer, [0.01, 0.05], total_steps=total),
    "restarts": lambda total: lambda optimizer: CosineAnnealingWarmRestarts(optimizer, total // 4),
    "chained": lambda total: (
        lambda optimizer: ChainedScheduler(
            [ConstantLR(optimizer, 0.5, total // 3), ExponentialLR(optimizer, 0.9)], optimizer
        )
    ),
    "none": lambda total: None,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_longer_schedule_has_the_rates_of_a_run_that_was_so_long_from_the_start(name: str, tmp_path: Path) -> None:
    make = SCHEDULES[name]
    run(tmp_path / "on", 12, adam(), make(12 if name != "one cycle" else 13))
    longer, _ = run(tmp_path / "on", 24, adam(), make(24 if name != "one cycle" else 25))
    whole, _ = run(tmp_path / "whole", 24, adam(), make(24 if name != "one cycle" else 25))
    assert longer.by_step == {step: whole.by_step[step] for step in range(12, 24)}
    if name == "cosine":
        rates = [longer.by_step[step][0] for step in range(12, 24)]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] == pytest.approx(0.005)
        assert longer.by_step[12][1] == pytest.approx(0.025)  # the groups' factors stay


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_unchanged_run_that_goes_on_ends_with_the_same_weights(name: str, tmp_path: Path) -> None:
    schedule = SCHEDULES[name](30)
    run(tmp_path / "on", 7, adam(), schedule)
    _, model = run(tmp_path / "on", 15, adam(), schedule)
    _, whole = run(tmp_path / "whole", 15, adam(), schedule)
    for mine, other in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("schedule", [None, lambda optimizer: CosineAnnealingLR(optimizer, 40)])
def test_changed_settings_are_used(schedule: Schedule, tmp_path: Path) -> None:
    run(tmp_path, 4, adam(), schedule)
    changed = {"weight_decay": 0.3, "betas": (0.5, 0.7), "eps": 1e-3, "maximize": True}
    rates, _ = run(tmp_path, 8, adam(1e-4, **changed), schedule)
    whole, _ = run(tmp_path / "whole", 8, adam(1e-4, **changed), schedule)
    assert rates.by_step == {step: whole.by_step[step] for step in range(4, 8)}
    for group in rates.groups:
        assert {name: group[name] for name in changed} == changed


def test_a_schedule_may_be_added_taken_away_or_be_another(tmp_path: Path) -> None:
    cosine, trapezoid = SCHEDULES["cosine"](20), SCHEDULES["trapezoid"](20)
    run(tmp_path, 4, adam(), None)
    whole_cosine, _ = run(tmp_path / "cosine", 20, adam(), cosine)
    whole_trapezoid, _ = run(tmp_path / "trapezoid", 20, adam(), trapezoid)
    added, _ = run(tmp_path, 8, adam(), cosine)
    assert added.by_step == {step: whole_cosine.by_step[step] for step in range(4, 8)}
    other, _ = run(tmp_path, 12, adam(), trapezoid)
    assert other.by_step == {step: whole_trapezoid.by_step[step] for step in range(8, 12)}
    gone, _ = run(tmp_path, 16, adam(), None)
    assert set(map(tuple, gone.by_step.values())) == {(0.01, 0.05)}


OTHERS: dict[str, tuple[Make, Make, tuple[str, ...]]] = {
    "class": (adam(), lambda params: SGD(params, lr=0.01), ("AdamW", "SGD")),
    "class with the same state": (adam(), lambda params: Adam(params, lr=0.01), ("AdamW", "Adam,")),
    "state": (adam(), adam(amsgrad=True), ("exp_avg_sq", "max_exp_avg_sq", "amsgrad True")),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_optimizer_is_refused_with_both_names_and_a_way_out(case: str, tmp_path: Path) -> None:
    before, after, names = OTHERS[case]
    run(tmp_path, 4, before)
    with pytest.raises(UserError) as refused:
        run(tmp_path, 8, after)
    assert all(name in str(refused.value) for name in (*names, "--run_dir", "--ckpt_path"))


def test_another_optimizer_is_seen_in_a_checkpoint_that_does_not_name_its_own(tmp_path: Path) -> None:
    run(tmp_path, 4, adam())
    last = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["callbacks"]["ResumedOptimizer"]
    torch.save(checkpoint, last)
    with pytest.raises(UserError, match=r"amsgrad.*SGD"):
        run(tmp_path, 8, lambda params: SGD(params, lr=0.01))
    rates, _ = run(tmp_path, 8, adam(1e-3))
    assert rates.by_step[4] == pytest.approx([1e-3, 5e-3])


def test_going_on_warns_of_nothing(tmp_path: Path) -> None:
    run(tmp_path, 4, adam(), SCHEDULES["cosine"](8))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tmp_path, 8, adam(), SCHEDULES["cosine"](8))
    assert not [str(entry.message) for entry in caught if "lr_scheduler" in str(entry.message)]
