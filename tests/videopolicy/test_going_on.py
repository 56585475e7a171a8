"""The command over a folder that holds a run already: what changed is applied or refused by name, never passed over."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.videopolicy.conftest import ROOT
from videopolicy.lightning_cli import main

RUN = Path("runs/lift")
VIDEO = RUN / "video"
LAST = VIDEO / "checkpoints" / "last.ckpt"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "simulators"))


@pytest.fixture
def video(lift_overlay: list[str]) -> Callable[..., int]:
    """Run the video stage with tiny parts."""
    return lambda *options: main(["fit", *lift_overlay, "--stage", "video", *map(str, options)])


def steps(number: int) -> tuple[str, ...]:
    return ("--trainer.max_steps", str(number), "--trainer.val_check_interval", str(number))


def rates(folder: Path) -> dict[int, float]:
    """Learning rate of AdamW, the second of the optimizer's groups, by logged step, of all event files."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("lr-MuonAdamW/pg2")}


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


def refused(capsys: pytest.CaptureFixture[str], run: Callable[[], int]) -> str:
    capsys.readouterr()
    assert run() == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("lightning: ")
    return message


def test_a_lengthened_cosine_falls_to_the_new_end(
    video: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert video(*steps(6)) == 0
    assert video(*steps(12), "--model.optimizer.lr", "1e-4") == 0
    said = capsys.readouterr().err
    assert "model.optimizer.lr: was 0.001, is 0.0001" in said
    assert "model.lr_scheduler.T_max: was 6, is 12" in said
    assert video(*steps(12), "--model.optimizer.lr", "1e-4", "--run_dir", "runs/whole") == 0
    whole, longer = rates(Path("runs/whole/video")), rates(VIDEO)
    late = sorted(step for step in longer if step > 6)
    by_order = [longer[step] for step in late]
    assert by_order == sorted(by_order, reverse=True)
    assert longer[late[-1]] == pytest.approx(whole[max(whole)])
    group = torch.load(LAST, weights_only=True)["optimizer_states"][0]["param_groups"][1]
    assert group["initial_lr"] == 1e-4


def test_another_optimizer_is_refused_twice_and_the_record_stays(
    video: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert video(*steps(2)) == 0
    recorded = (VIDEO / "config.yaml").read_text(), (RUN / "config.yaml").read_text()
    for _ in range(2):
        message = refused(capsys, lambda: video(*steps(4), "--model.optimizer", "torch.optim.SGD"))
        assert "AdamW" in message
        assert "SGD" in message
        assert "--run_dir" in message
    assert ((VIDEO / "config.yaml").read_text(), (RUN / "config.yaml").read_text()) == recorded
    assert step_of(LAST) == 2


CHANGES: dict[str, tuple[list[str], str]] = {
    "rate": (["--model.optimizer.lr", "1e-5"], "model.optimizer.lr: was 0.001, is 1e-05"),
    "seed": (["--seed_everything", "1"], "seed_everything: was 0, is 1"),
    "network": (["--model.video.unet.block_out_channels", "[64, 64]"], "model.video.unet.block_out_channels"),
    "data": (["--data.frame_stride", "3"], "data.frame_stride: was 2, is 3"),
    "callback": (["--averaging", "null"], "averaging.decay"),
    "fewer steps": (["--trainer.max_steps", "1"], "has 2 steps behind it, and max_steps is 1"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_finished_stage_with_another_config_is_no_success(
    change: str, video: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    options, said = CHANGES[change]
    assert video() == 0
    before = LAST.read_bytes(), (VIDEO / "config.yaml").read_text()
    message = refused(capsys, lambda: video(*options))
    assert said in message
    assert "--run_dir" in message
    assert (LAST.read_bytes(), (VIDEO / "config.yaml").read_text()) == before
    free = ("--data.num_workers", 1, "--trainer.logger", "false", "--trainer.enable_progress_bar", "false")
    assert video(*free) == 0
    assert "finished after 2 steps" in capsys.readouterr().out


OTHER_RUNS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "seed": (["--seed_everything", "1"], ("seed_everything: was 0, is 1",)),
    "network": (["--model.video.unet.block_out_channels", "[64, 64]"], ("block_out_channels", "32", "64")),
    "noise": (["--model.video.condition_noise", "0.5"], ("condition_noise", "0.5")),
}


@pytest.mark.parametrize("change", OTHER_RUNS)
def test_an_unfinished_run_of_another_experiment_is_refused(
    change: str, video: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    options, said = OTHER_RUNS[change]
    assert video() == 0
    (VIDEO / "finished.json").unlink()
    before = LAST.read_bytes()
    message = refused(capsys, lambda: video(*steps(4), *options))
    assert all(part in message for part in (*said, "--run_dir"))
    assert LAST.read_bytes() == before


LOGGERS: dict[str, Any] = {
    "csv": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}},
    "two": [
        {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}},
        {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "logs"}},
    ],
    "none": False,
}


@pytest.mark.parametrize("name", LOGGERS)
def test_checkpoints_are_in_the_run_directory_whatever_the_logger(
    name: str, video: Callable[..., int], capsys: pytest.CaptureFixture[str], lift_overlay: list[str]
) -> None:
    Path("logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": LOGGERS[name]}}))
    logger = ("-c", "logger.yaml")
    assert video(*logger) == 0
    assert {path.name for path in VIDEO.iterdir()} >= {"checkpoints", "config.yaml", "versions.json", "finished.json"}
    assert (VIDEO / "checkpoints" / "best.ckpt").is_file()
    (VIDEO / "finished.json").unlink()
    assert video(*logger, *steps(4)) == 0
    assert "going on from runs/lift/video/checkpoints/last.ckpt" in capsys.readouterr().out
    assert step_of(LAST) == 4
    assert not list(Path().glob("logs/**/*.ckpt"))
    assert not list(Path().glob("logs/**/*.mp4"))
    assert main(["validate", *lift_overlay, "--stage", "video"]) == 0


def test_a_second_place_for_files_is_refused(video: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, lambda: video("--trainer.default_root_dir", "elsewhere"))
    assert "trainer.default_root_dir" in message
    assert "--run_dir elsewhere" in message


def test_a_run_that_diverges_says_so_and_leaves_what_was_good(
    video: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert video() == 0
    files = [LAST, LAST.with_name("best.ckpt"), RUN / "handoff" / "video.safetensors", RUN / "handoff/manifest.json"]
    before = [path.read_bytes() for path in files]
    message = refused(capsys, lambda: video(*steps(8), "--model.optimizer.lr", "1e30"))
    assert "not finite" in message
    assert "step" in message
    assert "last.ckpt is as it was" in message
    assert [path.read_bytes() for path in files] == before
    assert json.loads((VIDEO / "finished.json").read_text())["global_step"] == 2


def test_a_new_run_that_diverges_leaves_no_checkpoint_and_no_handoff(
    video: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, lambda: video(*steps(8), "--model.optimizer.lr", "1e30"))
    assert "nothing was saved" in message
    assert not list(RUN.rglob("*.ckpt"))
    assert not (RUN / "handoff").exists()
    assert not (VIDEO / "finished.json").exists()


def other_version(document: dict[str, Any], key: str) -> None:
    """Write into a checkpoint what another version would have, or leave it out (``-``)."""
    *parts, last = key.removeprefix("-").split(".")
    for part in parts:
        document = document[part]
    if key.startswith("-"):
        del document[last]
    else:
        document[last] = 1


@pytest.mark.parametrize("key", ["preprocessing.crop", "-preprocessing.frame_stride", "network.init_args.gain"])
def test_a_checkpoint_of_another_version_is_refused_by_its_key(
    key: str, video: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert video() == 0
    document = torch.load(LAST, weights_only=True)
    other_version(document, key)
    torch.save(document, LAST)
    message = refused(capsys, lambda: video(*steps(4)))
    assert key.rpartition(".")[2] in message
    assert "nothing" in message


def test_a_checkpoint_path_that_is_none_says_what_it_is(
    video: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert video() == 0
    torch.save(torch.load(LAST, weights_only=True)["state_dict"], "bare.ckpt")
    Path("cut.ckpt").write_bytes(LAST.read_bytes()[:5000])
    Path("renamed.ckpt").write_bytes((RUN / "handoff" / "video.safetensors").read_bytes())
    joint = torch.load(LAST, weights_only=True)
    torch.save({**joint, "stage": "JointStage"}, "joint.ckpt")
    for name, said in {
        "bare.ckpt": "holds no state_dict",
        "cut.ckpt": "damaged or no checkpoint",
        "renamed.ckpt": "is a .safetensors file",
        str(VIDEO): "is a folder, and a checkpoint file is needed; it has runs/lift/video/checkpoints/best.ckpt",
        "joint.ckpt": "is one of a JointStage",
        "nowhere.ckpt": "no such checkpoint",
    }.items():
        assert said in refused(capsys, lambda: video("--run_dir", "runs/b", "--ckpt_path", name))  # noqa: B023
