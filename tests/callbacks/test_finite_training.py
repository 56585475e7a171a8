"""A run that diverges stops at its step and leaves what it had saved, with a real Trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks import CheckpointHandoff
from callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from callbacks.finite_training import SKIPPED_STEPS, DivergedError, FiniteTraining
from callbacks.run_checkpoints import BestCheckpoint, LastCheckpoint
from datamodules import RobosuiteDataModule
from tests.stage_parts import fit as fit_stage
from tests.stage_parts import quiet_trainer, tiny_action_stage, tiny_video_model, tiny_video_stage

NAN = float("nan")


class Table(LightningModule):
    """Losses, and what the optimizer makes of the weight, come from tables by step."""

    def __init__(
        self,
        losses: dict[int, float] | None = None,
        weights: dict[int, float] | None = None,
        validations: dict[int, float] | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.used = nn.Parameter(torch.zeros(()))
        self.losses, self.weights, self.validations = losses or {}, weights or {}, validations or {}

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        return self.used * 0 + self.losses.get(self.trainer.global_step + 1, 1.0)

    def on_train_batch_end(self, *_: object) -> None:
        if (value := self.weights.get(self.trainer.global_step)) is not None:
            self.weight.data.fill_(value)

    def validation_step(self, batch: int, batch_idx: int) -> None:
        self.log("val/loss", self.validations.get(self.trainer.global_step, 1.0), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self) -> list[int]:
        return list(range(100))

    def val_dataloader(self) -> list[int]:
        return [0]


def fit(folder: Path, model: LightningModule, *callbacks: Callback, **arguments: Any) -> Trainer:  # noqa: ANN401
    settings: dict[str, Any] = {"max_steps": 12, "val_check_interval": 4, "check_val_every_n_epoch": None}
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[FiniteTraining(), *callbacks],
        plugins=[AtomicCheckpointIO()],
        **{**settings, **arguments},
    )
    trainer.fit(model)
    return trainer


def steps(folder: Path) -> dict[str, int]:
    """Global step of every checkpoint."""
    return {
        path.stem: int(torch.load(path, weights_only=True)["global_step"])
        for path in sorted((folder / "checkpoints").glob("*.ckpt"))
    }


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_with_its_step(value: float, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"loss is not finite since step 6.*last\.ckpt is as it was") as stopped:
        fit(tmp_path, Table({6: value}), LastCheckpoint(every_steps=2), BestCheckpoint())
    assert steps(tmp_path) == {"best": 4, "last": 4}
    assert "lower the learning rate" in str(stopped.value)


def test_between_the_times_of_looking_the_step_is_still_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where a look at every step would make it wait."""
    looks: list[int] = []
    look = FiniteTraining._look

    def counted(self: FiniteTraining, trainer: Trainer) -> None:
        looks.append(trainer.global_step)
        look(self, trainer)

    monkeypatch.setattr(FiniteTraining, "_look", counted)
    monkeypatch.setattr(Trainer, "world_size", 2)
    with pytest.raises(DivergedError, match=r"since step 6, so training stops at step 10"):
        fit(tmp_path, Table({6: NAN, 7: NAN, 8: NAN, 9: NAN, 10: NAN}), log_every_n_steps=10, val_check_interval=50)
    assert looks == [10]


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_broken_weights_are_neither_saved_nor_best_though_the_loss_is_fine(value: float, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"1 of 2 weights after step 6 are not finite \(weight\)"):
        fit(tmp_path, Table(weights={5: value}), LastCheckpoint(every_steps=2), BestCheckpoint())
    assert steps(tmp_path) == {"best": 4, "last": 4}


def test_weights_that_break_in_the_last_step_are_not_the_result(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="weights after step 12"):
        fit(tmp_path, Table(weights={12: NAN}), LastCheckpoint(every_steps=5), BestCheckpoint(), val_check_interval=11)
    assert steps(tmp_path) == {"best": 11, "last": 10}


def test_a_validation_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="val/loss after step 8 is nan"):
        fit(tmp_path, Table(validations={8: NAN}), LastCheckpoint(every_steps=3), BestCheckpoint())
    assert steps(tmp_path) == {"best": 4, "last": 6}


def test_another_metric_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    class Rate(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.log("rate", {4: NAN, 8: 0.5}.get(trainer.global_step, NAN))

    with pytest.warns(UserWarning, match=r"rate is nan after step 4; best\.ckpt stays"):
        fit(tmp_path, Table(), Rate(), BestCheckpoint("rate", "max"))
    assert steps(tmp_path) == {"best": 8}


def test_a_run_does_not_begin_with_broken_weights(tmp_path: Path) -> None:
    model = Table()
    model.weight.data.fill_(NAN)
    with pytest.raises(DivergedError, match=r"1 of 2 weights that this run begins with .* nothing was saved"):
        fit(tmp_path, model, LastCheckpoint())


def test_with_loss_scaling_single_steps_may_overflow_but_not_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callbacks.finite_training._scaler", lambda trainer: True)
    lone = dict.fromkeys((3, 4, 5, 9), float("inf"))
    fit(tmp_path / "a", Table(lone, validations={8: NAN}), LastCheckpoint(), val_check_interval=8)
    assert steps(tmp_path / "a") == {"last": 12}
    always = dict.fromkeys(range(5, 100), NAN)
    with pytest.raises(DivergedError, match=f"since step 5, so training stops at step {4 + SKIPPED_STEPS}"):
        fit(tmp_path / "b", Table(always), max_steps=100, val_check_interval=100)


def huge_rate(**arguments: Any) -> Any:  # noqa: ANN401
    return tiny_video_stage(optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e30), **arguments)


def test_a_stage_at_a_huge_rate_hands_nothing_over_and_keeps_the_old_handoff(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    before = {path.name: path.read_bytes() for path in handoff.iterdir()}
    trainer = quiet_trainer(tmp_path, 6, FiniteTraining(), CheckpointHandoff(str(handoff)), val_check_interval=1.0)
    with pytest.raises(DivergedError):
        fit_stage(trainer, huge_rate(), lift_data)
    assert {path.name: path.read_bytes() for path in handoff.iterdir()} == before


def test_the_handoff_itself_refuses_broken_weights(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    before = {path.name: path.read_bytes() for path in handoff.iterdir()}
    stage = tiny_video_stage()
    next(stage.video.unet.parameters()).data.fill_(NAN)
    broken = quiet_trainer(tmp_path, 0, CheckpointHandoff(str(handoff)))
    with pytest.raises(DivergedError, match="that would be handed over"):
        fit_stage(broken, stage, lift_data)
    assert {path.name: path.read_bytes() for path in handoff.iterdir()} == before


def test_an_action_stage_does_not_begin_on_a_broken_video_network(
    tmp_path: Path, lift_data: RobosuiteDataModule
) -> None:
    broken = tiny_video_model()
    next(broken.unet.parameters()).data.fill_(NAN)
    broken.freeze()
    with pytest.raises(DivergedError, match="begins with"):
        fit_stage(
            quiet_trainer(tmp_path, 2, FiniteTraining(), num_sanity_val_steps=0), tiny_action_stage(broken), lift_data
        )
