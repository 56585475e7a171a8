"""Converted checkpoints in use: goldens, rollouts, handoff, validation and training, through the real commands."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from networks import Conditioning, read_checkpoint
from policies import load_policy
from simulators import SimulatorConfig
from tests.networks.conftest import _unit as unit
from tests.networks.conftest import parity_arrays
from tests.reference_parts import first_stage_only, tiny_reference_networks
from tests.simulators.conftest import counting
from tests.videopolicy.conftest import ROOT, VIDEO, tiny_overlay
from videopolicy.conversion.names import PREFIX_BY_PART
from videopolicy.conversion.plan import plan, published_table
from videopolicy.conversion.source import Source
from videopolicy.experiment.skeleton import skeleton
from videopolicy.lightning_cli import main as lightning
from videopolicy.main import main

__all__ = ["counting", "parity_arrays"]  # fixtures

ROBOCASA = ROOT / "experiments" / "robocasa.yaml"
PREFIX = "video.unet.unet."


def published_networks(demos: Path) -> dict[str, Any]:
    """RoboCasa with the tiny published networks: 64-pixel pictures, three cameras of eight frames, 32 actions."""
    overlay, networks = tiny_overlay(ROBOCASA, demos, 1), tiny_reference_networks()
    overlay["data"]["init_args"] |= {"image_size": 64, "num_frames": 8, "frame_stride": 1, "action_horizon": 32}
    overlay["model"]["init_args"]["video"] = networks.pop("video")
    overlay["stages"]["action"]["model"]["init_args"] = networks
    return overlay


def small_networks(demos: Path) -> dict[str, Any]:
    """RoboCasa with networks of the published layout that train in seconds: 16-pixel pictures, two frames."""
    overlay = tiny_overlay(ROBOCASA, demos, 1)
    video = overlay["model"]["init_args"]["video"] = copy.deepcopy(VIDEO)
    video["init_args"]["unet"]["init_args"] |= {"in_channels": 8, "out_channels": 4}
    video["init_args"]["autoencoder"] = tiny_reference_networks()["video"]["init_args"]["autoencoder"]
    for stage in overlay["stages"].values():
        stage["model"]["init_args"]["num_predicted"] = 0
    return overlay


@pytest.fixture
def experiment(tmp_path: Path, robocasa_file: Callable[..., Path]) -> list[str]:
    """`-c` arguments of the small experiment."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(small_networks(robocasa_file())))
    return ["-c", str(ROBOCASA), "-c", str(path)]


@pytest.fixture
def part_file(experiment: list[str], tmp_path: Path) -> list[str]:
    """The small experiment's video model alone."""
    overlay = yaml.safe_load(Path(experiment[-1]).read_text())
    (tmp_path / "video.yaml").write_text(yaml.safe_dump(overlay["model"]["init_args"]["video"]))
    return ["--model.video", str(tmp_path / "video.yaml")]


@pytest.fixture
def small_weights(experiment: list[str]) -> dict[str, Tensor]:
    """A published stage-2 checkpoint of the small networks."""
    generator = torch.Generator().manual_seed(0)
    stage = skeleton(experiment[1::2], "action")
    weights = {name: 0.1 * torch.randn(w.shape, generator=generator) for name, w in stage.state_dict().items()}
    source = Source("small", "native", weights)
    table = published_table(source, plan(source, stage))
    return table | {PREFIX_BY_PART["text"] + "logit_scale": torch.ones(())}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `lightning ARGUMENTS` in this process; what it says on stdout, or for a refusal its line on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, status: int = 0) -> str:
        capsys.readouterr()
        assert lightning([str(argument) for argument in arguments]) == status
        said = capsys.readouterr()
        return said.err.strip().splitlines()[-1] if status else said.out

    return run


def converted(tmp_path: Path, weights: Mapping[str, Tensor], experiment: list[str]) -> Path:
    """A published file through the real verb, whole with an experiment, or bare with a video model's part file."""
    torch.save({"state_dict": dict(weights)}, tmp_path / "published.ckpt")
    files = ["--input", str(tmp_path / "published.ckpt"), "--output", str(tmp_path / "converted.ckpt"), "--force"]
    assert main(["convert", "--from", "reference", "--to", "native", *files, *experiment]) == 0
    return tmp_path / "converted.ckpt"


def test_converted_network_gives_the_published_outputs(
    tmp_path: Path,
    reference_weights: Mapping[str, Tensor],
    robocasa_file: Callable[..., Path],
    parity_arrays: Callable[[str], dict[str, Tensor]],
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(published_networks(robocasa_file())))
    experiment = ["-c", str(ROBOCASA), "-c", str(tmp_path / "tiny.yaml")]
    arrays = parity_arrays("joint_tiny")
    network = load_policy(converted(tmp_path, reference_weights, experiment)).joint
    sigma = arrays["den_sigma"]
    noisy_video = sigma.view(2, 1, 1, 1, 1) * unit("joint/noised_video", (50, 4, 32, 32)).unflatten(0, (2, 25))
    noisy_action = sigma.view(2, 1, 1) * unit("joint/noised_action", (64, 7)).unflatten(0, (2, 32))
    context = unit("joint/crossattn", (2, 1, 48))[:, None].expand(-1, 25, -1, -1)
    latents = unit("joint/concat", (50, 4, 32, 32)).unflatten(0, (2, 25))
    condition = Conditioning(latents, context, latents)
    with torch.no_grad():
        video, action = network.denoise(noisy_video, noisy_action, sigma, condition)
        adapted = network.adapter.forward_map(*network.video.features(noisy_video, sigma, condition, network.taps))
    torch.testing.assert_close(video.flatten(0, 1), arrays["den_video"], atol=5e-5, rtol=0)
    torch.testing.assert_close(action.flatten(0, 1).double(), arrays["den_action"], atol=1e-3, rtol=0)
    torch.testing.assert_close(adapted, arrays["den_adapter"], atol=5e-3, rtol=0)


def test_a_converted_stage_2_file_rolls_out(
    tmp_path: Path,
    small_weights: dict[str, Tensor],
    experiment: list[str],
    counting: Callable[..., SimulatorConfig],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing but the file is given: networks, preprocessing and protocol are in it."""
    path = converted(tmp_path, small_weights, experiment)
    assert main(["evaluate", "--checkpoint", str(path), "--workers", "1", "--device", "cpu", "--videos", "0"]) == 0
    assert "0/2" in capsys.readouterr().out


def test_a_converted_stage_2_file_is_validated(
    tmp_path: Path, small_weights: dict[str, Tensor], experiment: list[str], run: Callable[..., str]
) -> None:
    path = converted(tmp_path, small_weights, experiment)
    done = run("validate", *experiment, "--stage", "action", "--ckpt_path", path, "--rollout", "null")
    assert "val/loss" in done


def test_training_starts_from_a_converted_stage_2_file_and_goes_on_with_the_same_command(
    tmp_path: Path, small_weights: dict[str, Tensor], experiment: list[str], run: Callable[..., str]
) -> None:
    path = converted(tmp_path, small_weights, experiment)
    fit = (
        "fit",
        *experiment,
        "--stage",
        "action",
        "--ckpt_path",
        path,
        "--run_dir",
        "run",
        "--rollout",
        "null",
    )
    done = run(*fit)
    assert f"starting at step 0 from the weights of {path}" in done
    last = read_checkpoint(tmp_path / "run" / "action" / "checkpoints" / "last.ckpt")
    began, ended = read_checkpoint(path)["state_dict"], last["state_dict"]
    assert last["global_step"] == 1
    assert all(torch.equal(ended[name], began[name]) for name in began if name.startswith("video."))
    change = max((ended[name] - began[name]).abs().max().item() for name in began if name.startswith("action_unet."))
    assert 0 < change < 1e-3  # one small step away from the file's weights

    done = run(*fit, "--trainer.max_steps", "2", "--trainer.val_check_interval", "1")
    assert "going on from run/action/checkpoints/last.ckpt" in done
    assert read_checkpoint(tmp_path / "run" / "action" / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_a_converted_stage_1_file_goes_through_the_handoff(
    tmp_path: Path, small_weights: dict[str, Tensor], experiment: list[str], run: Callable[..., str]
) -> None:
    path = converted(tmp_path, first_stage_only(small_weights), experiment)
    fit = ("fit", *experiment, "--stage", "action", "--run_dir", "run", "--rollout", "null")
    done = run(*fit, "--handoff", path)
    began = read_checkpoint(path)["state_dict"]
    ended = read_checkpoint(tmp_path / "run" / "action" / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(ended[name], began[name]) for name in began)
    assert any(name.startswith("video.text_encoder.") for name in began)

    other = read_checkpoint(path)
    other["state_dict"][PREFIX + "conv_out.bias"] = torch.ones(4)
    torch.save(other, tmp_path / "other.ckpt")
    done = run(*fit, "--handoff", tmp_path / "other.ckpt", "--trainer.max_steps", "2", status=2)
    assert "holds another video network than the one that this action stage was trained on" in done


def test_our_own_stage_1_checkpoint_serves_as_a_handoff_and_is_published(
    tmp_path: Path, experiment: list[str], run: Callable[..., str]
) -> None:
    run("fit", *experiment, "--stage", "video", "--run_dir", "run", "--rollout", "null")
    last = tmp_path / "run" / "video" / "checkpoints" / "last.ckpt"
    files = ["--input", str(last), "--output", str(tmp_path / "published.safetensors")]
    assert main(["convert", "--from", "native", "--to", "reference", *files]) == 0
    fit = ("fit", *experiment, "--stage", "action", "--run_dir", "other", "--rollout", "null")
    run(*fit, "--handoff", last)
    ended = read_checkpoint(tmp_path / "other" / "action" / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(ended[name], tensor) for name, tensor in read_checkpoint(last)["state_dict"].items())


def test_weights_without_a_description_are_refused_where_one_is_needed(
    tmp_path: Path,
    small_weights: dict[str, Tensor],
    experiment: list[str],
    part_file: list[str],
    run: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = converted(tmp_path, first_stage_only(small_weights), part_file)
    fit = ("fit", *experiment, "--stage", "action", "--rollout", "null")
    assert "convert it again with the experiment" in run(*fit, "--handoff", path, status=2)
    validate = ("validate", *experiment, "--stage", "video", "--rollout", "null")
    assert "convert it again with the experiment" in run(*validate, "--ckpt_path", path, status=2)
    assert main(["evaluate", "--checkpoint", str(path), "--device", "cpu"]) == 2
    assert "convert it again with the experiment" in capsys.readouterr().err


def test_a_handoff_file_of_other_networks_or_cameras_is_refused_key_by_key(
    tmp_path: Path, small_weights: dict[str, Tensor], experiment: list[str], run: Callable[..., str]
) -> None:
    path = converted(tmp_path, first_stage_only(small_weights), experiment)
    fit = ("fit", *experiment, "--stage", "action", "--handoff", path, "--rollout", "null")
    cameras = json.dumps(["robot0_agentview_left", "robot0_eye_in_hand", "robot0_agentview_right"])
    assert "data.cameras: " in run(*fit, "--data.cameras", cameras, status=2)
    heads = "--model.video.unet.num_attention_heads"
    assert "num_attention_heads: [2, 2] here" in run(*fit, heads, "[1, 1]", status=2)
    both = ("fit", *experiment, "--stage", "video", "--handoff", path, "--rollout", "null")
    assert "add --stage action" in run(*both, status=2)


def test_video_weights_alone_start_a_video_stage_and_what_is_absent_is_listed(
    tmp_path: Path,
    small_weights: dict[str, Tensor],
    experiment: list[str],
    part_file: list[str],
    run: Callable[..., str],
) -> None:
    weights = {name: w for name, w in first_stage_only(small_weights).items() if "open_clip" not in name}
    path = converted(tmp_path, weights, part_file)
    fit = ("fit", *experiment, "--stage", "video", "--run_dir", "run", "--rollout", "null")
    done = run(*fit, "--ckpt_path", path)
    assert "not in the file, so they keep their own: text tower" in done
    began = read_checkpoint(path)["state_dict"]
    ended = read_checkpoint(tmp_path / "run" / "video" / "checkpoints" / "last.ckpt")["state_dict"]
    changes = {name: (ended[name] - tensor).abs().max().item() for name, tensor in began.items()}
    assert max(changes.values()) < 1e-4  # one step of Adam at 1e-5
    assert any(changes.values())
