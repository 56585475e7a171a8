"""Who draws what: by rank, batch, step and window, never by what was drawn before."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from callbacks import TrainableWeightAveraging
from datamodules import RobosuiteDataModule
from datamodules.augmentation import PAPER_JITTER
from lightning_modules import Stage
from networks import LogNormalNoise, SeededTextEncoder, SVDAutoencoder, VideoModel
from policies import SharedLevels
from tests.stage_parts import (
    fit,
    lift_datamodule,
    quiet_trainer,
    tiny_action_stage,
    tiny_joint_stage,
    tiny_unet,
    tiny_video_model,
    tiny_video_stage,
)

STAGES: dict[str, Callable[..., Stage]] = {
    "video": tiny_video_stage,
    "action": tiny_action_stage,
    "action, shared levels": partial(tiny_action_stage, features=SharedLevels()),
    "joint": tiny_joint_stage,
}


class RecordedLevels(LogNormalNoise):
    """Append every batch's noise levels to a file of the process's own rank."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def sample(self, n: int, device: torch.device | str | None = None) -> Tensor:
        levels = super().sample(n, device)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        with (self.folder / f"{rank}.jsonl").open("a") as file:
            file.write(json.dumps(levels.tolist()) + "\n")
        return levels

    def recorded(self) -> list[list[float]]:
        return [json.loads(line) for file in sorted(self.folder.glob("*.jsonl")) for line in file.open()]


@pytest.mark.forks
def test_ranks_and_the_batches_of_one_step_draw_different_levels(
    tmp_path: Path, lift_data: RobosuiteDataModule
) -> None:
    noise = RecordedLevels(tmp_path)
    stage = tiny_video_stage(tiny_video_model(residual=False), noise=noise, num_predicted=0)
    data = lift_datamodule(Path(str(lift_data.paths)), batch_size=2)
    stage.attach(data.preprocessing)
    ways = {"devices": 2, "strategy": "ddp_fork", "accumulate_grad_batches": 2, "limit_val_batches": 0}
    fit(quiet_trainer(tmp_path, 2, limit_train_batches=4, **ways), stage, data)
    batches = noise.recorded()
    levels = [level for batch in batches for level in batch]
    assert len(batches) == 2 * 4
    assert len(set(levels)) == len(levels) == 16


class Interrupted(Exception):
    pass


class InterruptAfter(Callback):
    """Save after one step and break off after a later one, as a killed run does."""

    def __init__(self, saved: int, broken: int) -> None:
        self.saved, self.broken = saved, broken
        self._last = 0

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        step = trainer.global_step
        if step == self._last:
            return
        self._last = step
        if step == self.saved:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "saved.ckpt", weights_only=False)
        if step == self.broken:
            raise Interrupted


def trained(
    kind: str,
    folder: Path,
    demos: Path,
    accumulate: int,
    workers: int,
    *callbacks: Callback,
    go_on: Path | None = None,
    **arguments: Any,  # noqa: ANN401
) -> dict[str, Tensor]:
    """Five steps of a stage of the experiment's own kind, with jitter, condition noise, dropout and an average."""
    stage = STAGES[kind](tiny_video_model(residual=kind in ("video", "joint")))
    assert stage.video.condition_noise == 0.02
    data = lift_datamodule(demos, batch_size=2, num_workers=workers, colour_jitter=PAPER_JITTER)
    averaging = TrainableWeightAveraging(0.5)
    options = {"accumulate_grad_batches": accumulate, "val_check_interval": 2, "limit_val_batches": 1, **arguments}
    fit(quiet_trainer(folder, 5, averaging, *callbacks, **options), stage, data, go_on)
    return {name: value.clone() for name, value in stage.state_dict().items()} | {
        f"average {name}": value for name, value in averaging.average_by_name.items()
    }


@pytest.mark.parametrize(
    ("kind", "accumulate", "workers"),
    [*((kind, accumulate, 0) for kind in STAGES for accumulate in (1, 4)), ("video", 4, 2), ("action", 1, 2)],
)
def test_a_run_killed_and_started_again_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, lift_data: RobosuiteDataModule, kind: str, accumulate: int, workers: int
) -> None:
    demos = Path(str(lift_data.paths))
    torch.manual_seed(3)
    whole = trained(kind, tmp_path, demos, accumulate, workers)
    with pytest.raises(Interrupted):
        trained(kind, tmp_path, demos, accumulate, workers, InterruptAfter(saved=2, broken=4))
    torch.manual_seed(4)  # another process has another global stream
    resumed = trained(kind, tmp_path, demos, accumulate, workers, go_on=tmp_path / "saved.ckpt")
    assert set(whole) == set(resumed)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


@pytest.mark.parametrize("kind", STAGES)
def test_validation_moves_no_draw_of_training(tmp_path: Path, lift_data: RobosuiteDataModule, kind: str) -> None:
    demos = Path(str(lift_data.paths))
    with_validation = trained(kind, tmp_path, demos, 1, 0, limit_val_batches=2)
    without = trained(kind, tmp_path, demos, 1, 0, limit_val_batches=0)
    assert all(torch.equal(without[name], value) for name, value in with_validation.items())


def svd_video_model() -> VideoModel:
    """A video model with a posterior: Stable Video Diffusion's autoencoder, slim."""
    torch.manual_seed(0)
    autoencoder = SVDAutoencoder(block_out_channels=(32, 32), layers_per_block=1)
    unet = tiny_unet()
    text = SeededTextEncoder(embed_dim=16, width=16, heads=2, layers=1)
    return VideoModel(unet, autoencoder, text, num_views=2, num_frames=2, condition_noise=0.02)


@pytest.mark.parametrize("kind", STAGES)
def test_validation_of_one_checkpoint_is_the_same_number_twice(
    tmp_path: Path, lift_data: RobosuiteDataModule, kind: str
) -> None:
    """Noise, posterior and condition noise are named by the window, so the batch size changes nothing either."""
    demos, stage = Path(str(lift_data.paths)), STAGES[kind](svd_video_model())
    stage.attach(lift_data.preprocessing)
    values = []
    for seed, batch_size in ((0, 3), (1, 3), (2, 1)):
        torch.manual_seed(seed)
        data = lift_datamodule(demos, val_batch_size=batch_size)
        values.append(quiet_trainer(tmp_path, 1).validate(stage, datamodule=data, verbose=False)[0])
    assert values[0] == pytest.approx(values[1], rel=0, abs=0, nan_ok=True)  # no pixel moves: no skill of those
    assert values[2]["val/loss"] == pytest.approx(values[0]["val/loss"], rel=1e-4)


@pytest.mark.parametrize("kind", STAGES)
def test_as_many_windows_are_sampled_as_were_asked_for(
    tmp_path: Path, lift_data: RobosuiteDataModule, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, sampled = STAGES[kind](tiny_video_model(residual=False), num_predicted=5), []
    stage.attach(lift_data.preprocessing)
    to_predict = stage.to_predict

    def recorded(batch: Any) -> Any:  # noqa: ANN401
        part = to_predict(batch)
        sampled.extend([] if part is None else part.windows.tolist())
        return part

    monkeypatch.setattr(stage, "to_predict", recorded)
    data = lift_datamodule(Path(str(lift_data.paths)), val_batch_size=2)
    quiet_trainer(tmp_path, 1).validate(stage, datamodule=data, verbose=False)
    assert len(sampled) == len(set(sampled)) == 5
