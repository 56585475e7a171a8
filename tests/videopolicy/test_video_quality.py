"""The verb that measures whether a video network films: known answers first, then the command on a tiny run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import RobosuiteDataModule
from datamodules.demos import DemoEntry
from networks import Conditioning, Sampler, VideoModel
from networks.picture_errors import MOVED
from tests.stage_parts import lift_datamodule, tiny_video_model
from videopolicy.filming.measure import (
    INSTRUCTION,
    NO_TEXT,
    WRONG,
    Filming,
    Row,
    in_turns,
    measure,
    with_steps,
    wrong_instructions,
)
from videopolicy.filming.scores import Measured, resamples
from videopolicy.main import main

SAMPLER = Sampler(num_steps=1, sigma_max=20.0, sigma_min=20.0, guidance=1.0)


@pytest.fixture
def data(robomimic_file: Callable[..., Path]) -> RobosuiteDataModule:
    """Nine demos, of which three are held out; everything in them moves."""
    module = lift_datamodule(robomimic_file(lengths=[9] * 9), num_frames=3)
    module.setup()
    return module


@pytest.fixture(autouse=True)
def every_change_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generated demos change by less than a tenth of the range."""
    monkeypatch.setattr("networks.picture_errors.MOVED", MOVED / 100)


def filmed(
    data: RobosuiteDataModule, predict: Callable[[VideoModel, Conditioning], Tensor], monkeypatch: pytest.MonkeyPatch
) -> dict[Row, Measured]:
    """What is measured of a network that predicts these latents."""
    video = tiny_video_model(num_frames=3, residual=False).freeze()
    video.condition_noise = 0.0
    monkeypatch.setattr(VideoModel, "predict_video", lambda self, conditioning, *_: predict(self, conditioning))
    wrong = {"lift the cube": "drop the cube"}
    filming = Filming(video, data.preprocessing, SAMPLER, [1, 2], wrong)
    found = measure(filming, data.val_set, data.val_set.demos, 4, 0)
    drawn = resamples(len(data.val_set.demos))
    return {row: Measured(sums, drawn) for row, sums in found.sums.items()}


def test_a_perfect_predictor_has_skill_1_and_one_that_holds_the_picture_0(
    data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    true: list[Tensor] = []
    encode = VideoModel.encode

    def remembered(self: VideoModel, *arguments: object, **options: object) -> Tensor:
        true[:] = [encode(self, *arguments, **options)]
        return true[0]

    monkeypatch.setattr(VideoModel, "encode", remembered)
    for predict, wanted in ((lambda *_: true[0], 1.0), (lambda _, conditioning: conditioning.latents, 0.0)):
        for measured in filmed(data, predict, monkeypatch).values():
            for name in ("skill", "skill_moving", "latent_skill"):
                for value in (measured.mean[name], measured.by_camera[name], measured.by_frame[name]):
                    np.testing.assert_allclose(value, wanted, atol=1e-5)


def test_the_controls_are_told_nothing_and_the_wrong_thing(
    data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that stands still if it hears the right words: only the controls may err."""
    video = tiny_video_model(num_frames=3, residual=False)
    right = video.text_encoder(["lift the cube"])[0]

    def predict(_: VideoModel, conditioning: Conditioning) -> Tensor:
        told = torch.isclose(conditioning.context, right, atol=1e-5).all()
        silent = not conditioning.context.any()
        return conditioning.latents + (0.0 if told else 1.0 if silent else 2.0)

    found = filmed(data, predict, monkeypatch)
    skills = {row: values.mean["skill"][0] for row, values in found.items()}
    assert list(skills) == [Row(c, steps) for c in (INSTRUCTION, NO_TEXT, WRONG) for steps in (1, 2)]
    assert skills[Row(INSTRUCTION, 1)] == pytest.approx(0.0, abs=1e-5)
    assert skills[Row(WRONG, 2)] < skills[Row(NO_TEXT, 2)] < -0.5


def test_windows_lie_in_the_demos_that_were_asked_for(
    data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(Filming, "film", lambda self, batch: seen.extend(batch.windows.tolist()) or iter(()))
    filming = Filming(tiny_video_model(num_frames=3), data.preprocessing, SAMPLER, [1, 5], {})
    assert filming.compared_to(Row(INSTRUCTION, 5)) == Row(INSTRUCTION, 1)
    assert filming.compared_to(Row(NO_TEXT, 5)) == Row(INSTRUCTION, 5)
    measure(filming, data.val_set, data.val_set.demos[1:2], 3, 0)
    assert seen == [9 + 1, 9 + 4, 9 + 7]
    assert {data.val_set.locate(index)[0] for index in seen} == {data.val_set.demos[1]}


def test_intervals_come_from_whole_demos_and_differences_from_pairs() -> None:
    """Two demos of opposite skill: resamples hold one, the other or both, and a row differs from itself by nothing."""
    ones = np.ones((2, 1, 1))
    error = np.array([0.0, 4.0]).reshape(2, 1, 1)
    names = [f"{name}{ending}" for name in ("error", "held", "size") for ending in ("", "_moving", "_latent")]
    sums = {name: error if name.startswith("error") else 4 * ones for name in names} | {"ssim": ones, "images": ones}
    measured = Measured(sums, resamples(2))
    assert set(measured.mean["skill"]) == {0.0, 0.5, 1.0}
    document = measured.document(["front"], measured)
    assert document["mean"]["skill"] == [0.5, 0.0, 1.0]
    assert document["frames"]["front"]["skill_moving"] == [[0.5, 0.0, 1.0]]
    assert document["difference"]["skill"] == [0.0, 0.0, 0.0]
    assert document["mean"]["psnr"][0] == pytest.approx(10 * np.log10(4 / 0.5))
    assert document["mean"]["psnr_still"] == [None, None, None]  # everything moves


def test_steps_begin_at_the_samplers_own_level_and_one_step_is_one_look() -> None:
    assert with_steps(SAMPLER, 1).sigmas().tolist() == [20.0, 0.0]
    ten = with_steps(SAMPLER, 10).sigmas()
    assert len(ten) == 11
    assert (ten[0].item(), ten[9].item()) == (20.0, pytest.approx(0.02))
    assert with_steps(Sampler(), 5).sigma_min == Sampler().sigma_min


def test_tasks_take_turns_and_a_wrong_instruction_is_another_tasks() -> None:
    demos = [DemoEntry("a", f"demo_{n}", 5, 7, 16, task, task) for n, task in enumerate("aaabbc")]
    assert [demo.task for demo in in_turns(demos, 5)] == ["a", "b", "c", "a", "b"]
    assert wrong_instructions(demos) == {"a": "b", "b": "c", "c": "a"}
    assert wrong_instructions(demos[:3]) == {}


def test_a_run_is_measured_by_its_own_held_out_demos(
    run_lightning: Callable[..., object], lift_overlay: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_lightning("fit", *lift_overlay, "--stage", "video", "--run_dir", str(tmp_path / "run"))
    checkpoint = tmp_path / "run" / "video" / "checkpoints" / "last.ckpt"
    assert main(["video-quality", "--checkpoint", str(checkpoint), "--steps", "2,1", "--sheets", "1"]) == 0
    folder = tmp_path / "run" / "video" / "video_quality"
    document = json.loads((folder / "results.json").read_text())
    assert [(row["condition"], row["steps"]) for row in document["rows"]] == [
        (condition, steps) for condition in (INSTRUCTION, NO_TEXT) for steps in (1, 2)
    ]
    assert document["sampler"]["init_args"]["sigma_max"] == 20.0
    assert len(document["demos"]) == 1
    assert "One instruction only" in (folder / "results.md").read_text()
    assert "no text" in capsys.readouterr().out
    width, height = Image.open(folder / "sheet_0.png").size
    assert (width, height) == (2 * 2 * 128, 5 * (128 + 18))  # cameras x frames; the truth and four rows

    other = ["--", "--data.init_args.frame_stride", "1"]
    assert main(["video-quality", "--checkpoint", str(checkpoint), "--steps", "1", *other]) == 2
    assert "frame_stride: 1 here, 2 wanted" in capsys.readouterr().err
    copy = tmp_path / "alone.ckpt"
    copy.write_bytes(checkpoint.read_bytes())
    assert main(["video-quality", "--checkpoint", str(copy)]) == 2
    assert "no experiment is recorded beside it" in capsys.readouterr().err
