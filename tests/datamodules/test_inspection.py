from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from datamodules.contact_sheet import CAPTION, GAP, THUMBNAIL, contact_sheet
from datamodules.inspection import inspect_file
from files.errors import UserError

FileFactory = Callable[..., Path]


@pytest.mark.parametrize(
    ("layout", "data_module", "task", "instruction"),
    [
        ("robomimic", "RobosuiteDataModule", "Lift", "lift the cube"),
        ("robocasa", "RoboCasaDataModule", "CloseDrawer", "close the drawer"),
        ("libero", "LiberoDataModule", "pick_up_the_milk_and_place_it_in_the_basket", "pick up the milk and place"),
    ],
)
def test_a_report_tells_what_each_layout_holds(
    request: pytest.FixtureRequest, layout: str, data_module: str, task: str, instruction: str
) -> None:
    path = request.getfixturevalue(f"{layout}_file")()
    report = inspect_file(path)
    assert report.problems == []
    assert data_module in report.layout
    assert report.task == task
    assert report.lengths == [12, 9, 7]
    assert report.sizes["robot0_eye_in_hand"] == {"16x16"}
    assert [(text.startswith(instruction), count) for text, count in report.instructions.items()] == [(True, 3)]
    with h5py.File(path) as file:
        actions = np.concatenate([demo["actions"] for demo in file["data"].values()])
    assert np.array_equal(report.minimum, actions.min(0))
    assert np.array_equal(report.maximum, actions.max(0))


@pytest.mark.parametrize(
    ("corruption", "problem"),
    [
        ("truncated", "truncated"),
        ("not_hdf5", "not an HDF5 file but a Git LFS pointer"),
        ("no_data_group", "no group 'data'"),
        ("no_demos", "no demo under 'data'"),
        ("no_images", "no camera images (obs has ['robot0_eef_pos'])"),
        ("no_actions", "demo_1: no dataset 'actions'"),
        ("empty_demo", "demo_1: no steps"),
        ("cut_short", "demo_1: 4 actions but num_samples says 9"),
        ("nan_actions", "demo_1: actions of 1 steps are not finite"),
        ("wrong_width", "demo_1: actions are 8 wide, those before 7"),
        ("constant_action", "constant action dimensions 1 (always 0.25)"),
        ("missing_camera", "demo_1: no camera ['robot0_eye_in_hand']"),
        ("unequal_cameras", "demo_1: cameras of unequal size"),
        ("not_square", "demo_1: images are 8x16, not square"),
        ("float_images", "demo_1: images of agentview are float32"),
        ("no_instruction", "demo_0: the file holds no instruction"),
    ],
)
def test_problems_are_listed_with_their_demo(robomimic_file: FileFactory, corruption: str, problem: str) -> None:
    report = inspect_file(robomimic_file(corruption=corruption))
    assert any(found.startswith(problem) for found in report.problems), report.problems
    assert all(found.endswith(".") and "\n" not in found for found in report.problems)


def test_several_problems_of_one_file_are_all_listed(robomimic_file: FileFactory) -> None:
    path = robomimic_file(corruption="nan_actions")
    with h5py.File(path, "r+") as file:
        del file["data/demo_2/obs/agentview_image"]
    assert [problem.split(":")[0] for problem in inspect_file(path).problems] == ["demo_1", "demo_2"]


def test_the_cameras_of_another_simulator_are_no_problem(robomimic_file: FileFactory) -> None:
    report = inspect_file(robomimic_file(cameras=("corner4", "gripperPOV"), action_dim=4))
    assert report.problems == []
    assert set(report.sizes) == {"corner4", "gripperPOV"}


def test_nan_actions_do_not_hide_the_range_of_the_others(robomimic_file: FileFactory) -> None:
    report = inspect_file(robomimic_file(corruption="nan_actions"))
    assert np.isfinite(report.minimum).all()
    assert np.isfinite(report.maximum).all()


def test_the_contact_sheet_shows_upright_frames_from_first_to_last_step(libero_file: FileFactory) -> None:
    """LIBERO stores them upside down: green must grow from the top down, red from moment to moment."""
    sheet = contact_sheet([libero_file(lengths=(101, 11))], demos_per_file=1, moments=3)
    assert sheet.size == (2 * (3 * THUMBNAIL + GAP), 2 * CAPTION + THUMBNAIL + GAP)
    pixels = np.asarray(sheet)[2 * CAPTION : 2 * CAPTION + THUMBNAIL]
    assert pixels[0, 0, 1] < pixels[-1, 0, 1]
    assert [int(pixels[50, f * THUMBNAIL + 50, 0]) for f in range(3)] == [0, 50, 100]


def test_files_that_cannot_be_drawn_are_left_out(robomimic_file: FileFactory) -> None:
    good = robomimic_file(name="good.hdf5")
    bad = robomimic_file(name="bad.hdf5", corruption="truncated")
    assert contact_sheet([good, bad]).size == contact_sheet([good]).size
    with pytest.raises(UserError, match=r"no demo can be drawn: .*bad\.hdf5: truncated"):
        contact_sheet([bad])
