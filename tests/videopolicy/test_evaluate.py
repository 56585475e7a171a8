"""The verb that turns a policy and a protocol into a table, on the counting simulator."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from callbacks import SimulationRollout
from files.errors import UserError
from policies import SharedLevels, VideoPolicy, load_policy
from simulators import SimulatorConfig, SimulatorError
from tests.simulators.conftest import counting
from tests.stage_parts import fit, lift_datamodule, measured_by, quiet_trainer, tiny_action_stage, tiny_video_model
from videopolicy import evaluate
from videopolicy.evaluation.prepared import prepare
from videopolicy.evaluation.request import EvaluationRequest
from videopolicy.evaluation.sampling_overrides import SamplingOverrides

__all__ = ["counting"]  # a fixture

CAMERAS = ["agentview", "robot0_eye_in_hand"]
SIMULATOR = "counting_simulator:CountingSimulator"


@pytest.fixture
def checkpoint(tmp_path: Path, robomimic_file: Callable[..., Path], counting: Callable[..., SimulatorConfig]) -> Path:
    """A policy that was trained with rollouts of one counting task."""
    config = counting(["up"], cameras=CAMERAS, image_size=16, max_steps=8, options={"goal": -1e9})
    rollout = SimulationRollout(measured_by(config), num_episodes=3, record_episodes=0)
    trainer = quiet_trainer(tmp_path, 1, rollout)
    fit(trainer, tiny_action_stage(tiny_video_model(residual=False)), lift_datamodule(robomimic_file(action_dim=2)))
    trainer.save_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


@pytest.fixture
def protocol(tmp_path: Path, counting: Callable[..., SimulatorConfig]) -> Callable[..., Path]:
    """Write a protocol file of the counting simulator."""

    def write(**changes: object) -> Path:
        simulator = {"name": SIMULATOR, "suite": "counting", "tasks": ["up", "down"], "cameras": ["left"]}
        simulator |= {"image_size": 8, "max_steps": 12, "options": {"goal": 6.0}, **changes}
        content = {"source": "here", "simulator": simulator, "episodes_per_task": 3, "first_seed": 4}
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump({**content, "execute_steps": 4, "groups": {"held_out": ["down"]}}))
        return path

    return write


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return evaluate.run(parser.parse_args([str(argument) for argument in arguments]))


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


def test_checkpoint_alone_decides_the_protocol(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--checkpoint", checkpoint, "--workers", 1, "--videos", 1, "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "3/3" in printed
    assert "0.439 to 1.000" in printed  # Wilson, 3 of 3
    output = next((tmp_path / "run" / "evaluations").glob("last_*"))
    assert len(lines(output)) == 3
    assert [path.name for path in (output / "videos").iterdir()] == [
        "up_seed200000.mp4"
    ]  # neither a demo's nor the training's
    document = json.loads((output / "protocol.json").read_text())
    assert document["policy"]["kind"] == "checkpoint"
    assert len(document["policy"]["sha256"]) == 64
    assert document["protocol"]["simulator"]["max_steps"] == 8
    assert document["versions"]["simulator"]["numpy"]
    assert document["versions"]["cpu_count"] >= 1
    assert "threads" in document["versions"]["device_name"]


def test_single_options_override_and_are_part_of_the_fingerprint(tmp_path: Path, checkpoint: Path) -> None:
    arguments = ("--checkpoint", checkpoint, "--workers", 1, "--videos", 0, "--device", "cpu")
    output = tmp_path / "first"
    given = ("--episodes", 2, "--first-seed", 7, "--tasks", "up,down", "--output", output)
    run(*arguments, *given)
    seeds = sorted((line["task"], line["seed"]) for line in lines(output))
    assert seeds == [("down", 7), ("down", 8), ("up", 7), ("up", 8)]
    with pytest.raises(UserError, match=r"protocol\.execute_steps: 2 there, 3 now"):
        run(*arguments, *given, "--execute-steps", 3)
    with pytest.raises(UserError, match=r"policy\.kind: 'checkpoint' there, 'zero' now"):
        run(*arguments, *given, "--policy", "zero")  # under the checkpoint's own protocol


def test_sampling_options_change_the_policy_and_are_part_of_its_fingerprint(tmp_path: Path, checkpoint: Path) -> None:
    arguments = ("--checkpoint", checkpoint, "--workers", 1, "--videos", 0, "--device", "cpu", "--episodes", 1)
    changed = ("--action-steps", 5, "--action-scheduler", "DPMSolverMultistepScheduler", "--video-steps", 1)
    prepared = prepare(EvaluationRequest.parse([str(word) for word in (*arguments, *changed)]))
    policy, identity = prepared.policy, prepared.identity
    assert isinstance(policy, VideoPolicy)
    assert (policy.sampler.num_steps, policy.sampler.scheduler) == (5, "DPMSolverMultistepScheduler")
    assert (policy.sampler.sigma_max, policy.features.config["init_args"]["steps"]) == (20.0, 1)
    assert identity["sampling"] == {
        "action_steps": 5, "action_scheduler": "DPMSolverMultistepScheduler", "video_steps": 1
    }  # fmt: skip
    output = tmp_path / "first"
    run(*arguments, "--action-steps", 3, "--output", output)
    assert json.loads((output / "protocol.json").read_text())["policy"]["sampling"] == {"action_steps": 3}
    with pytest.raises(UserError, match=r"policy\.sampling\.action_steps: 3 there, 4 now"):
        run(*arguments, "--action-steps", 4, "--output", output)
    with pytest.raises(UserError, match=r"policy\.sampling\.action_steps: 3 there, None now"):
        run(*arguments, "--output", output)
    with pytest.raises(UserError, match=r"--action-steps, --video-steps: --policy zero samples nothing"):
        run(*arguments, "--policy", "zero", "--action-steps", 4, "--video-steps", 0)
    with pytest.raises(UserError, match="no scheduler 'Nobody'"):
        run(*arguments, "--action-scheduler", "Nobody")


def test_an_untrained_policy_keeps_what_was_frozen_and_is_the_same_every_time(checkpoint: Path) -> None:
    trained, one, other = (
        prepare(EvaluationRequest(checkpoint, policy=kind, device="cpu")).policy
        for kind in ("checkpoint", "untrained", "untrained")
    )
    before, drawn, again = (policy.state_dict() for policy in (trained, one, other) if isinstance(policy, VideoPolicy))
    assert all(torch.equal(drawn[key], again[key]) for key in drawn)
    changed = {key for key in before if not torch.equal(before[key], drawn[key])}
    assert {key.split(".")[0] for key in changed} == {"adapter", "action_unet"}


def test_blind_replay_of_a_demo_file_is_rolled_out_by_the_protocol_of_a_checkpoint(
    tmp_path: Path, checkpoint: Path, robomimic_file: Callable[..., Path]
) -> None:
    demos = robomimic_file("replayed.hdf5", action_dim=2)
    replay = ("--checkpoint", checkpoint, "--policy", "replay")
    with pytest.raises(UserError, match="--policy replay plays the actions of --demos FILE"):
        run(*replay)
    with pytest.raises(UserError, match="give both, or neither"):
        run("--checkpoint", checkpoint, "--demos", demos)
    common = ("--workers", 1, "--videos", 0, "--device", "cpu", "--episodes", 1, "--output", tmp_path / "out")
    run(*replay, "--demos", demos, *common)
    document = json.loads((tmp_path / "out" / "protocol.json").read_text())
    assert document["policy"]["kind"] == "replay"
    assert document["policy"]["path"] == str(demos.resolve())
    assert [line["seed"] for line in lines(tmp_path / "out")] == [200_000]


def test_with_shared_levels_film_and_actions_take_the_same_steps(checkpoint: Path) -> None:
    policy = load_policy(checkpoint)
    assert isinstance(policy, VideoPolicy)
    policy.features = SharedLevels()
    SamplingOverrides(video_steps=7, guidance=1.5).apply(policy)
    assert (policy.sampler.num_steps, policy.sampler.guidance) == (7, 1.5)
    with pytest.raises(UserError, match=r"--action-steps 5 and --video-steps 7: .* give one of them"):
        SamplingOverrides(action_steps=5, video_steps=7).apply(policy)


def test_a_policy_without_rollouts_needs_a_protocol_that_fits_it(
    tmp_path: Path, robomimic_file: Callable[..., Path], protocol: Callable[..., Path]
) -> None:
    trainer = quiet_trainer(tmp_path, 1)
    fit(trainer, tiny_action_stage(tiny_video_model(residual=False)), lift_datamodule(robomimic_file()))
    last = tmp_path / "last.ckpt"
    trainer.save_checkpoint(last)
    common = ("--checkpoint", last, "--device", "cpu", "--workers", 1, "--output", tmp_path / "out")
    with pytest.raises(UserError, match=r"names no simulator; give --protocol NAME \(.*libero10"):
        run(*common)
    with pytest.raises(UserError, match=r"was trained on cameras .* without \['agentview'"):
        run(*common, "--protocol", protocol())
    fitting = protocol(cameras=["left", *CAMERAS])
    with pytest.raises(UserError, match=r"gives 4 actions .* executes 9; add --execute-steps 2"):
        run(*common, "--protocol", fitting, "--execute-steps", 9)
    more = protocol(cameras=["left", *reversed(CAMERAS)])
    narrowed = prepare(EvaluationRequest(last, protocol=str(more), device="cpu"))
    assert narrowed.protocol.simulator.cameras == CAMERAS  # no picture is drawn that the policy does not look at
    with pytest.raises(SimulatorError, match=r"gives 7 numbers an action, but task 'up' takes 2"):
        run(*common, "--protocol", fitting)
    assert not (tmp_path / "out" / "results.jsonl").exists()  # no episode was begun


def test_a_protocol_file_and_a_policy_without_checkpoint(
    tmp_path: Path, protocol: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    common = ("--protocol", protocol(), "--policy", "scripted", "--workers", 2, "--output", output)
    assert run(*common, "--record") == 0
    assert "held_out" in capsys.readouterr().out
    found = lines(output)
    assert len(found) == 6
    assert {line["success"] for line in found if line["seed"] == 4} == {True}  # this expert gives up on odd seeds
    assert {line["success"] for line in found if line["seed"] == 5} == {False}
    assert {(line["max_steps"], line["execute_steps"], line["instruction"]) for line in found} == {(12, 4, "count")}
    assert len(list((output / "videos").glob("*.mp4"))) == 6
    content = json.loads((output / "results.json").read_text())
    assert [row["task"] for row in content["groups"]] == ["held_out"]
    assert "| **held_out: mean over tasks** |" in (output / "results.md").read_text()


def test_a_rerun_does_only_what_is_missing(
    tmp_path: Path, protocol: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    common = ("--protocol", protocol(), "--policy", "random", "--videos", 0, "--output", output)
    run(*common, "--episodes", 2, "--tasks", "0", "--workers", 1)
    first = (output / "results.jsonl").read_text()
    summary = (output / "results.json").read_bytes()
    run(*common, "--episodes", 2, "--tasks", "up", "--workers", 2)
    assert (output / "results.jsonl").read_text() == first
    assert (output / "results.json").read_bytes() == summary
    assert "2 of 2 episodes are already in" in " ".join(capsys.readouterr().out.split())
    run(*common, "--episodes", 3)
    assert (output / "results.jsonl").read_text().startswith(first)
    assert len(lines(output)) == 6
    assert len(json.loads((output / "results.json").read_text())["tasks"]) == 2
    fresh = tmp_path / "fresh"
    run(*common[:-1], fresh, "--episodes", 3, "--workers", 2)
    timing = {"wall_s", "policy_s"}
    kept = [{key: value for key, value in line.items() if key not in timing} for line in lines(output)]
    anew = [{key: value for key, value in line.items() if key not in timing} for line in lines(fresh)]
    order = lambda line: (line["task"], line["seed"])  # noqa: E731
    assert sorted(kept, key=order) == sorted(anew, key=order)


def test_variation_reaches_the_simulator_or_is_refused(tmp_path: Path, protocol: Callable[..., Path]) -> None:
    common = ("--protocol", protocol(), "--policy", "zero", "--output", tmp_path / "out", "--workers", 1)
    with pytest.raises(SimulatorError, match="positions"):
        run(*common, "--variation", "positions=2")
    with pytest.raises(SimulatorError, match="position"):  # the counting simulator varies nothing
        run(*common, "--variation", "position=2")


def test_what_to_do_is_said_where_policy_or_protocol_is_missing(protocol: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="give --checkpoint FILE, or --policy scripted"):
        run("--protocol", "lift")
    with pytest.raises(UserError, match=r"no protocol: give --protocol NAME \(.*lift"):
        run("--policy", "random")
    with pytest.raises(UserError, match="leave one of them out"):
        run("--policy", "random", "--protocol", protocol(), "--simulator", "robosuite")
    with pytest.raises(UserError, match=r"there are 2 tasks: 0 up, 1 down"):
        run("--policy", "random", "--protocol", protocol(), "--tasks", "7")
