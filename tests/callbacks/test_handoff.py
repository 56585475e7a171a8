"""What crosses from stage 1 to stage 2, and what is refused at the border."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from callbacks import CheckpointHandoff
from callbacks.handoff import MANIFEST, WEIGHTS, handoff_state, read_manifest, state_sha256
from datamodules import RobosuiteDataModule
from networks import NetworkError
from tests.stage_parts import (
    fit,
    lift_datamodule,
    quiet_trainer,
    tiny_action_stage,
    tiny_video_model,
    tiny_video_stage,
)


def test_action_stage_starts_from_exactly_what_the_video_stage_learned(
    tmp_path: Path, lift_data: RobosuiteDataModule
) -> None:
    folder = tmp_path / "handoff"
    video_stage = tiny_video_stage()
    fit(quiet_trainer(tmp_path, 2, CheckpointHandoff(str(folder))), video_stage, lift_data)
    action_stage = tiny_action_stage(tiny_video_model(seed=5))
    assert state_sha256(handoff_state(action_stage.video)) != state_sha256(handoff_state(video_stage.video))
    fit(quiet_trainer(tmp_path, 1, CheckpointHandoff(str(folder))), action_stage, lift_data)
    assert state_sha256(handoff_state(action_stage.video)) == state_sha256(handoff_state(video_stage.video))


def test_frozen_weights_are_bit_identical_after_stage_2(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    stage = tiny_action_stage(noise_levels="shared")
    callback = CheckpointHandoff(str(handoff))
    fit(quiet_trainer(tmp_path, 5, callback), stage, lift_data)
    stored = load_file(handoff / WEIGHTS)
    assert all(torch.equal(value, stored[name]) for name, value in handoff_state(stage.video).items())
    assert not any(p.requires_grad or p.grad is not None for p in stage.video.parameters())
    stage.train()
    assert not any(module.training for module in stage.video.modules())


def test_a_network_that_changed_in_stage_2_is_noticed(
    tmp_path: Path, lift_data: RobosuiteDataModule, handoff: Path
) -> None:
    stage = tiny_action_stage()
    callback = CheckpointHandoff(str(handoff))
    stage.attach(lift_data.preprocessing)
    callback.load_into(stage)
    with torch.no_grad():
        next(iter(stage.video.unet.parameters())).add_(1e-6)
    with pytest.raises(RuntimeError, match="frozen video network changed"):
        callback.on_train_end(quiet_trainer(tmp_path, 1), stage)


def test_video_stage_that_trains_no_step_hands_over_its_initial_network(
    tmp_path: Path, lift_data: RobosuiteDataModule
) -> None:
    stage = tiny_video_stage()
    start = {name: value.clone() for name, value in stage.video.unet.state_dict().items()}
    fit(quiet_trainer(tmp_path, 0, CheckpointHandoff(str(tmp_path / "handoff"))), stage, lift_data)
    manifest = read_manifest(tmp_path / "handoff")
    assert manifest["global_step"] == 0
    assert all(torch.equal(value, start[name]) for name, value in stage.video.unet.state_dict().items())
    fit(
        quiet_trainer(tmp_path, 1, CheckpointHandoff(str(tmp_path / "handoff"))), tiny_action_stage(), lift_data
    )  # its preconditioning was measured all the same


def test_manifest_says_what_is_inside(handoff: Path) -> None:
    manifest = read_manifest(handoff)
    assert manifest["data"]["cameras"] == ["agentview", "robot0_eye_in_hand"]
    assert manifest["network"]["init_args"]["unet"]["init_args"]["block_out_channels"] == [32, 32]
    assert len(manifest["data"]["statistics"]["minimum"]) == 7
    assert len(manifest["sha256"]) == 64


def load(handoff: Path, stage_data: RobosuiteDataModule, **arguments: object) -> None:
    stage = tiny_action_stage(tiny_video_model(**arguments))  # type: ignore[arg-type]
    stage.attach(stage_data.preprocessing)
    CheckpointHandoff(str(handoff)).load_into(stage)


def test_missing_handoff_says_what_to_run(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    with pytest.raises(NetworkError, match=r"no handoff here\. Train the video stage first"):
        load(tmp_path / "nowhere", lift_data)


def test_handoff_of_another_network_is_refused_key_by_key(handoff: Path, lift_data: RobosuiteDataModule) -> None:
    with pytest.raises(
        NetworkError, match=r"network\.init_args\.preconditioning\.class_path: .*Residual.* here, .*EDM"
    ):
        load(handoff, lift_data, residual=False)


def test_handoff_of_other_cameras_and_frames_is_refused(handoff: Path, lift_data: RobosuiteDataModule) -> None:
    swapped = lift_datamodule(Path(str(lift_data.paths)), cameras=["robot0_eye_in_hand", "agentview"])
    with pytest.raises(NetworkError, match=r"data\.cameras: \['agentview', 'robot0_eye_in_hand'\] here"):
        load(handoff, swapped)
    longer = lift_datamodule(Path(str(lift_data.paths)), num_frames=3)
    with pytest.raises(NetworkError, match=r"num_frames: 2 here, 3 wanted"):
        load(handoff, longer, num_frames=3)


def test_other_action_statistics_are_refused_unless_allowed(handoff: Path, lift_data: RobosuiteDataModule) -> None:
    other = lift_datamodule(Path(str(lift_data.paths)), statistics="quantile")
    with pytest.raises(NetworkError, match=r"data\.statistics\.method"):
        load(handoff, other)
    stage = tiny_action_stage()
    stage.attach(other.preprocessing)
    CheckpointHandoff(str(handoff), same_statistics=False).load_into(stage)


def test_damaged_weights_are_refused(handoff: Path, lift_data: RobosuiteDataModule) -> None:
    weights = handoff / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(NetworkError, match="missing or damaged"):
        load(handoff, lift_data)


def test_unknown_format_is_refused(handoff: Path, lift_data: RobosuiteDataModule) -> None:
    manifest = json.loads((handoff / MANIFEST).read_text())
    (handoff / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(NetworkError, match="format 99; this version reads 1"):
        load(handoff, lift_data)
