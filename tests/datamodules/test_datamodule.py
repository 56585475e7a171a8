import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from datamodules import Batch, DemoDataModule, LiberoDataModule, RoboCasaDataModule, RobosuiteDataModule
from files.errors import UserError

FileFactory = Callable[..., Path]


class Recorder(LightningModule):
    """A model that learns nothing and remembers which windows it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.windows: list[list[int]] = []
        self.ranges: list[tuple[float, float]] = []
        self.val_frames: list[Tensor] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.windows.append(batch.windows.tolist())
        self.ranges.append((float(batch.frames.min()), float(batch.frames.max())))
        return self.weight * batch.frames.mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_frames.append(batch.frames)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    module: Recorder, data: DemoDataModule, folder: Path, *, max_steps: int, every: int = 1, resume: Path | None = None
) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)],
    )
    trainer.fit(module, data, ckpt_path=resume)


def test_defaults_fit_each_source(
    robomimic_file: FileFactory, robocasa_file: FileFactory, libero_file: FileFactory
) -> None:
    lift = RobosuiteDataModule(str(robomimic_file()), image_size=8)
    assert lift.preprocessing.cameras == ("agentview", "robot0_eye_in_hand")
    assert (lift.preprocessing.action_dim, lift.preprocessing.image_size) == (7, 8)
    assert lift.train_set[0].instruction == "lift the cube"
    drawer = RoboCasaDataModule(str(robocasa_file()))
    assert drawer.preprocessing.action_dims == (0, 1, 2, 3, 4, 5, 6)
    assert drawer.preprocessing.cameras[0] == "robot0_eye_in_hand"
    assert drawer.train_set[0].frames.shape == (3, 8, 3, 16, 16)
    assert drawer.train_set[0].instruction == "close the drawer"
    milk = LiberoDataModule(str(libero_file()), instruction="fetch the milk")
    assert {demo.orientation for demo in milk.demos()} == {"flip_vertical"}
    assert milk.preprocessing.image_size == 16
    assert milk.train_set[0].instruction == "fetch the milk"


def test_the_split_is_by_demo_seeded_and_alike_for_every_task(robomimic_file: FileFactory, tmp_path: Path) -> None:
    for task in ("Lift", "Stack"):
        robomimic_file(name=f"{task}.hdf5", task=task, lengths=(3,) * 10)

    def held_out(path: str, seed: int) -> set[tuple[str, str]]:
        data = RobosuiteDataModule(path, val_fraction=0.2, split_seed=seed)
        data.setup()
        train = {(d.task, d.name) for d in data.train_set.demos}
        val = {(d.task, d.name) for d in data.val_set.demos}
        assert not train & val
        return val

    both = held_out(str(tmp_path), 0)
    assert [sum(task == name for name, _ in both) for task in ("Lift", "Stack")] == [2, 2]
    assert held_out(str(tmp_path), 0) == both
    assert any(held_out(str(tmp_path), seed) != both for seed in (1, 2, 3))
    assert held_out(str(tmp_path / "Lift.hdf5"), 0) == {demo for demo in both if demo[0] == "Lift"}


def test_an_epoch_shows_every_window_once_in_an_order_given_by_seed_and_epoch(
    robomimic_file: FileFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    data = RobosuiteDataModule(str(robomimic_file()), batch_size=1, val_fraction=0)
    data.setup()

    def order(epoch: int) -> list[int]:
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        return [int(batch.windows) for batch in loader]

    assert sorted(order(0)) == list(range(28))
    assert order(0) == order(0)
    assert order(0) != order(1)
    first = order(0)
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    assert order(0) != first


def test_batches_reach_the_model_as_floats_in_range(robomimic_file: FileFactory, tmp_path: Path) -> None:
    data = RobosuiteDataModule(str(robomimic_file()), batch_size=4, val_fraction=0.4, colour_jitter=None)
    model = Recorder()
    fit(model, data, tmp_path, max_steps=2)
    for low, high in model.ranges:
        assert -1 <= low < high <= 1


def test_validation_frames_are_not_jittered(robomimic_file: FileFactory, tmp_path: Path) -> None:
    data = RobosuiteDataModule(str(robomimic_file()), batch_size=50, val_fraction=0.4)
    model = Recorder()
    fit(model, data, tmp_path, max_steps=1)
    batch: Batch = next(iter(data.val_dataloader()))  # type: ignore[assignment]
    expected = torch.stack([data.val_set[int(i)].frames for i in batch.windows])
    assert torch.equal(data.preprocessing.to_uint8(model.val_frames[0]), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_exactly_the_windows_it_had_left(
    robomimic_file: FileFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """28 windows in batches of 4: stop mid-epoch (3), at an epoch's end (7) and mid second epoch (9)."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    path = str(robomimic_file())

    def data() -> RobosuiteDataModule:
        return RobosuiteDataModule(path, num_frames=1, batch_size=4, val_fraction=0, num_workers=workers)

    whole = Recorder()
    fit(whole, data(), tmp_path / "whole", max_steps=16)
    assert sorted(itertools.chain(*whole.windows[:7])) == list(range(28))
    assert whole.windows[:7] != whole.windows[7:14]
    for stop in (3, 7, 9):
        resumed = Recorder()
        fit(resumed, data(), tmp_path / f"resumed{stop}", max_steps=16, resume=tmp_path / f"whole/step={stop}.ckpt")
        assert resumed.windows == whole.windows[stop:], f"resumed after step {stop}"


def test_weights_say_how_often_a_demo_is_drawn_whatever_its_length(robomimic_file: FileFactory, tmp_path: Path) -> None:
    """Lift 1 demo x weight 3, Stack 3 demos x weight 1: half of the draws each."""
    robomimic_file(name="a.hdf5", task="Lift", lengths=(40,))
    robomimic_file(name="b.hdf5", task="Stack", lengths=(5, 500, 20))
    data = RobosuiteDataModule(str(tmp_path), val_fraction=0, weights={"Lift": 3.0}, batch_size=1)
    data.setup()
    sampler = data.train_dataloader().sampler
    drawn = [data.train_set.locate(i)[0] for epoch in range(20) for i in sampler.order(epoch)]  # type: ignore[attr-defined]
    for task, length, share in (("Lift", 40, 1 / 2), ("Stack", 5, 1 / 6), ("Stack", 500, 1 / 6), ("Stack", 20, 1 / 6)):
        assert np.mean([(d.task, d.length) == (task, length) for d in drawn]) == pytest.approx(share, abs=0.02)


def test_window_loader_goes_over_a_split_in_order_with_frames(robomimic_file: FileFactory) -> None:
    data = RobosuiteDataModule(str(robomimic_file()), val_fraction=0.4)
    data.setup()
    data.train_set.features = SimpleNamespace(window=lambda *_: [torch.zeros(1)])  # type: ignore[assignment]
    batches = list(data.window_loader("train", batch_size=3))
    assert torch.cat([batch.windows for batch in batches]).tolist() == list(range(len(data.train_set)))
    assert all(batch.frames.dtype == torch.uint8 and batch.has_frames for batch in batches)
    assert not next(iter(data.train_dataloader())).has_frames


def test_limit_demos_and_filter_key_choose_demos_and_what_is_measured(robomimic_file: FileFactory) -> None:
    path = str(robomimic_file(lengths=(5, 6, 7)))
    everything = RobosuiteDataModule(path, val_fraction=0)
    first = RobosuiteDataModule(path, val_fraction=0, limit_demos=1)
    masked = RobosuiteDataModule(path, val_fraction=0, filter_key="first_two")
    assert (everything.num_train_windows, first.num_train_windows, masked.num_train_windows) == (18, 5, 11)
    with h5py.File(path) as file:
        actions = [demo["actions"][()] for demo in file["data"].values()]
    for module, used in ((everything, actions), (first, actions[:1]), (masked, actions[:2])):
        assert module.preprocessing.statistics.maximum == tuple(np.concatenate(used).max(0))


def test_files_globs_and_folders_are_found_once_each(robomimic_file: FileFactory, tmp_path: Path) -> None:
    robomimic_file(name="x/a.hdf5", lengths=(2,))
    robomimic_file(name="x/deep/b.h5", lengths=(3,))
    for paths, windows in (
        (str(tmp_path / "x"), 5),
        (str(tmp_path / "x/*.hdf5"), 2),
        (str(tmp_path / "x/**/*.h*5"), 5),
        ([str(tmp_path / "x/a.hdf5"), str(tmp_path / "x")], 5),
    ):
        assert RobosuiteDataModule(paths, val_fraction=0).num_train_windows == windows


LAYOUTS = {"robomimic": RobosuiteDataModule, "robocasa": RoboCasaDataModule, "libero": LiberoDataModule}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("corruption", "message"),
    [
        ("truncated", r"truncated .*download or collect it again\."),
        ("not_hdf5", r"a Git LFS pointer, not the file itself; fetch it with `git lfs pull`\."),
        ("no_data_group", r"no group 'data', only \['episodes', 'mask'\]"),
        ("no_demos", r"no demo under 'data'"),
        ("no_actions", r"demo_1: no dataset 'actions', only"),
        ("empty_demo", r"demo_1: no steps, shorter than one step; remove this demo\."),
        ("cut_short", r"demo_1: 4 actions but num_samples says 9"),
        ("nan_actions", r"demo_1: the action at step 8, dimension 2 is nan"),
        ("infinite_actions", r"demo_1: the action at step 8, dimension 2 is inf"),
        ("wrong_width", r"demo_1: actions are \d+ wide but those of .* demo_0 are \d+ wide"),
        ("constant_action", r"constant action dimensions 1 \(always 0\.25\).*constant_actions: zero"),
        ("missing_camera", r"demo_1: no camera \['robot0_\w+'\]; the file has \['.*'\]\. Set data\.init_args\.cameras"),
        ("unequal_cameras", r"demo_1: cameras of unequal size \(.*16x16.*8x8.*\)"),
        ("not_square", r"demo_1: images are 8x16, not square"),
        ("float_images", r"demo_1: images of \w+ are float32"),
    ],
)
def test_bad_files_fail_at_setup_in_one_sentence(
    request: pytest.FixtureRequest, layout: str, corruption: str, message: str
) -> None:
    path = request.getfixturevalue(f"{layout}_file")(corruption=corruption)
    data = LAYOUTS[layout](str(path), val_fraction=0)
    data.cameras.sort()  # robot0_* last: the camera that the fixture spoils
    with pytest.raises(UserError, match=message) as caught:
        data.setup()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", LAYOUTS)
@pytest.mark.parametrize("read", LAYOUTS)
def test_a_wrong_layout_is_told_by_name(request: pytest.FixtureRequest, written: str, read: str) -> None:
    path = str(request.getfixturevalue(f"{written}_file")())
    cameras = ["robot0_eye_in_hand"]
    if written == read:
        assert LAYOUTS[read](path, cameras=cameras).num_train_windows > 0
        return
    with pytest.raises(UserError, match=f"looks like the .* layout.*use {LAYOUTS[written].__name__} for it"):
        LAYOUTS[read](path, cameras=cameras).setup()


def test_a_file_without_instruction_asks_for_one(robomimic_file: FileFactory, libero_file: FileFactory) -> None:
    for data in (
        RobosuiteDataModule(str(robomimic_file(corruption="no_instruction"))),
        LiberoDataModule(str(libero_file(name="milk.hdf5", corruption="no_instruction"))),
    ):
        with pytest.raises(UserError, match=r"no instruction; set data\.init_args\.instruction"):
            data.setup()


def test_paths_of_nothing_to_see_are_named(robomimic_file: FileFactory, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in (
        (str(tmp_path / "*.none"), "no file matches this pattern"),
        (str(tmp_path / "missing.hdf5"), "no such file"),
        (
            str(robomimic_file("bare.hdf5", corruption="no_images")),
            r"no camera images \(obs has \['robot0_eef_pos'\]\)",
        ),
        (str(tmp_path / "empty"), r"the folder holds no \.hdf5 or \.h5 file"),
    ):
        with pytest.raises(UserError, match=message):
            RobosuiteDataModule(path).setup()
    with pytest.raises(UserError, match="paths is empty"):
        RobosuiteDataModule([]).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"Lfit": 2.0}}, r"names \['Lfit'\].*\['Lift', 'Stack'\]"),
        ({"filter_key": "50_demos"}, r"no filter key '50_demos'; the file has \['first_two'\]"),
        (
            {"action_demos": 3},
            r"action_demos is 3, but Lift has 2 demo\(s\) to train on beside 1 held out.*at most 2, or null",
        ),
        ({"action_dims": [0, 7]}, r"7 wide but action_dims is \[0, 7\].*0 to 6"),
        ({"video_only_tasks": ["Stck"]}, r"names \['Stck'\]"),
        ({"video_only_tasks": ["Lift", "Stack"]}, "names every task"),
        ({"evaluation_only_tasks": ["Lift", "Stack"]}, "leaves no demo to learn from"),
    ],
)
def test_settings_that_do_not_fit_the_files_are_refused_each_time(
    two_tasks: str, settings: dict[str, Any], message: str
) -> None:
    data = RobosuiteDataModule(two_tasks, **settings)
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            data.setup()


def test_files_of_other_image_size_need_a_common_one(robomimic_file: FileFactory, tmp_path: Path) -> None:
    robomimic_file(name="a.hdf5", size=16)
    robomimic_file(name="b.hdf5", size=8)
    with pytest.raises(UserError, match=r"set data\.init_args.image_size to resize both"):
        RobosuiteDataModule(str(tmp_path)).setup()
    data = RobosuiteDataModule(str(tmp_path), image_size=8, val_fraction=0)
    data.setup()
    assert {data.train_set[i].frames.shape for i in range(len(data.train_set))} == {(2, 8, 3, 8, 8)}


def test_one_demo_cannot_be_split(robomimic_file: FileFactory) -> None:
    path = str(robomimic_file(lengths=(9,)))
    with pytest.raises(UserError, match=r"set data\.init_args.val_fraction to 0"):
        RobosuiteDataModule(path).setup()
    assert RobosuiteDataModule(path, val_fraction=0).num_train_windows == 9


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_frames", 0),
        ("frame_stride", -1),
        ("action_demos", 0),
        ("action_demos", -3),
        ("video_demos", 0),
        ("image_size", 0),
        ("val_fraction", 1.0),
        ("cameras", ["a", "a"]),
        ("weights", {"Lift": -1.0}),
    ],
)
def test_impossible_settings_are_refused_when_the_module_is_made(setting: str, value: object) -> None:
    with pytest.raises(UserError, match=f"data.init_args.{setting} is"):
        RobosuiteDataModule("x.hdf5", **{setting: value})  # type: ignore[arg-type]


def test_the_base_class_names_its_subclasses() -> None:
    with pytest.raises(UserError, match="use RobosuiteDataModule, RoboCasaDataModule or LiberoDataModule"):
        DemoDataModule("x.hdf5")


@pytest.mark.parametrize(("given", "hue"), [("{hue: 0.0}", 0.0), ("null", None), (None, 0.05)])
def test_the_constructor_is_the_schema_of_the_yaml(given: str | None, hue: float | None) -> None:
    """What an experiment file sets passes through jsonargparse: nested jitter, lists, weights."""
    parser = ArgumentParser(parser_mode="omegaconf")
    parser.add_subclass_arguments(DemoDataModule, "data")
    text = "data: {class_path: datamodules.RoboCasaDataModule, init_args: {paths: [a.hdf5, 'b/*.hdf5'], weights: {A: 2}"
    text += f", colour_jitter: {given}}}}}" if given else "}}"
    data = parser.instantiate(parser.parse_string(text)).data
    assert isinstance(data, RoboCasaDataModule)
    assert data.paths == ["a.hdf5", "b/*.hdf5"]
    assert data.weights == {"A": 2.0}
    assert (data.colour_jitter.hue if data.colour_jitter else None) == hue


class Filmer(Recorder):
    learns_actions = False


@pytest.fixture
def two_tasks(robomimic_file: FileFactory) -> str:
    robomimic_file(name="Lift.hdf5", task="Lift", lengths=(6, 5, 4), seed=1)
    return str(robomimic_file(name="Stack.hdf5", task="Stack", lengths=(7, 6, 5), seed=2).parent)


def tasks_seen(module: Recorder, path: str, folder: Path) -> set[str]:
    data = RobosuiteDataModule(path, video_only_tasks=["Stack"], num_frames=2, action_horizon=4, batch_size=4)
    fit(module, data, folder, max_steps=6)
    return {data.train_set.locate(window)[0].task for batch in module.windows for window in batch}


def test_a_video_only_task_is_filmed_but_its_actions_are_not_learned(two_tasks: str, tmp_path: Path) -> None:
    assert tasks_seen(Filmer(), two_tasks, tmp_path / "video") == {"Lift", "Stack"}
    assert tasks_seen(Recorder(), two_tasks, tmp_path / "action") == {"Lift"}


@pytest.mark.parametrize("touch", ["preprocessing", "num_train_windows", "tasks_by_use"])
def test_touching_the_data_early_leaves_the_video_stage_its_tasks(two_tasks: str, tmp_path: Path, touch: str) -> None:
    data = RobosuiteDataModule(two_tasks, video_only_tasks=["Stack"], num_frames=2, action_horizon=4, batch_size=4)
    getattr(data, touch)
    assert {demo.task for demo in data.train_set.demos} == {"Lift"}
    filmer = Filmer()
    fit(filmer, data, tmp_path, max_steps=6)
    assert {data.train_set.locate(w)[0].task for batch in filmer.windows for w in batch} == {"Lift", "Stack"}
    assert {demo.task for demo in data.val_set.demos} == {"Lift", "Stack"}


def test_one_datamodule_serves_both_stages_each_with_its_own_tasks(two_tasks: str, tmp_path: Path) -> None:
    data = RobosuiteDataModule(two_tasks, video_only_tasks=["Stack"], num_frames=2, action_horizon=4, batch_size=4)
    held_out = []
    for module, tasks in ((Filmer(), {"Lift", "Stack"}), (Recorder(), {"Lift"}), (Filmer(), {"Lift", "Stack"})):
        fit(module, data, tmp_path, max_steps=6)
        assert {data.train_set.locate(w)[0].task for batch in module.windows for w in batch} == tasks
        assert {demo.task for demo in data.val_set.demos} == tasks
        held_out.append({str(demo) for demo in data.val_set.demos if demo.task == "Lift"})
    assert held_out[0] == held_out[1] == held_out[2], "the same demos are held out from both stages"


def test_the_statistics_know_nothing_of_a_video_only_task(two_tasks: str) -> None:
    data = RobosuiteDataModule(two_tasks, video_only_tasks=["Stack"], weights={"Stack": 2.0})  # which stage 2 ignores
    without = data.preprocessing.statistics
    assert without == RobosuiteDataModule(f"{two_tasks}/Lift.hdf5").preprocessing.statistics
    assert without != RobosuiteDataModule(two_tasks).preprocessing.statistics


def test_an_evaluation_only_task_teaches_no_stage(two_tasks: str) -> None:
    data = RobosuiteDataModule(two_tasks, evaluation_only_tasks=["Stack", "Door"])
    assert data.tasks_by_use == {"learned": ["Lift"], "video_only": [], "unseen": ["Stack", "Door"]}
    assert {demo.task for demo in [*data.train_set.demos, *data.val_set.demos]} == {"Lift"}
    assert data.preprocessing == RobosuiteDataModule(f"{two_tasks}/Lift.hdf5").preprocessing


def test_a_task_is_held_out_in_one_way_and_never_are_all(two_tasks: str) -> None:
    with pytest.raises(UserError, match=r"\['Lift'\] are in video_only_tasks and in evaluation_only_tasks"):
        RobosuiteDataModule(two_tasks, video_only_tasks=["Lift"], evaluation_only_tasks=["Lift"])


# --- few actions, many videos -----------------------------------------------------------------------------------------


@pytest.fixture
def many_demos(robomimic_file: FileFactory) -> str:
    """Two tasks of 20 and 12 demos, told apart by their lengths."""
    robomimic_file(name="Lift.hdf5", task="Lift", lengths=tuple(range(3, 23)), seed=1)
    return str(robomimic_file(name="Stack.hdf5", task="Stack", lengths=tuple(range(3, 15)), seed=2).parent)


def learned(path: str, films: bool = False, **settings: object) -> tuple[set[str], set[str]]:
    train, val = RobosuiteDataModule(path, **settings).split(films)  # type: ignore[arg-type]
    return {str(demo) for demo in train}, {str(demo) for demo in val}


def test_action_demos_are_nested_and_as_many_of_every_task(many_demos: str) -> None:
    sets = [learned(many_demos, action_demos=count) for count in (1, 2, 5, 11)]
    for (train, val), count in zip(sets, (1, 2, 5, 11), strict=True):
        assert [sum(task in demo for demo in train) for task in ("Lift", "Stack")] == [count, count]
        assert val == sets[0][1]
        assert not train & val, "held-out demos are never trained on"
    assert sets[0][0] < sets[1][0] < sets[2][0] < sets[3][0]
    everything = learned(many_demos)
    assert sets[3][0] < everything[0]
    assert everything[1] == sets[0][1]
    assert learned(many_demos, films=True, action_demos=1) == everything, "the video stage sees all videos"


def test_another_demo_seed_draws_other_demos_and_holds_out_the_same(many_demos: str) -> None:
    drawn = {seed: learned(many_demos, action_demos=5, demo_seed=seed) for seed in (0, 1, 2)}
    assert drawn[0] == learned(many_demos, action_demos=5, split_seed=0), "the seed of the split unless given"
    assert len({frozenset(train) for train, _ in drawn.values()}) == 3
    assert drawn[0][1] == drawn[1][1] == drawn[2][1]


def test_as_many_videos_as_actions_are_the_same_demos(many_demos: str) -> None:
    settings = {"action_demos": 4, "video_demos": 4, "demo_seed": 7}
    assert learned(many_demos, films=True, **settings) == learned(many_demos, **settings)
    with pytest.raises(UserError, match=r"video_demos is 12, but Stack has 11 demo\(s\)"):
        learned(many_demos, films=True, video_demos=12)


def test_a_task_that_is_only_watched_needs_no_action_demos(many_demos: str) -> None:
    train, _ = learned(many_demos, action_demos=15, video_only_tasks=["Stack"])
    assert len(train) == 15
    assert all("Lift" in demo for demo in train)


def test_the_scale_of_actions_is_of_exactly_the_action_demos(many_demos: str) -> None:
    data = RobosuiteDataModule(f"{many_demos}/Lift.hdf5", action_demos=1)
    (demo,) = data.split(films=False)[0]
    with h5py.File(demo.path) as file:
        actions = file[f"data/{demo.name}/actions"][()].astype(np.float64)
    statistics = data.preprocessing.statistics
    assert statistics.minimum == tuple(actions.min(0))
    assert statistics.maximum == tuple(actions.max(0))


def test_one_datamodule_gives_each_stage_its_demos(many_demos: str, tmp_path: Path) -> None:
    data = RobosuiteDataModule(many_demos, action_demos=2, num_frames=2, action_horizon=4, batch_size=4)
    counts = []
    for module in (Filmer(), Recorder(), Filmer()):
        fit(module, data, tmp_path, max_steps=1)
        counts.append((len(data.train_set.demos), len(data.val_set.demos)))
    assert counts == [(29, 3), (4, 3), (29, 3)]
