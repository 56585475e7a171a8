"""A policy without a video model trains, checkpoints, rolls out and reports through the ordinary commands."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import tests.policies.baseline as baseline
from datamodules import RobosuiteDataModule
from files.errors import UserError
from lightning_modules import PolicyStage
from policies import load_policy, load_video_model
from simulators import SimulatorConfig
from tests.policies.test_acting import request
from tests.stage_parts import fit, quiet_trainer
from videopolicy.main import main


def test_it_trains_checkpoints_rolls_out_and_reports(
    tmp_path: Path,
    robomimic_file: Callable[..., Path],
    counting: Callable[..., SimulatorConfig],
    run_lightning: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(baseline.__file__, tmp_path / "linear_policy.py")  # a module in the folder where the commands run
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("linear_policy")
    demos = robomimic_file(action_dim=2)
    data = {"paths": str(demos), "image_size": 16, "num_frames": 2, "action_horizon": 4, "val_fraction": 0.34}
    simulator = counting(cameras=RobosuiteDataModule(str(demos)).cameras, image_size=16, max_steps=4).to_dict()
    simulator["options"] = {"goal": -1e9}
    kept = ("name", "suite", "tasks", "cameras", "image_size", "max_steps", "options")
    protocol: dict[str, Any] = {"source": "here", "episodes_per_task": 2, "first_seed": 200_000, "execute_steps": 2}
    protocol["simulator"] = {key: simulator[key] for key in kept}
    experiment = {
        "data": {"class_path": "RobosuiteDataModule", "init_args": {**data, "batch_size": 4, "num_workers": 0}},
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": 4, "val_check_interval": 2},
        "rollout": {"protocol": protocol, "num_episodes": 2},
        "stages": {
            "action": {
                "model": {
                    "class_path": "PolicyStage",
                    "init_args": {"policy": {"class_path": "linear_policy.LinearPolicy"}},
                },
            }
        },
    }
    experiment["trainer"] |= {"check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    (tmp_path / "linear.yaml").write_text(yaml.safe_dump(experiment))
    done = run_lightning("fit", "-c", tmp_path / "linear.yaml", "--run_dir", tmp_path / "run")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]  # type: ignore[attr-defined]
    checkpoint = tmp_path / "run" / "action" / "checkpoints" / "last.ckpt"
    assert list((tmp_path / "run" / "action" / "rollouts").glob("*.jsonl"))
    assert not (tmp_path / "run" / "handoff").exists()

    monkeypatch.chdir(tmp_path)
    words = ["--checkpoint", str(checkpoint), "--device", "cpu", "--workers", "1", "--episodes", "2"]
    assert main(["evaluate", *words, "--videos", "0", "--output", str(tmp_path / "results")]) == 0
    assert json.loads((tmp_path / "results" / "results.json").read_text())["total"]["successes"] == 2
    for folder in ("run", "results"):
        assert main(["report", str(tmp_path / folder)]) == 0
        assert (tmp_path / folder / "report.html").is_file()


def test_the_checkpoint_alone_acts_as_the_policy_did(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    stage, trainer = PolicyStage(baseline.LinearPolicy(), num_predicted=2), quiet_trainer(tmp_path, 3)
    fit(trainer, stage, lift_data)
    assert {"train/loss", "train/largest"} <= set(trainer.callback_metrics)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    judged = trainer.validate(stage, datamodule=lift_data, verbose=False)[0]
    assert {"val/loss", "val/action_error", "val_action_error/step_03"} <= set(judged)
    asked = [request(7, lift_data, want_prediction=True)]
    wanted, found = stage.policy.act(asked)[0], load_policy(tmp_path / "last.ckpt").act(asked)[0]
    assert np.array_equal(found.actions, wanted.actions)
    assert found.prediction is None
    with pytest.raises(UserError, match="no video model"):
        load_video_model(tmp_path / "last.ckpt")
    again = PolicyStage(baseline.LinearPolicy(side=2))
    with pytest.raises(UserError, match="side: 4 here, 2 wanted"):
        fit(quiet_trainer(tmp_path, 5), again, lift_data, ckpt_path=tmp_path / "last.ckpt")
