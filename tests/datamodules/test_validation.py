"""What a few validation batches see: every task, as many demos as fit, the same windows each time."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from datamodules import Batch, RobosuiteDataModule
from datamodules.batch import Window
from datamodules.demos import DemoEntry
from datamodules.validation import ValidationWindows, spread, validation_order
from tests.datamodules.test_cached_windows import cached, fill
from tests.stage_parts import lift_datamodule, quiet_trainer

FileFactory = Callable[..., Path]
UNEQUAL = {"Lift": (30, 8, 12), "Stack": (5, 6), "Door": (9,) * 7}


class Watcher(LightningModule):
    """Learns nothing and remembers which windows it was shown for validation, and which of them with frames."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.shown: list[list[int]] = []
        self.passes: list[list[int]] = []
        self.pictured: list[bool] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.weight * batch.actions.mean()

    def on_validation_epoch_start(self) -> None:
        self.passes.append([])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.shown.append(batch.windows.tolist())
        self.passes[-1] += batch.windows.tolist()
        self.pictured.append(batch.has_frames)

    def on_validation_end(self) -> None:
        if self.folder is not None:
            (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps([self.shown, self.pictured]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def three_tasks(robomimic_file: FileFactory) -> str:
    """Files of three tasks with 3, 2 and 7 demos."""
    files = [
        robomimic_file(f"{task}.hdf5", lengths, task=task, seed=i) for i, (task, lengths) in enumerate(UNEQUAL.items())
    ]
    return str(files[0].parent / "*.hdf5")


def held_out(paths: str, **arguments: object) -> RobosuiteDataModule:
    """Nearly everything held out: 2 demos of Lift, one of Stack, 6 of Door."""
    data = RobosuiteDataModule(paths, num_frames=1, val_fraction=0.9, batch_size=2, **arguments)  # type: ignore[arg-type]
    data.setup()
    return data


def of(data: RobosuiteDataModule, windows: list[int]) -> tuple[int, int]:
    """How many tasks and demos these windows are of."""
    demos = [data.val_set.locate(window)[0] for window in windows]
    return len({demo.task for demo in demos}), len({(demo.path, demo.name) for demo in demos})


def as_rank(data: RobosuiteDataModule, rank: int, world: int) -> list[list[int]]:
    """Windows of each batch that a rank of so many gets of Lightning."""
    loader = data.val_dataloader()
    assert isinstance(loader, DataLoader)
    sampler: DistributedSampler[Window] = DistributedSampler(loader.dataset, world, rank, shuffle=False)
    dealt = DataLoader(loader.dataset, loader.batch_size, sampler=sampler, collate_fn=Batch.collate)
    return [batch.windows.tolist() for batch in dealt]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_any_number_of_batches_sees_every_task_and_as_many_demos_as_fit(three_tasks: str, world: int) -> None:
    data = held_out(three_tasks)
    demos, tasks = len(data.val_set.demos), len({demo.task for demo in data.val_set.demos})
    assert (demos, tasks) == (9, 3)
    ranks = [as_rank(data, rank, world) for rank in range(world)]
    for count in range(1, len(ranks[0]) + 1):
        seen = [window for rank in ranks for batch in rank[:count] for window in batch]
        assert of(data, seen) == (min(tasks, len(seen)), min(demos, len(seen)))
    everything = {window for rank in ranks for batch in rank for window in batch}
    assert everything == set(range(len(data.val_set)))


def test_the_full_pass_sees_every_window_once_and_index_stays_that_of_the_dataset(three_tasks: str) -> None:
    data = held_out(three_tasks)
    batch: Batch = next(iter(data.val_dataloader()))  # type: ignore[assignment]
    for row, index in enumerate(batch.windows.tolist()):
        assert torch.equal(data.val_set[index].frames, batch.frames[row])
    assert sorted(window for rank in as_rank(data, 0, 1) for window in rank) == list(range(len(data.val_set)))


def test_demos_are_seen_equally_often_until_they_run_out(three_tasks: str) -> None:
    data = held_out(three_tasks)
    order = validation_order(data.val_set.demos, seed=0)
    counts = Counter(str(data.val_set.locate(int(window))[0]) for window in order[:27])
    assert set(counts.values()) == {3}


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 100, 333])
def test_the_steps_of_a_demo_lie_spread_over_its_length_from_the_first_on(length: int) -> None:
    for phase in (0.0, 0.37, 0.999):
        steps = spread(length, phase)
        assert sorted(steps) == list(range(length))
        for count in (2, 4, 8):
            if count <= length:
                around = np.sort(steps[:count])
                gaps = np.diff([*around, around[0] + length])
                assert gaps.max() <= 2 * length / count + 1


def test_first_windows_are_not_all_first_steps(three_tasks: str) -> None:
    data = RobosuiteDataModule(three_tasks, num_frames=1, val_fraction=0)
    data.setup()
    demos = data.train_set.demos
    shares = [data.train_set.locate(int(w)) for w in validation_order(demos, 0)[: len(demos)]]
    places = np.sort([start / demo.length for demo, start in shares])
    assert places[0] < 0.25
    assert places[-1] > 0.6
    assert np.diff(places).max() < 0.3


def test_each_pass_and_each_run_shows_the_same_windows_whatever_the_random_state(
    three_tasks: str, tmp_path: Path
) -> None:
    shown = []
    for seed in (1, 2):
        seed_everything(seed)
        model, trainer = Watcher(), quiet_trainer(tmp_path, 4, val_check_interval=1, limit_val_batches=3)
        trainer.fit(model, held_out(three_tasks, split_seed=5))
        assert len(model.passes[1:]) == 4  # the first is the sanity check
        assert len({tuple(windows) for windows in model.passes[1:]}) == 1
        shown.append(model.passes[-1])
    assert shown[0] == shown[1]
    assert len(shown[0]) == 6


def test_a_pass_over_the_validation_windows_draws_nothing(three_tasks: str) -> None:
    data = held_out(three_tasks)
    before = torch.get_rng_state()
    list(data.val_dataloader())
    assert torch.equal(before, torch.get_rng_state())


def test_the_only_demo_of_a_task_is_trained_on_and_said_not_to_be_validated(robomimic_file: FileFactory) -> None:
    robomimic_file("Stack.hdf5", (5,), task="Stack")
    path = robomimic_file("Lift.hdf5", (5, 6), task="Lift").parent
    with pytest.warns(UserWarning, match=r"\['Stack'\] have one demo each"):
        data = held_out(str(path))
    assert {demo.task for demo in data.train_set.demos} == {"Stack", "Lift"}
    assert {demo.task for demo in data.val_set.demos} == {"Lift"}


def test_validate_without_anything_held_out_says_so(robomimic_file: FileFactory, tmp_path: Path) -> None:
    data = lift_datamodule(robomimic_file(), val_fraction=0)
    with pytest.warns(UserWarning, match="no demo is held out, so there is nothing to measure"):
        quiet_trainer(tmp_path, 1).validate(Watcher(), data, verbose=False)


def test_an_order_of_no_demos_is_empty() -> None:
    assert len(validation_order([], seed=0)) == 0


def test_many_demos_are_ordered_quickly_with_the_seed_deciding_which_come_first() -> None:
    demos = [DemoEntry("f", f"demo_{i}", 300, 7, 16, f"task{i % 24}", "do it") for i in range(1440)]
    first, second = (validation_order(demos, seed)[:1440] for seed in (0, 1))
    assert len(set(first // 300)) == len(set(second // 300)) == 1440
    assert [demos[w // 300].task for w in first[:24]] == [f"task{i}" for i in range(24)]
    assert set(first[:240] // 300) != set(second[:240] // 300)


# --- which windows are pictured -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "pictured"), [(0, 0), (1, 1), (2, 1), (3, 2), (1000, 5)])
def test_frames_are_read_beside_latents_for_whole_batches_of_the_windows_asked_for(
    robomimic_file: FileFactory, tmp_path: Path, count: int, pictured: int
) -> None:
    path = robomimic_file(lengths=(12, 9, 9))
    fill(tmp_path / "cache", lift_datamodule(path))
    data = cached(path, tmp_path / "cache", val_batch_size=2)
    data.picture_windows(count)
    batches: list[Batch] = list(data.val_dataloader())  # type: ignore[arg-type]
    assert [batch.has_frames for batch in batches] == [True] * pictured + [False] * (5 - pictured)
    assert all(batch.latents is not None and len(batch.latents.text) == len(batch) for batch in batches)
    plain = lift_datamodule(path, val_batch_size=2)
    plain.setup()
    for batch, whole in zip(batches[:pictured], plain.val_dataloader(), strict=False):
        assert batch.frames.equal(whole.frames)


def test_a_batch_of_windows_of_which_some_have_frames_has_none(robomimic_file: FileFactory, tmp_path: Path) -> None:
    path = robomimic_file()
    fill(tmp_path / "cache", lift_datamodule(path))
    data = cached(path, tmp_path / "cache")
    windows = ValidationWindows(data.val_set, 0, num_pictured=1)
    batch = Batch.collate([windows[1], windows[0]])
    assert not batch.has_frames
    assert batch.frames.shape == (2, 0)
    assert batch.latents is not None


@pytest.mark.forks
@pytest.mark.parametrize(("length", "shown"), [(9, 5), (1, 1)])
def test_two_ranks_with_latents_walk_a_full_validation_of_an_odd_number_of_windows(
    robomimic_file: FileFactory, tmp_path: Path, length: int, shown: int
) -> None:
    path = robomimic_file(lengths=(length,) * 3)
    fill(tmp_path / "cache", lift_datamodule(path))
    data = lift_datamodule(path, latent_cache=str(tmp_path / "cache"), val_batch_size=2, batch_size=1)
    data.picture_windows(3)  # a batch of each rank
    environment = dict(os.environ)
    trainer = quiet_trainer(tmp_path, 1, devices=2, strategy="ddp_fork", val_check_interval=1, num_sanity_val_steps=0)
    trainer.fit(Watcher(tmp_path), data)
    os.environ.clear()
    os.environ.update(environment)  # the launcher leaves its address and rank behind
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [sum(map(len, windows)) for windows, _ in ranks] == [shown, shown]
    assert {w for windows, _ in ranks for batch in windows for w in batch} == set(range(length))
    for _, pictured in ranks:
        assert pictured == [True] + [False] * (len(pictured) - 1)


def test_validate_alone_reads_the_same_order(three_tasks: str, tmp_path: Path) -> None:
    data, model = held_out(three_tasks), Watcher()
    trainer: Trainer = quiet_trainer(tmp_path, 1, limit_val_batches=0.25)
    trainer.validate(model, data, verbose=False)
    order = validation_order(data.val_set.demos, data.draw.split_seed)
    assert model.passes == [order[: 2 * int(0.25 * -(-len(order) // 2))].tolist()]
