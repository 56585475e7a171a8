"""What `evaluate` judges a checkpoint by, given its demos and its rollouts during training, and what it warns of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from callbacks import SimulationRollout
from files.errors import UserError
from simulators import SimulatorConfig, SimulatorError
from tests.simulators.conftest import counting
from tests.stage_parts import fit, lift_datamodule, measured_by, quiet_trainer, tiny_action_stage, tiny_video_model
from tests.videopolicy.test_evaluate import CAMERAS, lines, run

__all__ = ["counting"]  # a fixture

Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path, robomimic_file: Callable[..., Path], counting: Callable[..., SimulatorConfig]) -> Train:
    """Train a step on three demos of the counting simulator's task `up`, from the episodes named."""

    def make(episodes: Sequence[str] = (), first_seed: int = 100_000, **config: Any) -> Path:  # noqa: ANN401 - of many types
        path = robomimic_file(action_dim=2, task="up", instruction="count")
        with h5py.File(path, "r+") as file:
            for index, episode in enumerate(episodes):
                file[f"data/demo_{index}"].attrs["episode"] = f"counting/up/{episode}"
        settings = {"cameras": CAMERAS, "image_size": 16, "max_steps": 8, "options": {"goal": -1e9}} | config
        rollout = SimulationRollout(measured_by(counting(["up"], **settings)), 2, first_seed, record_episodes=0)
        trainer = quiet_trainer(tmp_path, 1, rollout)
        fit(trainer, tiny_action_stage(tiny_video_model(residual=False)), lift_datamodule(path))
        trainer.save_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
        return tmp_path / "run" / "checkpoints" / "last.ckpt"

    return make


def judge(checkpoint: Path, output: Path, *options: object) -> dict[str, Any]:
    common = ("--checkpoint", checkpoint, "--workers", 1, "--videos", 0, "--device", "cpu", "--output", output)
    assert run(*common, *options) == 0
    content: dict[str, Any] = json.loads((output / "results.json").read_text())
    return content


def test_episodes_of_demos_and_those_that_chose_the_checkpoint_are_left_out(tmp_path: Path, train: Train) -> None:
    checkpoint = train(["seed0", "seed200001", "seed200004"], first_seed=200_002)
    content = judge(checkpoint, tmp_path / "held_out", "--episodes", 3)
    assert [line["seed"] for line in lines(tmp_path / "held_out")] == [200_000, 200_005, 200_006]
    assert content["warnings"] == []
    document = json.loads((tmp_path / "held_out" / "protocol.json").read_text())
    assert document["protocol"]["episodes"] == "held out"

    content = judge(checkpoint, tmp_path / "as_in_training", "--as-in-training")
    assert [line["seed"] for line in lines(tmp_path / "as_in_training")] == [200_002, 200_003]
    (warning,) = content["warnings"]
    assert "chose the checkpoint" in warning

    content = judge(checkpoint, tmp_path / "chosen", "--first-seed", 200_001, "--episodes", 1)
    assert [line["seed"] for line in lines(tmp_path / "chosen")] == [200_001]
    assert "stood in the training's demos" in content["warnings"][0]


def test_remaining_recorded_states_come_and_their_repeats_are_said(
    tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = train(["seed0/init0", "seed1/init1", "seed6/init1"], num_init_states=5)  # judged: states 0 and 1
    content = judge(checkpoint, tmp_path / "out", "--episodes", 4)
    assert [line["init_state"] for line in lines(tmp_path / "out")] == [2, 3, 4, 2]
    (warning,) = content["warnings"]
    assert "the 4 episodes of a task (up) start from 3 recorded initial states" in warning
    assert warning in (tmp_path / "out" / "results.md").read_text()
    assert "repeated states" in capsys.readouterr().out


def test_where_no_state_is_left_all_three_say_so(
    tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = train(num_init_states=3)  # demos that do not say where they started
    content = judge(checkpoint, tmp_path / "out", "--episodes", 3)
    assert [line["init_state"] for line in lines(tmp_path / "out")] == [2, 0, 1]  # 200000 modulo 3
    (warning,) = content["warnings"]
    assert warning.startswith("not held out: of up no recorded initial state is left")
    assert f"**Warning:** {warning}" in (tmp_path / "out" / "results.md").read_text()
    table = capsys.readouterr().out.partition("Success rates")[2]
    assert "not held out: of up" in " ".join(table.split())


def test_a_checkpoint_of_before_still_loads_and_says_what_is_not_known(tmp_path: Path, train: Train) -> None:
    checkpoint = train(num_init_states=3)
    document = torch.load(checkpoint, weights_only=True)
    assert document["demo_origin"]["tasks"]["up"]["num_demos"] == 3
    del document["demo_origin"], document["rollout"]["timeout_s"], document["rollout"]["simulator"]["instructions"]
    torch.save(document, checkpoint)
    warning, _ = judge(checkpoint, tmp_path / "out")["warnings"]  # the other: one state is left, and repeats
    assert "the checkpoint does not say which recorded initial states its demos had" in warning
    with pytest.raises(UserError, match="does not know the words of its demos"):
        judge(checkpoint, tmp_path / "words", "--words", "demos")


def test_words_that_training_never_saw_are_said_and_the_demos_can_be_taken(tmp_path: Path, train: Train) -> None:
    checkpoint = train()
    document = torch.load(checkpoint, weights_only=True)
    document["demo_origin"]["tasks"]["up"]["instructions"] = ["go up"]
    torch.save(document, checkpoint)
    (warning,) = judge(checkpoint, tmp_path / "out")["warnings"]
    assert "up: 'count', the demos say 'go up'" in warning
    assert "--words demos" in warning
    content = judge(checkpoint, tmp_path / "words", "--words", "demos")
    assert content["warnings"] == []
    assert {line["instruction"] for line in lines(tmp_path / "words")} == {"go up"}
    varied = judge(checkpoint, tmp_path / "varied", "--variation", "instruction=2")
    assert varied["warnings"] == []  # other words are the purpose
    with pytest.raises(UserError, match=r"protocol\.simulator\.instructions\.up: None there, 'go up' now"):
        judge(checkpoint, tmp_path / "out", "--words", "demos")


def test_pictures_of_another_size_are_warned_of_at_set_up_and_in_the_results(tmp_path: Path, train: Train) -> None:
    with pytest.warns(UserWarning, match="the demos' pictures are 16 px wide, rollouts draw 8 px"):
        checkpoint = train(image_size=8)
    (warning,) = judge(checkpoint, tmp_path / "out")["warnings"]
    assert "set image_size: 16" in warning


def test_the_time_limit_is_the_trainings_or_that_of_the_command(tmp_path: Path, train: Train) -> None:
    checkpoint = train()
    judge(checkpoint, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "protocol.json").read_text())["protocol"]["timeout_s"] == 300.0
    judge(checkpoint, tmp_path / "out", "--timeout", 600)  # changes no episode
    with pytest.raises(SimulatorError, match="timeout_s is 0"):
        judge(checkpoint, tmp_path / "out", "--timeout", 0)


def test_no_episode_that_could_be_run_is_a_failure(
    tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--checkpoint", train(), "--policy", "zero", "--workers", 1, "--output", tmp_path / "out [a/b]")
    assert run(*common, "--tasks", "raise", "--episodes", 1) == 1
    assert "none of the 1 episodes could be run" in capsys.readouterr().out


def test_only_a_checkpoint_has_a_training(tmp_path: Path) -> None:
    for option in (["--as-in-training"], ["--words", "demos"]):
        with pytest.raises(UserError, match="only a checkpoint knows its training"):
            run("--policy", "zero", "--protocol", "lift", "--output", tmp_path, *option)
