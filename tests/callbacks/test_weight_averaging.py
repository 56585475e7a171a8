"""The average is judged and saved; the raw weights are trained."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.weight_averaging import TrainableWeightAveraging
from files.errors import UserError


class Line(LightningModule):
    """A line with a frozen buddy, so that averaging has something to leave alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(1, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.validated: list[float] = []
        self.history: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return (self.line(batch[0]) - 3.0).square().mean()

    def on_train_batch_end(self, *args: object) -> None:
        self.history.append(self.line.bias.item())

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.validated.append(self.line.bias.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.line.parameters(), lr=0.1)


def fit(
    model: Line, folder: Path, max_steps: int, decay: float = 0.5, ckpt_path: Path | None = None
) -> tuple[Trainer, TrainableWeightAveraging]:
    averaging = TrainableWeightAveraging(decay=decay, warmup=False)
    checkpoint = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)
    trainer = Trainer(
        max_steps=max_steps, callbacks=[averaging, checkpoint], logger=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    data = DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=1)
    trainer.fit(model, data, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, averaging


def test_the_rule_of_diffusion_policy_is_its_formula() -> None:
    """EMAModel of its code: 0 twice, then 1 - (1 + n)^-0.75, at most the decay."""
    rule = TrainableWeightAveraging(decay=0.9999, warmup=0.75)
    found = [rule._warm_up(count) for count in (0, 1, 2, 3, 101)]
    assert found == pytest.approx([0, 0, 1 - 2**-0.75, 1 - 3**-0.75, 1 - 101**-0.75])
    assert TrainableWeightAveraging()._warm_up(8) == 0.5
    assert TrainableWeightAveraging(warmup=False)._warm_up(0) == 1.0
    with pytest.raises(UserError, match=r"averaging\.warmup is 0\.0"):
        TrainableWeightAveraging(warmup=0.0)


def test_average_equals_the_recursion_by_hand(tmp_path: Path) -> None:
    model = Line()
    start = model.line.bias.item()
    _, averaging = fit(model, tmp_path, max_steps=3)
    first, second, third = model.history
    expected = 0.5 * (0.5 * (0.5 * start + 0.5 * first) + 0.5 * second) + 0.5 * third
    assert start != first
    assert averaging.average_by_name["line.bias"].item() == pytest.approx(expected)
    assert model.line.bias.item() == pytest.approx(expected)  # the result of the run is the average
    assert set(averaging.average_by_name) == {"line.weight", "line.bias"}


def test_validation_sees_the_average_and_training_goes_on_raw(tmp_path: Path) -> None:
    model = Line()
    fit(model, tmp_path, max_steps=8, decay=0.9)
    raw_after_epoch = model.history[3]
    assert model.validated[-1] != pytest.approx(model.history[-1])
    other = Line()
    fit(other, tmp_path / "plain", max_steps=8, decay=0.0)
    assert model.history == pytest.approx(other.history)  # averaging never changes what is trained
    assert model.history[4] != pytest.approx(raw_after_epoch)


def test_resumed_run_ends_with_the_same_average(tmp_path: Path) -> None:
    whole = Line()
    _, expected = fit(whole, tmp_path / "whole", max_steps=8, decay=0.9)
    fit(Line(), tmp_path / "parts", max_steps=4, decay=0.9)
    resumed = Line()
    _, found = fit(resumed, tmp_path / "parts", 8, 0.9, ckpt_path=tmp_path / "parts" / "last.ckpt")
    assert resumed.history == pytest.approx(whole.history[4:])
    assert found.average_by_name["line.bias"].item() == pytest.approx(expected.average_by_name["line.bias"].item())


def test_checkpoint_holds_the_average_as_the_model(tmp_path: Path) -> None:
    _, averaging = fit(Line(), tmp_path, max_steps=4, decay=0.9)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(checkpoint["state_dict"]["line.bias"], averaging.average_by_name["line.bias"])
    assert not torch.equal(checkpoint["raw_weights"]["line.bias"], checkpoint["state_dict"]["line.bias"])


def test_decay_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        TrainableWeightAveraging(decay=1.0)
