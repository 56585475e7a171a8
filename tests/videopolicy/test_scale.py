"""From one small GPU to eight: the same batch everywhere, adapters and shares through the real command."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks.handoff import read_manifest
from policies import load_policy
from videopolicy.experiment.command_line import parse

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"
PARTS = ("gpu1_accumulate", "gpus8_ddp", "fsdp")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("experiment", ["robocasa", "robocasa_joint", "libero10"])
def test_every_trainer_part_for_the_papers_experiments_gives_its_batch(experiment: str, part: str) -> None:
    trainer = EXPERIMENTS / "trainer" / f"{part}.yaml"
    line = parse(["fit", "-c", str(EXPERIMENTS / f"{experiment}.yaml"), "--trainer", str(trainer)])
    whole = line.experiment()
    for stage in line.stages(whole):
        config = line.stage_config(whole, stage)
        given = config["trainer"]
        processes = given["devices"] * given.get("num_nodes", 1)
        batch = config["data"]["init_args"]["batch_size"]
        assert batch * processes * given.get("accumulate_grad_batches", 1) == 32


def overlaid(name: str, write_overlay: Callable[..., Path], demos: Path, *between: Path) -> list[str]:
    """Arguments that lay overlays, then tiny parts, over an experiment."""
    experiment = EXPERIMENTS / f"{name}.yaml"
    return [word for path in (experiment, *between, write_overlay(experiment, demos)) for word in ("-c", str(path))]


@pytest.mark.slow
def test_both_stages_run_where_stage_1_trains_adapters_and_it_goes_on(
    tmp_path: Path,
    write_overlay: Callable[..., Path],
    robocasa_file: Callable[..., Path],
    run_lightning: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    arguments = overlaid("robocasa", write_overlay, robocasa_file(), EXPERIMENTS / "ablations" / "lora.yaml")
    lean = ("--trainer.precision", "bf16-mixed", "--stages.video.trainer.accumulate_grad_batches", "2")
    lean += ("--stages.video.model.video.unet.gradient_checkpointing", "true")
    done = run_lightning("fit", *arguments, *lean)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "robocasa"
    network = read_manifest(run / "handoff")["network"]
    assert "lora" not in json.dumps(network).lower()
    assert load_policy(run / "action" / "checkpoints" / "last.ckpt").video.config["class_path"]
    done = run_lightning("fit", *arguments, *lean, "--stage", "video", "--trainer.max_steps", "3")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "video stage: going on from" in done.stdout
    assert read_manifest(run / "handoff")["global_step"] == 3


@pytest.mark.slow
def test_both_stages_run_on_shares_in_two_processes(
    tmp_path: Path,
    write_overlay: Callable[..., Path],
    robocasa_file: Callable[..., Path],
    run_lightning: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    arguments = overlaid("robocasa", write_overlay, robocasa_file())
    two = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--data.batch_size", "1")
    done = run_lightning("fit", *arguments, "--trainer", EXPERIMENTS / "trainer" / "fsdp.yaml", *two)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "robocasa"
    assert (
        read_manifest(run / "handoff")["network"]["init_args"]["unet"]["class_path"] == "networks.video_unet.VideoUNet"
    )
    assert json.loads((run / "action" / "versions.json").read_text())["world_size"] == 2
    assert load_policy(run / "action" / "checkpoints" / "last.ckpt").data.action_horizon == 4


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_of_half_precision_are_refused_at_set_up(
    precision: str,
    write_overlay: Callable[..., Path],
    robocasa_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from videopolicy.lightning_cli import main

    monkeypatch.chdir(tmp_path)
    arguments = overlaid("robocasa", write_overlay, robocasa_file())
    assert main(["fit", *arguments, "--stage", "video", "--trainer.precision", precision]) == 2
    assert f"trainer.precision is {precision}: weights of eleven or fewer bits" in capsys.readouterr().err
