"""What `inspect` and training make of demo files as people have them, and that the two agree."""

import contextlib
import resource
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from datamodules import DemoDataModule, LiberoDataModule, RoboCasaDataModule, RobosuiteDataModule
from datamodules.demo_files import find_files
from datamodules.inspection import inspect_file
from files.errors import UserError
from tests.datamodules import demo_kinds as kinds

Make = Callable[[Path], Path]
R, L, C = RobosuiteDataModule, LiberoDataModule, RoboCasaDataModule
NO_PICTURES = "no camera images (no group obs, only ['actions', 'states'])"
COSMOS = ("robot0_agentview_left_rgb", "robot0_agentview_right_rgb", "robot0_eye_in_hand_rgb")

# name: (module that should read it, how to make it, what it is refused for or None if it trains)
KINDS: dict[str, tuple[type[DemoDataModule], Make, str | None]] = {
    "robomimic": (R, kinds.robomimic, None),
    "robocasa, human demos": (C, kinds.robocasa, None),
    "libero, official": (L, kinds.libero, None),
    "libero, regenerated": (L, lambda p: kinds.write(p, kinds.LIBERO_KEYS, names=("demo_1", "demo_4", "demo_9")), None),
    "libero, jpeg": (L, lambda p: kinds.encoded(p, "jpeg"), None),
    "libero, png": (L, lambda p: kinds.encoded(p, "png"), None),
    "robocasa, cosmos": (C, lambda p: kinds.cosmos(p, COSMOS), None),
    "robocasa, cosmos, one camera": (C, lambda p: kinds.cosmos(p, COSMOS[2:]), "no camera ['robot0_agentview_left'"),
    "one more picture": (R, lambda p: kinds.robomimic(p, kinds.resized(kinds.STEPS + 1)), None),
    "many more pictures": (R, lambda p: kinds.robomimic(p, kinds.resized(30)), "30 images of agentview but 12 actions"),
    "fewer pictures": (R, lambda p: kinds.robomimic(p, kinds.resized(5)), "5 images of agentview but 12 actions"),
    "no pictures": (R, lambda p: kinds.robomimic(p, kinds.without_pictures), NO_PICTURES),
    "libero without pictures": (L, lambda p: kinds.libero(p, kinds.without_pictures), NO_PICTURES),
    "robocasa without pictures": (C, lambda p: kinds.robocasa(p, kinds.without_pictures), NO_PICTURES),
    "filter": (R, lambda p: kinds.robomimic(p, kinds.foreign_filter), "filter 32001 (blosc), which is not installed"),
    "soft link": (R, lambda p: kinds.robomimic(p, kinds.soft_link), "a link to /pictures/gone, which is not there"),
    "external link": (R, lambda p: kinds.robomimic(p, kinds.external_link), "in gone.hdf5, which cannot be opened"),
    "group": (
        R,
        lambda p: kinds.robomimic(p, kinds.group_for_pictures),
        "agentview_image is a group where a dataset is",
    ),
    "constant": (R, lambda p: kinds.robomimic(p, kinds.set_actions(4, np.ones)), "dimensions 4 (always 1)"),
    "nearly constant": (
        R,
        lambda p: kinds.robomimic(
            p, kinds.set_actions(4, lambda n: 0.5 + 1e-7 * np.random.default_rng(0).normal(size=n))
        ),
        "constant action dimensions 4 (always 0.5",
    ),
    "unclosed": (R, kinds.unclosed, "h5clear -s"),
    "empty": (R, lambda p: kinds.bytes_of(p, b""), "an empty file (0 bytes)"),
    "lfs": (R, lambda p: kinds.bytes_of(p, b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "zip": (R, lambda p: kinds.bytes_of(p, b"PK\x03\x04" + bytes(99)), "a zip archive"),
    "web page": (R, lambda p: kinds.bytes_of(p, b"<!DOCTYPE html>"), "a web page"),
    "text": (R, lambda p: kinds.bytes_of(p, b"hello"), "not an HDF5 file (it begins with b'hello')"),
    "cut": (R, lambda p: kinds.bytes_of(p, kinds.robomimic(p).read_bytes()[:-500]), "download or collect it again"),
    "dangling link": (R, kinds.dangling, "a link to nowhere.hdf5, which is not there"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_inspect_and_training_agree(kind: str, tmp_path: Path) -> None:
    module, make, refusal = KINDS[kind]
    path = make(tmp_path / "put_it_down_demo.hdf5")
    report = inspect_file(path)
    if refusal is None:
        assert not report.problems
        data = module(str(path), num_frames=3)
        data.setup()
        assert module.__name__ in report.layout
        assert {data.train_set[i].instruction for i in range(len(data.train_set))} == set(report.instructions)
        return
    assert any(refusal in problem for problem in report.problems), report.problems
    with pytest.raises(UserError) as caught:
        module(str(path), num_frames=3).setup()
    assert refusal in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_cameras_are_shown_by_inspect_and_named_by_training(tmp_path: Path) -> None:
    path = kinds.robomimic(tmp_path / "demo.hdf5", keys=("table_cam", "wrist_cam"))
    assert not inspect_file(path).problems
    with pytest.raises(UserError, match=r"\['table_cam', 'wrist_cam'\]"):
        RobosuiteDataModule(str(path), num_frames=3).setup()


def pair(path: Path, **settings: str) -> tuple[int, float]:
    """Picture and raw action of a window's first step, both as step numbers."""
    data = LiberoDataModule(
        str(path), cameras=["agentview"], val_fraction=0, num_frames=1, action_horizon=1, **settings
    )
    data.setup()
    window = data.train_set[3]
    raw = data.preprocessing.denormalize_actions(window.actions.double())
    return int(window.frames[0, 0, 0, 0, 0]) // 10, round(float(raw[0, 0]) * 20, 3)


def test_a_picture_taken_after_its_action_goes_with_the_next_one(tmp_path: Path) -> None:
    """Picture 3 of an official file shows the world after action 3; a policy that sees it acts with action 4."""
    official = kinds.libero(tmp_path / "a_b_demo.hdf5")
    assert pair(official) == (3, 4)
    assert pair(official, pictures_taken="before_action") == (3, 3)
    assert "action t + 1" in inspect_file(official).timing
    data = LiberoDataModule(str(official), val_fraction=0)
    assert data.num_train_windows == 3 * (kinds.STEPS - 1)  # the last picture has no action after it


def test_regenerated_and_collected_files_pair_a_picture_with_its_own_action(tmp_path: Path) -> None:
    assert pair(kinds.write(tmp_path / "put_it_down_demo.hdf5", kinds.LIBERO_KEYS)) == (3, 3)
    data = RobosuiteDataModule(str(kinds.robomimic(tmp_path / "own.hdf5")), val_fraction=0)
    assert data.num_train_windows == 3 * kinds.STEPS


@pytest.mark.parametrize(("shift", "action"), [(1, 4), (0, 3)])
def test_recorded_joints_tell_the_pairing_before_attributes_do(tmp_path: Path, shift: int, action: int) -> None:
    assert pair(kinds.libero(tmp_path / "a_b_demo.hdf5", kinds.joints(shift))) == (3, action)
    bare = kinds.write(tmp_path / "put_it_down_demo.hdf5", kinds.LIBERO_KEYS, change=kinds.joints(shift))
    assert pair(bare) == (3, action)


def top_is_red(group: h5py.Group) -> None:
    for key in [key for key in group["obs"] if key.endswith(("_rgb", "_image"))]:
        group[f"obs/{key}"][:, : kinds.SIZE // 2] = [255, 0, 0]


@pytest.mark.parametrize(("convention", "red_on_top"), [("opencv", True), ("opengl", False), (None, False)])
def test_the_image_convention_of_a_file_is_followed_and_warned_of(
    tmp_path: Path, convention: str | None, red_on_top: bool
) -> None:
    said = {} if convention is None else {"macros_image_convention": convention}
    path = kinds.libero(tmp_path / "a_b_demo.hdf5", top_is_red, **said)
    data = LiberoDataModule(str(path))
    if convention == "opencv":
        with pytest.warns(UserWarning, match="macros_image_convention"):
            data.setup()
    else:
        data.setup()
    frame = data.train_set[0].frames[0, 0]
    assert bool(frame[0, 0, 0] == 255) == red_on_top
    assert any("macros_image_convention" in note for note in inspect_file(path).notes) == (convention == "opencv")


def test_one_instruction_for_several_tasks_is_warned_of_by_name(tmp_path: Path) -> None:
    for name in ("open_the_drawer_demo.hdf5", "pick_up_the_milk_demo.hdf5"):
        kinds.write(tmp_path / name, kinds.LIBERO_KEYS)
    data = LiberoDataModule(str(tmp_path))
    assert {demo.instruction for demo in data.demos()} == {"open the drawer", "pick up the milk"}
    with pytest.warns(UserWarning, match=r"'pick up the milk' is given to all of \['open_the_drawer', 'pick_up"):
        LiberoDataModule(str(tmp_path), instruction="pick up the milk").setup()


@pytest.mark.parametrize("words", [["put", "the", "bowl"], ["put the bowl"], list("put the bowl"), " put  the bowl\n"])
def test_words_are_read_however_they_are_kept(tmp_path: Path, words: object) -> None:
    path = kinds.libero(tmp_path / "a_demo.hdf5", problem_info={"language_instruction": words})
    assert list(inspect_file(path).instructions) == ["put the bowl"]


def test_a_file_under_several_names_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kinds.robomimic(tmp_path / "a.hdf5")
    (tmp_path / "b.hdf5").symlink_to("a.hdf5")
    (tmp_path / "c.hdf5").hardlink_to(path)
    monkeypatch.chdir(tmp_path)
    for paths in (["a.hdf5", "b.hdf5"], ["a.hdf5", str(path)], ["a.hdf5", "./a.hdf5"], ".", "*.hdf5", "c.hdf5"):
        assert len(find_files(paths)) == 1


def test_copies_are_warned_of_every_time(tmp_path: Path) -> None:
    first = kinds.robomimic(tmp_path / "a.hdf5")
    (tmp_path / "b.hdf5").write_bytes(first.read_bytes())
    for _ in range(2):  # computed, then read from the stored statistics
        with pytest.warns(UserWarning, match=r"b\.hdf5 demo_0: has the actions of .*a\.hdf5 demo_0 \(and 2 more\)"):
            RobosuiteDataModule(str(tmp_path)).setup()


def test_hidden_files_and_by_products_are_no_demos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kinds.robomimic(tmp_path / "lift.hdf5")
    for hidden in ("._lift.hdf5", ".cache/old.hdf5"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "action_statistics-0.json").write_text("{}")
    assert find_files(str(tmp_path)) == find_files(f"{tmp_path}/*") == find_files(f"{tmp_path}/**") == [path]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_files("~/*.hdf5") == find_files("~/lift.hdf5") == [path]


@pytest.mark.parametrize("name", ["[old]/lift.hdf5", "a[1].hdf5", "x[/b].hdf5", "a #1 ü.hdf5", "what?.hdf5", "Up.HDF5"])
def test_a_path_that_is_there_is_no_pattern(tmp_path: Path, name: str) -> None:
    path = kinds.robomimic(tmp_path / name)
    assert find_files(str(path)) == find_files(f"{path.parent}/*") == find_files(str(tmp_path)) == [path]


def test_without_a_home_statistics_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr("tempfile.mkstemp", lambda **_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    data = RobosuiteDataModule(str(kinds.robomimic(tmp_path / "lift.hdf5")))
    assert data.preprocessing.statistics.action_dim == 7


def test_what_a_mask_leaves_out_is_neither_read_nor_measured(tmp_path: Path) -> None:
    path = kinds.robomimic(tmp_path / "lift.hdf5")
    with h5py.File(path, "r+") as file:
        file["data/demo_2/actions"][3, 2] = 50
        file["data/demo_1/actions"][3, 2] = np.nan
        file["mask/good"] = np.array([b"demo_0", b"demo_2"])
        file["mask/best"], file["mask/typo"], file["mask/numbers"] = "demo_0", [b"demo_0", b"demo_99"], [0, 1]
        file["mask/none"] = [b"demo_77"]
    with pytest.warns(UserWarning, match=r"demo_2: the action at step 3, dimension 2 is 50, where 98 %"):
        assert RobosuiteDataModule(str(path), filter_key="good").preprocessing.statistics.maximum[2] == 50
    for settings in ({"filter_key": "best"}, {"limit_demos": 1}):
        data = RobosuiteDataModule(str(path), val_fraction=0, **settings)  # type: ignore[arg-type]
        assert data.preprocessing.statistics.maximum[2] < 1
    with pytest.warns(UserWarning, match=r"mask/typo names \['demo_99'\], which the file does not have"):
        RobosuiteDataModule(str(path), val_fraction=0, filter_key="typo").setup()
    for key, message in (("numbers", "holds int64 values; names are expected"), ("none", r"names \['demo_77'\], but")):
        with pytest.raises(UserError, match=message):
            RobosuiteDataModule(str(path), filter_key=key).setup()


def test_a_broken_file_of_a_task_left_out_stops_nothing(tmp_path: Path) -> None:
    kinds.robomimic(tmp_path / "a" / "lift.hdf5")
    env = {"env_name": "Stack", "type": 1}
    kinds.robomimic(tmp_path / "a" / "stack.hdf5", kinds.without_pictures, env_args=env)
    with h5py.File(tmp_path / "a" / "stack.hdf5", "r+") as file:
        kinds_of_picture = np.zeros((12, 16, 16, 3), np.uint8)
        file["data/demo_0/obs/agentview_image"] = kinds_of_picture
    data = RobosuiteDataModule(str(tmp_path / "a"), evaluation_only_tasks=["Stack"])
    assert {demo.task for demo in data.demos()} == {"Lift"}


def test_zero_padding_far_from_every_action_is_warned_of(tmp_path: Path) -> None:
    """Raw zeros past the end of a demo of absolute positions from .80 to .81 are scaled to -161."""
    absolute = kinds.set_actions(1, lambda n: np.linspace(0.80, 0.81, n))
    path = str(kinds.robomimic(tmp_path / "lift.hdf5", absolute))
    with pytest.warns(UserWarning, match=r"action dimensions 1 \(-161\) are never near 0.*action_padding: hold"):
        RobosuiteDataModule(path).setup()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        RobosuiteDataModule(path, action_padding="hold").setup()


def test_more_files_than_handles_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (16, 16))
    for index in range(9):
        kinds.write(tmp_path / f"{index}.hdf5", kinds.ROBOMIMIC_KEYS, demo={"instruction": "go"}, names=("demo_0",))
    data = RobosuiteDataModule(str(tmp_path), val_fraction=0, num_frames=1)
    with pytest.warns(UserWarning, match="has the actions of"):
        data.setup()
    opened = h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    for index in range(0, len(data.train_set), kinds.STEPS):
        assert data.train_set[index].frames.shape == (2, 1, 3, 16, 16)
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) - opened == 4


def test_the_release_of_the_simulator_is_shown(tmp_path: Path) -> None:
    env = {"env_name": "Lift", "type": 1, "env_version": "1.5.1", "instruction": "lift"}
    assert inspect_file(kinds.robomimic(tmp_path / "lift.hdf5", env_args=env)).env_version == "1.5.1"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(12))
def test_bytes_that_flipped_never_end_in_a_traceback(tmp_path: Path, seed: int) -> None:
    """Whatever h5py raises for damage becomes one sentence, in `inspect` and in training."""
    path = kinds.robomimic(tmp_path / "lift.hdf5")
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(96, 8000, 5):
        content[place] = rng.integers(256)
    path.write_bytes(content)
    assert all("\n" not in problem for problem in inspect_file(path).problems)
    data = RobosuiteDataModule(str(path), num_frames=1)
    with contextlib.suppress(UserError):
        data.setup()
        for index in range(len(data.train_set)):
            assert data.train_set[index].frames.dtype == torch.uint8
