"""The verb that turns a checkpoint into a table, on the counting simulator."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks import SimulationRollout
from simulators import EpisodeResult, SimulatorConfig, SimulatorError, summarize
from tests.simulators.conftest import counting
from tests.stage_parts import fit, lift_datamodule, quiet_trainer, tiny_action_stage, tiny_video_model
from videopolicy import evaluate

__all__ = ["counting"]  # a fixture

CAMERAS = ["agentview", "robot0_eye_in_hand"]


@pytest.fixture
def checkpoint(tmp_path: Path, robomimic_file: Callable[..., Path], counting: Callable[..., SimulatorConfig]) -> Path:
    """A policy that was trained with rollouts of one counting task."""
    config = counting(["up"], cameras=CAMERAS, image_size=16, max_steps=8, options={"goal": -1e9})
    rollout = SimulationRollout(config, num_episodes=3, execute_steps=2, record_episodes=0)
    trainer = quiet_trainer(tmp_path, 1, rollout)
    fit(trainer, tiny_action_stage(tiny_video_model(residual=False)), lift_datamodule(robomimic_file(action_dim=2)))
    trainer.save_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return evaluate.run(parser.parse_args(arguments))


def test_checkpoint_alone_decides_the_protocol(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--checkpoint", str(checkpoint), "--workers", "1", "--videos", "1", "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "3/3" in printed
    assert "0.438 to 1.000" in printed  # Wilson, 3 of 3
    results = next((tmp_path / "run" / "evaluations").glob("last_*.jsonl"))
    assert len(results.read_text().splitlines()) == 3
    assert len(list(results.with_suffix("").glob("*.mp4"))) == 1


def test_command_line_overrides_and_pairs_are_compared(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--checkpoint", str(checkpoint), "--workers", "1", "--videos", "0", "--device", "cpu")
    first = tmp_path / "first.jsonl"
    run(*arguments, "--episodes", "4", "--first-seed", "7", "--task", "up", "down", "--output", str(first))
    seeds = sorted((line["task"], line["seed"]) for line in map(json.loads, first.read_text().splitlines()))
    assert seeds == [("down", 7), ("down", 8), ("up", 7), ("up", 8)]
    second = ("--episodes", "4", "--first-seed", "7", "--task", "up", "down", "--compare", str(first))
    run(*arguments, *second, "--output", str(tmp_path / "second.jsonl"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "both 4, only this 0, only that 0, neither 0; exact McNemar p = 1" in printed
    assert "mean over tasks" in printed


def test_policy_without_rollouts_needs_a_simulator(tmp_path: Path, robomimic_file: Callable[..., Path]) -> None:
    trainer = quiet_trainer(tmp_path, 1)
    fit(trainer, tiny_action_stage(tiny_video_model(residual=False)), lift_datamodule(robomimic_file()))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(SimulatorError, match="add --simulator and --task"):
        run("--checkpoint", str(tmp_path / "last.ckpt"), "--device", "cpu")


def test_table_keeps_errors_out_of_the_rate() -> None:
    results = [EpisodeResult("s", "a", seed, None, success) for seed, success in enumerate([True, False, None])]
    row = summarize(results).total
    assert (row.successes, row.episodes, row.errors) == (1, 2, 1)
    assert evaluate.table({"policy": summarize(results)}).row_count == 1
