"""When rollouts happen: in every n-th validation, with or without held-out demos, in the trainer's precision."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks import SimulationRollout
from callbacks.run_checkpoints import BestCheckpoint, LastCheckpoint
from datamodules import RobosuiteDataModule
from files.errors import UserError
from lightning_modules import PolicyStage
from networks import read_checkpoint
from policies import VideoPolicy
from rollouts import EpisodeResult
from rollouts.results import ResultsFile
from simulators import EpisodeSpec, PolicyReply, PolicyRequest, SimulatorConfig
from tests.stage_parts import (
    fit,
    lift_datamodule,
    measured_by,
    quiet_trainer,
    tiny_action_stage,
    tiny_joint_stage,
    tiny_video_model,
)

CAMERAS = ["agentview", "robot0_eye_in_hand"]
MakeConfig = Callable[..., SimulatorConfig]
MakeFile = Callable[..., Path]


class Noted(SimulationRollout):
    """Remembers at which step it rolled out; the episodes themselves are made up, those of seed 100,000 succeed."""

    def __init__(self, config: SimulatorConfig, **arguments: Any) -> None:  # noqa: ANN401
        protocol = measured_by(config, execute_steps=arguments.pop("execute_steps", 2))
        super().__init__(protocol, **{"num_episodes": 4, "record_episodes": 0, **arguments})
        self.steps: list[int] = []

    def _run(self, trainer: Trainer, stage: PolicyStage, share: Sequence[EpisodeSpec]) -> list[EpisodeResult]:
        self.steps.append(trainer.global_step)
        return [_result(spec) for spec in share]


class SlowRank(SimulationRollout):
    """The simulator of rank 1 takes longer than the ranks wait for one another otherwise."""

    def _run(self, trainer: Trainer, stage: PolicyStage, share: Sequence[EpisodeSpec]) -> list[EpisodeResult]:
        time.sleep(6.0 * trainer.global_rank)
        return [_result(spec) for spec in share]


def _result(spec: EpisodeSpec) -> EpisodeResult:
    success = spec.seed == 100_000
    return EpisodeResult(spec.suite, spec.task, spec.seed, spec.init_state, success, 1, 1, 0.1, 0.1, None)


@pytest.fixture
def config(counting: MakeConfig) -> SimulatorConfig:
    return counting(["up"], cameras=CAMERAS, image_size=16, max_steps=8, options={"goal": -1e9})


def plain_stage(**arguments: Any) -> PolicyStage:  # noqa: ANN401
    """An action stage that needs no handoff."""
    return tiny_action_stage(tiny_video_model(residual=False), **{"num_predicted": 0, **arguments})


def rolled_out(folder: Path, rollout: Noted, data: RobosuiteDataModule, steps: int, **trainer: Any) -> list[int]:  # noqa: ANN401
    """The steps at which a run rolled out."""
    fit(quiet_trainer(folder, steps, rollout, **trainer), plain_stage(), data)
    return rollout.steps


STEPS: dict[str, Any] = {
    "check_val_every_n_epoch": None,
    "val_check_interval": 1,
}
CHECKPOINTS: dict[str, Any] = {**STEPS, "enable_checkpointing": True}


@pytest.mark.parametrize("val_fraction", [0.34, 0.0])
@pytest.mark.parametrize(
    ("trainer", "every", "expected"),
    [
        ({**STEPS}, 1, [1, 2, 3, 4, 5, 6]),
        ({**STEPS}, 2, [2, 4, 6]),
        ({**STEPS, "val_check_interval": 2}, 2, [4]),
        ({**STEPS, "limit_val_batches": 0.5}, 3, [3, 6]),
        ({"limit_train_batches": 2}, 1, [2, 4, 6]),
        ({"limit_train_batches": 2}, 2, [4]),
        ({"limit_train_batches": 1, "check_val_every_n_epoch": 3}, 1, [3, 6]),
        ({"limit_train_batches": 1, "check_val_every_n_epoch": 3}, 2, [6]),
        ({"limit_train_batches": 1, "check_val_every_n_epoch": 2}, 2, [4]),
        ({"limit_train_batches": 2, "val_check_interval": 0.5}, 2, [2, 4, 6]),
        ({"limit_train_batches": 1, "num_sanity_val_steps": 0}, 4, [4]),
        ({"limit_train_batches": 1}, 7, []),
    ],
)
def test_every_nth_validation_rolls_out_with_and_without_held_out_demos(
    tmp_path: Path,
    robomimic_file: MakeFile,
    config: SimulatorConfig,
    val_fraction: float,
    trainer: dict[str, Any],
    every: int,
    expected: list[int],
) -> None:
    data = lift_datamodule(robomimic_file(action_dim=2), val_fraction=val_fraction)
    assert rolled_out(tmp_path, Noted(config, every_n_epochs=every), data, 6, **trainer) == expected


@pytest.mark.parametrize("val_fraction", [0.34, 0.0])
def test_a_run_that_goes_on_counts_on(
    tmp_path: Path, robomimic_file: MakeFile, config: SimulatorConfig, val_fraction: float
) -> None:
    data = lift_datamodule(robomimic_file(action_dim=2), val_fraction=val_fraction)
    first = Noted(config, every_n_epochs=2)
    trainer = quiet_trainer(tmp_path, 3, first, LastCheckpoint(), **CHECKPOINTS)
    fit(trainer, plain_stage(), data)
    assert first.steps == [2]
    again = Noted(config, every_n_epochs=2)
    trainer = quiet_trainer(tmp_path, 7, again, LastCheckpoint(), **CHECKPOINTS)
    fit(trainer, plain_stage(), data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert again.steps == [4, 6]


class StopInValidation(Callback):
    """The cluster takes the machine back while a run validates."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_validation_that_was_cut_short_counts(
    tmp_path: Path, robomimic_file: MakeFile, config: SimulatorConfig
) -> None:
    """Lightning goes on after it, so the rollouts stay in step with those of a run that was not stopped."""
    data = lift_datamodule(robomimic_file(action_dim=2))
    first = Noted(config, every_n_epochs=2)
    trainer = quiet_trainer(tmp_path, 7, first, LastCheckpoint(), StopInValidation(3), **CHECKPOINTS)
    with pytest.raises(SIGTERMException):
        fit(trainer, plain_stage(), data)
    assert first.steps == [2]
    again = Noted(config, every_n_epochs=2)
    trainer = quiet_trainer(tmp_path, 7, again, LastCheckpoint(), **CHECKPOINTS)
    fit(trainer, plain_stage(), data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert again.steps == [4, 6]


@pytest.mark.parametrize("kind", ["action", "joint"])
def test_without_held_out_demos_the_success_rate_is_logged_and_best_follows_it(
    tmp_path: Path, robomimic_file: MakeFile, config: SimulatorConfig, kind: str
) -> None:
    data = lift_datamodule(robomimic_file(action_dim=2), val_fraction=0)
    best = BestCheckpoint(monitor="rollout/success_rate", mode="max")
    logger = TensorBoardLogger(str(tmp_path / "logs"), name="", version="")
    rollout = SimulationRollout(measured_by(config), num_episodes=1, record_episodes=1)
    callbacks = (rollout, best, LastCheckpoint())
    trainer = quiet_trainer(tmp_path, 2, *callbacks, logger=logger, **CHECKPOINTS)
    stage = plain_stage() if kind == "action" else tiny_joint_stage(tiny_video_model(residual=False))
    fit(trainer, stage, data)
    assert trainer.callback_metrics["rollout/success_rate"] == 1.0
    assert not [name for name in trainer.callback_metrics if name.startswith("val")], "nothing was held out"
    kept = {path.name: read_checkpoint(path) for path in (tmp_path / "checkpoints").iterdir()}
    assert (kept["best.ckpt"]["global_step"], kept["last.ckpt"]["global_step"]) == (1, 2)
    assert sorted(path.name for path in (tmp_path / "rollouts").glob("*.jsonl")) == [
        "step_0000001.jsonl",
        "step_0000002.jsonl",
    ]


@pytest.mark.parametrize("kind", ["validate", "test"])
def test_validate_and_test_roll_out_without_held_out_demos_whatever_every_nth_says(
    tmp_path: Path, robomimic_file: MakeFile, config: SimulatorConfig, kind: str
) -> None:
    data = lift_datamodule(robomimic_file(action_dim=2), val_fraction=0)
    rollout = Noted(config, every_n_epochs=5)
    trainer = quiet_trainer(tmp_path, 1, rollout, limit_val_batches=0.3, limit_test_batches=0.3)
    metrics = getattr(trainer, kind)(plain_stage(), datamodule=data, verbose=False)
    assert rollout.steps == [0]
    assert metrics[0]["rollout/success_rate"] == 0.25
    assert data.val_dataloader() == [], "the data are given back as they were"


def test_a_trainer_that_never_validates_is_told_that_nothing_will_be_rolled_out(
    tmp_path: Path, robomimic_file: MakeFile, config: SimulatorConfig
) -> None:
    data = lift_datamodule(robomimic_file(action_dim=2))
    with pytest.warns(UserWarning, match="trainer.limit_val_batches is 0, so it never will"):
        assert rolled_out(tmp_path, Noted(config), data, 1, limit_val_batches=0) == []


def test_more_steps_than_the_policy_gives_are_warned_of(
    tmp_path: Path, robomimic_file: MakeFile, config: SimulatorConfig
) -> None:
    data = lift_datamodule(robomimic_file(action_dim=2))
    with pytest.warns(UserWarning, match="execute_steps is 16, but the policy gives 4 actions"):
        rolled_out(tmp_path, Noted(config, execute_steps=16), data, 1)


@pytest.mark.parametrize("name", ["num_episodes", "num_workers", "every_n_epochs"])
def test_counts_below_one_are_refused_when_the_callback_is_made(config: SimulatorConfig, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} is 0; it must be at least 1"):
        Noted(config, **{name: 0})


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_rollouts_run_in_the_precision_of_the_trainer(
    tmp_path: Path,
    robomimic_file: MakeFile,
    config: SimulatorConfig,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    dtype: torch.dtype,
) -> None:
    seen = []
    act = VideoPolicy.act

    def noted(self: VideoPolicy, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        seen.append((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
        return act(self, requests)

    monkeypatch.setattr(VideoPolicy, "act", noted)
    data = lift_datamodule(robomimic_file(action_dim=2))
    rollout = SimulationRollout(measured_by(config), num_episodes=1, record_episodes=1)
    fit(quiet_trainer(tmp_path, 1, rollout, precision=precision, val_check_interval=1), plain_stage(), data)
    assert seen
    assert set(seen) == {dtype}


# --- several ranks ------------------------------------------------------------------------------------------------


def fit_two_ranks(trainer: Trainer, stage: LightningModule, data: RobosuiteDataModule) -> None:
    """Fit in two forked processes and take away what the launcher leaves behind."""
    environment = dict(os.environ)
    fit(trainer, stage, data)
    os.environ.clear()
    os.environ.update(environment)


def two_ranks(folder: Path, rollout: SimulationRollout, **arguments: Any) -> Trainer:  # noqa: ANN401
    """A trainer of two processes whose collectives give up after 3 seconds."""
    logger = TensorBoardLogger(str(folder / "logs"), name="", version="")
    strategy = DDPStrategy(start_method="fork", timeout=timedelta(seconds=3))
    quick = {"limit_train_batches": 1, "num_sanity_val_steps": 0, "logger": logger, **arguments}
    return quiet_trainer(folder, 1, rollout, devices=2, strategy=strategy, **quick)


@pytest.mark.forks
@pytest.mark.parametrize("val_fraction", [0.34, 0.0])
def test_a_slow_simulator_on_one_rank_is_waited_for(
    tmp_path: Path, robomimic_file: MakeFile, config: SimulatorConfig, val_fraction: float
) -> None:
    data = lift_datamodule(robomimic_file(action_dim=2), val_fraction=val_fraction)
    trainer = two_ranks(tmp_path, SlowRank(measured_by(config), num_episodes=4))
    stage = plain_stage()
    stage.attach(data.preprocessing)
    fit_two_ranks(trainer, stage, data)
    assert trainer.callback_metrics["rollout/success_rate"] == 0.25
    assert len(ResultsFile(tmp_path / "rollouts" / "step_0000001.jsonl").load()) == 4


@pytest.mark.forks
@pytest.mark.parametrize(("wanted", "filmed"), [(1, ["100000"]), (3, ["100000", "100001", "100002"]), (9, None)])
def test_episodes_to_film_are_counted_over_all_ranks(
    tmp_path: Path, robomimic_file: MakeFile, config: SimulatorConfig, wanted: int, filmed: list[str] | None
) -> None:
    data = lift_datamodule(robomimic_file(action_dim=2))
    rollout = SimulationRollout(measured_by(config), num_episodes=4, record_episodes=wanted)
    stage = plain_stage()
    stage.attach(data.preprocessing)
    fit_two_ranks(two_ranks(tmp_path, rollout), stage, data)
    videos = sorted(path.stem.split("seed")[1] for path in (tmp_path / "rollouts").glob("*.mp4"))
    assert videos == (filmed or ["100000", "100001", "100002", "100003"])
