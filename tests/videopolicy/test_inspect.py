import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from files.errors import UserError
from videopolicy import inspect

FileFactory = Callable[..., Path]


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    inspect.add_arguments(parser)
    return inspect.run(parser.parse_args(arguments))


def test_a_good_file_is_described_and_drawn(
    robomimic_file: FileFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = robomimic_file(instruction="lift the [red] cube")
    sheet = tmp_path / "pictures" / "sheet.png"
    assert run(str(path), "--contact-sheet", str(sheet), "--demos", "2") == 0
    printed = capsys.readouterr().out
    for fact in (
        "robosuite/robomimic (RobosuiteDataModule)",
        "7 to 12, mean 9.3, 28 in all",
        "agentview 16x16",
        "lift the [red] cube (3)",
        "action 6",
        "no problems found",
    ):
        assert fact in printed
    with Image.open(sheet) as picture:
        assert picture.width > picture.height > 200


def test_problems_are_printed_and_make_the_exit_code_one(
    robomimic_file: FileFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robomimic_file(name="x/good.hdf5")
    robomimic_file(name="x/bad.hdf5", corruption="missing_camera")
    assert run(str(tmp_path / "x")) == 1
    printed = capsys.readouterr().out
    assert "problem: demo_1: no camera ['robot0_eye_in_hand']; the file has ['agentview']" in printed
    assert "2 files, 6 demos, 56 steps" in printed


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        run(str(tmp_path / "missing.hdf5"))


def test_a_sheet_that_cannot_be_drawn_or_written_is_one_sentence(robomimic_file: FileFactory, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no demo can be drawn"):
        run(str(robomimic_file(corruption="no_images")), "--contact-sheet", str(tmp_path / "x.png"))
    good = str(robomimic_file())
    with pytest.raises(UserError, match="cannot be written"):
        run(good, "--contact-sheet", f"{good}/x.png")
