"""Success rates logged while training, counted in the counting simulator; robosuite itself is in test_end_to_end.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import CheckpointHandoff, SimulationRollout, TrainableWeightAveraging
from callbacks.run_checkpoints import BestCheckpoint
from datamodules import RobosuiteDataModule
from files.errors import UserError
from networks import read_checkpoint
from rollouts.results import ResultsFile
from simulators import SimulatorConfig, SimulatorError
from tests.stage_parts import (
    fit,
    lift_datamodule,
    measured_by,
    quiet_trainer,
    tiny_action_stage,
    tiny_video_model,
    tiny_video_stage,
)

CAMERAS = ["agentview", "robot0_eye_in_hand"]
MakeConfig = Callable[..., SimulatorConfig]


@pytest.fixture
def data(robomimic_file: Callable[..., Path]) -> RobosuiteDataModule:
    """Demos of a task with two action dimensions, as the counting simulator has them."""
    return lift_datamodule(robomimic_file(action_dim=2))


@pytest.fixture
def trained(tmp_path: Path, data: RobosuiteDataModule, counting: MakeConfig) -> tuple[Trainer, SimulationRollout]:
    """One validation epoch with rollouts of two tasks, one of which cannot be solved."""
    handoff = str(tmp_path / "handoff")
    fit(quiet_trainer(tmp_path, 1, CheckpointHandoff(handoff)), tiny_video_stage(), data)
    config = counting(["up", "raise"], cameras=CAMERAS, image_size=16, max_steps=8, options={"goal": -1e9})
    groups = {"easy": ["up"], "all of them": ["up", "raise"]}
    rollout = SimulationRollout(measured_by(config, timeout_s=30, groups=groups), num_episodes=4, record_episodes=1)
    logger = TensorBoardLogger(str(tmp_path / "logs"), name="", version="")
    checkpoint = BestCheckpoint(monitor="rollout/success_rate", mode="max")
    averaging = TrainableWeightAveraging(decay=0.5, warmup=False)
    trainer = quiet_trainer(
        tmp_path,
        2,
        CheckpointHandoff(handoff),
        averaging,
        rollout,
        checkpoint,
        logger=logger,
        enable_checkpointing=True,
        limit_train_batches=2,
    )
    fit(trainer, tiny_action_stage(), data)
    return trainer, rollout


def test_success_rates_errors_and_lengths_are_logged(trained: tuple[Trainer, SimulationRollout]) -> None:
    metrics = trained[0].callback_metrics
    assert metrics["rollout/up/success_rate"] == 1.0
    assert torch.isnan(metrics["rollout/raise/success_rate"]), "an error is neither success nor failure"
    assert metrics["rollout/success_rate"] == 1.0
    assert metrics["rollout/easy/success_rate"] == metrics["rollout/all of them/success_rate"] == 1.0
    assert metrics["rollout/errors"] == 2
    assert metrics["rollout/episode_length"] == 1  # solved by the first action
    assert metrics["rollout/success_rate_low"] == pytest.approx(0.342, abs=1e-3)  # Wilson, 2 of 2
    assert metrics["rollout/seconds_per_replan"] > 0


def test_episodes_stand_in_a_results_file_and_a_video(
    tmp_path: Path, trained: tuple[Trainer, SimulationRollout]
) -> None:
    folder = tmp_path / "rollouts"
    results = ResultsFile(next(folder.glob("*.jsonl"))).load()
    assert sorted(results) == [f"counting/{task}/seed{seed}" for task in ("raise", "up") for seed in (100000, 100001)]
    assert [path.name for path in folder.glob("*.mp4")] == ["step_0000002_up_seed100000.mp4"]
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert "rollout/up_seed100000" in events.Tags()["images"]
    assert "rollout/up/success_rate" in events.Tags()["scalars"]


def test_best_checkpoint_holds_what_was_judged_and_names_its_protocol(
    tmp_path: Path, trained: tuple[Trainer, SimulationRollout]
) -> None:
    document = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert document["rollout"]["execute_steps"] == 2
    assert document["rollout"]["groups"] == {"easy": ["up"], "all of them": ["up", "raise"]}
    assert SimulatorConfig(**document["rollout"]["simulator"]) == trained[1].simulator
    averages = trained[0].lightning_module.state_dict()  # the average is the result of the run
    assert all(torch.equal(value, averages[name]) for name, value in document["state_dict"].items())
    assert "optimizer_states" not in document


@pytest.mark.forks
def test_two_ranks_share_the_episodes(tmp_path: Path, data: RobosuiteDataModule, counting: MakeConfig) -> None:
    config = counting(["up", "down"], cameras=CAMERAS, image_size=16, max_steps=8, options={"goal": -1e9})
    rollout = SimulationRollout(measured_by(config), num_episodes=5, record_episodes=1)
    logger = TensorBoardLogger(str(tmp_path / "logs"), name="", version="")
    arguments = {"devices": 2, "strategy": "ddp_fork", "limit_train_batches": 1, "logger": logger}
    stage = tiny_action_stage(tiny_video_model(residual=False))
    stage.attach(data.preprocessing)
    trainer = quiet_trainer(tmp_path, 1, rollout, **arguments)
    fit(trainer, stage, data)
    results = ResultsFile(tmp_path / "rollouts" / "step_0000001.jsonl").load()
    assert len(results) == 5
    assert trainer.callback_metrics["rollout/success_rate"] == 1.0
    assert len(list((tmp_path / "rollouts").glob("*.mp4"))) == 1  # over all ranks


def test_rollouts_of_the_video_stage_are_refused(
    tmp_path: Path, data: RobosuiteDataModule, counting: MakeConfig
) -> None:
    rollout = SimulationRollout(measured_by(counting(cameras=CAMERAS)), num_episodes=1)
    with pytest.raises(UserError, match="needs the action or joint stage, not VideoStage"):
        fit(quiet_trainer(tmp_path, 1, rollout), tiny_video_stage(), data)


def test_missing_camera_and_broken_simulator_fail_before_training(
    tmp_path: Path, data: RobosuiteDataModule, counting: MakeConfig
) -> None:
    blind = SimulationRollout(measured_by(counting(cameras=["agentview"])), num_episodes=1)
    with pytest.raises(UserError, match=r"add \['robot0_eye_in_hand'\]"):
        fit(quiet_trainer(tmp_path, 1, blind), tiny_action_stage(), data)
    broken = SimulationRollout(measured_by(counting(cameras=CAMERAS, options={"broken": True})), num_episodes=1)
    with pytest.raises(SimulatorError, match="the counter is broken"):
        fit(quiet_trainer(tmp_path, 1, broken), tiny_action_stage(), data)


def test_a_group_of_tasks_that_are_not_rolled_out_fails_before_training(
    tmp_path: Path, data: RobosuiteDataModule, counting: MakeConfig
) -> None:
    for groups, message in (({"new": ["down"]}, r"'new' names \['down'\]"), ({"up": ["up"]}, "'up' is a task")):
        rollout = SimulationRollout(measured_by(counting(cameras=CAMERAS), groups=groups), num_episodes=1)
        with pytest.raises(UserError, match=message):
            fit(quiet_trainer(tmp_path, 1, rollout), tiny_action_stage(), data)


def test_held_out_tasks_are_logged_apart(
    tmp_path: Path, robomimic_file: Callable[..., Path], counting: MakeConfig
) -> None:
    for task in ("up", "down"):
        robomimic_file(name=f"{task}.hdf5", task=task, action_dim=2)
    path = robomimic_file(name="left.hdf5", task="left", action_dim=2).parent
    held_out = {"video_only_tasks": ["down"], "evaluation_only_tasks": ["left"]}
    data = lift_datamodule(path, **held_out)
    config = counting(["up", "down", "left"], cameras=CAMERAS, image_size=16, max_steps=4, options={"goal": -1e9})
    rollout = SimulationRollout(measured_by(config), num_episodes=3)
    stage = tiny_action_stage(tiny_video_model(residual=False))
    fit(quiet_trainer(tmp_path, 1, rollout, limit_train_batches=1), stage, data)
    assert rollout.record()["groups"] == {"learned": ["up"], "video_only": ["down"], "unseen": ["left"]}
    missing = SimulationRollout(measured_by(counting(["up", "down"], cameras=CAMERAS, image_size=16)), num_episodes=2)
    with pytest.raises(UserError, match=r"evaluation_only_tasks names \['left'\], which are not rolled"):
        fit(quiet_trainer(tmp_path, 1, missing), stage, lift_datamodule(path, **held_out))
