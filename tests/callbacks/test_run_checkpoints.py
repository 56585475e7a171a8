"""`last.ckpt` and `best.ckpt` with a real Trainer."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from callbacks.progress import StageProgress, total_steps
from callbacks.run_checkpoints import BestCheckpoint, LastCheckpoint


class Counter(LightningModule):
    """One weight that grows by 1 a step; the validation metric is given by a table."""

    def __init__(self, metric: Callable[[int], float | None] = lambda step: None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.metric = metric

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        return -self.weight

    def validation_step(self, batch: object, batch_idx: int) -> None:
        if (value := self.metric(int(self.trainer.global_step))) is not None:
            self.log("val/loss", value, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self) -> list[int]:
        return list(range(4))

    def val_dataloader(self) -> list[int]:
        return [0]


class At(Callback):
    """Do something after a step."""

    def __init__(self, step: int, what: Callable[[], None]) -> None:
        self.step = step
        self.what = what

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            self.what()


def fit(folder: Path, model: Counter, *callbacks: Callback, **arguments: object) -> Trainer:
    settings: dict[str, Any] = {"max_steps": 10, "num_sanity_val_steps": 0, **arguments}
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        **settings,
    )
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(model, ckpt_path=last if last.exists() else None, weights_only=True)
    return trainer


def saved(folder: Path, name: str = "last") -> tuple[int, float]:
    content = AtomicCheckpointIO().load_checkpoint(folder / "checkpoints" / f"{name}.ckpt")
    return content["global_step"], content["state_dict"]["weight"].item()


def test_the_end_is_saved_even_if_no_time_has_passed(tmp_path: Path) -> None:
    fit(tmp_path, Counter(), LastCheckpoint())
    assert saved(tmp_path) == (10, 10.0)


def test_a_crash_leaves_the_last_step_that_was_due_and_the_next_run_goes_on_from_it(tmp_path: Path) -> None:
    def crash() -> None:
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        fit(tmp_path, Counter(), LastCheckpoint(every_steps=3), At(8, crash))
    assert saved(tmp_path) == (6, 6.0)
    model = Counter()
    fit(tmp_path, model, LastCheckpoint())
    assert saved(tmp_path) == (10, 10.0)
    assert model.weight.item() == 10.0


def test_it_saves_by_the_clock(tmp_path: Path) -> None:
    steps = []
    at_steps = [At(step, lambda: steps.append(saved(tmp_path)[0])) for step in (3, 5)]
    fit(tmp_path, Counter(), LastCheckpoint(every_minutes=0.0), *at_steps)
    assert steps == [2, 4]  # callbacks that checkpoint come last


def test_steps_of_several_batches_are_never_saved_in_between(tmp_path: Path) -> None:
    fit(tmp_path, Counter(), LastCheckpoint(every_minutes=0.0), accumulate_grad_batches=2, max_steps=3)
    assert saved(tmp_path) == (3, 3.0)


def test_sigterm_saves_at_the_next_step_and_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(SIGTERMException):
        fit(tmp_path, Counter(), LastCheckpoint(), At(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert saved(tmp_path) == (2, 2.0)


def test_sigterm_in_a_validation_saves_and_the_next_run_goes_on(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SIGTERMException):
        fit(tmp_path, Counter(), LastCheckpoint(), Stop())
    assert saved(tmp_path) == (4, 4.0)
    fit(tmp_path, Counter(), LastCheckpoint())
    assert saved(tmp_path) == (10, 10.0)


def test_the_old_signal_handler_is_back_after_the_run(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    fit(tmp_path, Counter(), LastCheckpoint())
    assert signal.getsignal(signal.SIGTERM) is before


def test_best_is_kept_and_worse_ones_leave_it_alone(tmp_path: Path) -> None:
    values = {4: 3.0, 8: 1.0, 10: 2.0}
    fit(tmp_path, Counter(lambda step: values[step]), BestCheckpoint())
    assert saved(tmp_path, "best") == (8, 8.0)
    assert "optimizer_states" not in AtomicCheckpointIO().load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")


def test_the_best_value_is_remembered_by_a_run_that_goes_on(tmp_path: Path) -> None:
    values = {4: 1.0, 8: 3.0, 12: 2.0}
    for max_steps in (4, 12):
        fit(tmp_path, Counter(lambda step: values[step]), LastCheckpoint(), BestCheckpoint(), max_steps=max_steps)
    assert saved(tmp_path, "best") == (4, 4.0)


def test_a_moved_run_directory_keeps_its_best(tmp_path: Path) -> None:
    values = {4: 1.0, 8: 3.0, 12: 0.5}
    fit(tmp_path / "old", Counter(lambda step: values[step]), LastCheckpoint(), BestCheckpoint(), max_steps=4)
    (tmp_path / "old").rename(tmp_path / "new")
    fit(tmp_path / "new", Counter(lambda step: values[step]), LastCheckpoint(), BestCheckpoint(), max_steps=8)
    assert saved(tmp_path / "new", "best") == (4, 4.0)
    fit(tmp_path / "new", Counter(lambda step: values[step]), LastCheckpoint(), BestCheckpoint(), max_steps=12)
    assert saved(tmp_path / "new", "best") == (12, 12.0)
    assert not (tmp_path / "old").exists()


def test_validations_without_the_metric_are_passed_over_and_its_absence_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="'val/loss' was never logged, so there is no best.ckpt"):
        fit(tmp_path, Counter(), BestCheckpoint())
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_progress_knows_the_stages_steps_and_time_left(tmp_path: Path) -> None:
    bar = StageProgress("video")
    trainer = Trainer(
        max_steps=20, logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False
    )
    trainer.fit(Counter())
    bar._started_at -= 60.0
    trainer.fit_loop.epoch_loop.max_steps = 40
    assert bar.place(trainer)["step"] == "20/40"
    assert bar.place(trainer)["left"] in {"0:01:00", "0:01:01"}
    assert total_steps(trainer) == 40


@pytest.mark.parametrize("save_often", [False, True])
def test_sigterm_in_a_validation_between_micro_batches_waits_for_the_whole_step(
    save_often: bool, tmp_path: Path
) -> None:
    class Stop(Callback):
        batches: list[int]

        def on_validation_batch_start(self, trainer: Trainer, *_: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            self.batches = [*getattr(self, "batches", []), progress["total"]["ready"]]

    stop = Stop()
    with pytest.raises(SIGTERMException):
        fit(
            tmp_path, Counter(), LastCheckpoint(every_steps=1 if save_often else None), stop,
            accumulate_grad_batches=4, val_check_interval=3,
        )  # fmt: skip
    assert saved(tmp_path) == (1, 1.0)
    assert all(batches % 4 == 0 for batches in stop.batches)
