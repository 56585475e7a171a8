import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from datamodules import Batch, RobosuiteDataModule, WindowDataset
from datamodules.sampling import ResumableLoader, WindowSampler

FileFactory = Callable[..., Path]


class RankRecorder(LightningModule):
    """Writes the windows that each rank was shown to a file of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.windows: list[list[int]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.windows.append(batch.windows.tolist())
        return self.weight * batch.actions.mean()

    def on_train_end(self) -> None:
        (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps(self.windows))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def windows(robomimic_file: FileFactory) -> WindowDataset:
    data = RobosuiteDataModule(str(robomimic_file(lengths=(12, 9, 7))), num_frames=1, val_fraction=0)
    data.setup()
    return data.train_set


def as_rank(sampler: WindowSampler, rank: int, world: int) -> WindowSampler:
    sampler.rank, sampler.num_replicas = rank, world
    sampler.num_samples = -(-len(sampler.windows) // world)
    sampler.total_size = sampler.num_samples * world
    return sampler


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
def test_ranks_share_one_order_between_them(windows: WindowDataset, weights: list[float] | None) -> None:
    """28 windows over 3 ranks: 10 each, the first two seen twice; dealt out in turn."""
    ranks = [[index for index, _ in as_rank(WindowSampler(windows, 5, weights), rank, 3)] for rank in range(3)]
    assert [len(order) for order in ranks] == [10, 10, 10]
    dealt = np.array(ranks).T.ravel()
    whole = as_rank(WindowSampler(windows, 5, weights), 0, 1).order(0)
    assert np.array_equal(dealt[:28], whole)
    assert np.array_equal(dealt[28:], whole[:2])
    if weights is None:
        assert sorted(whole) == list(range(28))


def test_a_resumed_sampler_leaves_out_what_was_seen_in_that_epoch_only(windows: WindowDataset) -> None:
    sampler = WindowSampler(windows, seed=0)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.resume(epoch=3, seen=10)
    assert list(sampler) == whole[10:]
    assert list(sampler) == whole[10:]  # asking twice does not move it
    sampler.set_epoch(4)
    assert len(list(sampler)) == 28


def test_the_loader_counts_what_the_trainer_got_not_what_workers_read_ahead(windows: WindowDataset) -> None:
    loader = ResumableLoader(
        windows, 4, sampler=WindowSampler(windows, seed=0), num_workers=1, prefetch_factor=4, collate_fn=Batch.collate
    )
    batches = iter(loader)
    next(batches)
    next(batches)
    assert loader.state_dict() == {"epoch": 0, "windows": 8}
    for _ in batches:
        pass
    assert loader.state_dict() == {"epoch": 1, "windows": 0}


def test_a_checkpoint_of_two_ranks_resumes_on_one(windows: WindowDataset) -> None:
    """8 windows were seen over two ranks (2 batches of 2 each); one rank goes on with the ninth."""
    two = ResumableLoader(windows, 2, sampler=as_rank(WindowSampler(windows, 0), 1, 2), collate_fn=Batch.collate)
    batches = iter(two)
    next(batches)
    next(batches)
    state = two.state_dict()
    assert state == {"epoch": 0, "windows": 8}
    one = ResumableLoader(windows, 2, sampler=WindowSampler(windows, 0), collate_fn=Batch.collate)
    one.load_state_dict(state)
    assert next(iter(one)).windows.tolist() == WindowSampler(windows, 0).order(0)[8:10].tolist()


@pytest.mark.forks
def test_two_ddp_processes_see_every_window_once_between_them(
    robomimic_file: FileFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning must leave the sampler alone; without seed_everything the ranks must still agree on the order."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    data = RobosuiteDataModule(
        str(robomimic_file(lengths=(12, 9, 7))), num_frames=1, val_fraction=0, batch_size=7, split_seed=3
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    environment = dict(os.environ)
    trainer.fit(RankRecorder(tmp_path), data)
    os.environ.clear()
    os.environ.update(environment)  # the launcher leaves its address and rank behind
    shown = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [len(batches) for batches in shown] == [2, 2]
    assert sorted(np.ravel(shown)) == list(range(28))
