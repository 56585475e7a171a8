"""What crosses from stage 1 to stage 2, and what is refused at the border."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from callbacks import CheckpointHandoff
from callbacks.handoff import (
    MANIFEST,
    NEW_WEIGHTS,
    WEIGHTS,
    find_weights,
    handoff_state,
    read_manifest,
    write_handoff,
)
from datamodules import RobosuiteDataModule
from files.errors import UserError
from networks import PixelShuffleAutoencoder, SVDAutoencoder, VideoModel
from networks.weight_hashes import state_sha256
from policies import SharedLevels
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
    stage = tiny_action_stage(features=SharedLevels())
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
    assert len(manifest["sha256"]) == 64


def load(handoff: Path, stage_data: RobosuiteDataModule, **arguments: object) -> None:
    stage = tiny_action_stage(tiny_video_model(**arguments))  # type: ignore[arg-type]
    stage.attach(stage_data.preprocessing)
    CheckpointHandoff(str(handoff)).load_into(stage)


def test_missing_handoff_says_what_to_run(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    with pytest.raises(UserError, match=r"no handoff here\. Train the video stage first"):
        load(tmp_path / "nowhere", lift_data)


def test_handoff_of_another_network_is_refused_key_by_key(handoff: Path, lift_data: RobosuiteDataModule) -> None:
    with pytest.raises(UserError, match=r"network\.init_args\.preconditioning\.class_path: .*Residual.* here, .*EDM"):
        load(handoff, lift_data, residual=False)


def test_handoff_of_other_cameras_and_frames_is_refused(handoff: Path, lift_data: RobosuiteDataModule) -> None:
    swapped = lift_datamodule(Path(str(lift_data.paths)), cameras=["robot0_eye_in_hand", "agentview"])
    with pytest.raises(UserError, match=r"data\.cameras: \['agentview', 'robot0_eye_in_hand'\] here"):
        load(handoff, swapped)
    longer = lift_datamodule(Path(str(lift_data.paths)), num_frames=3)
    with pytest.raises(UserError, match=r"num_frames: 2 here, 3 wanted"):
        load(handoff, longer, num_frames=3)


def test_the_scale_of_actions_is_that_of_stage_2_whatever_stage_1_was_shown(
    handoff: Path, lift_data: RobosuiteDataModule
) -> None:
    manifest = json.loads((handoff / MANIFEST).read_text())
    assert "statistics" not in manifest["data"]
    other = lift_datamodule(Path(str(lift_data.paths)), action_demos=1)
    assert other.preprocessing.statistics != lift_data.preprocessing.statistics
    load(handoff, other)
    manifest["data"]["statistics"] = lift_data.preprocessing.to_dict()["statistics"]  # as earlier manifests had it
    (handoff / MANIFEST).write_text(json.dumps(manifest))
    load(handoff, other)


def test_damaged_weights_are_refused(handoff: Path, lift_data: RobosuiteDataModule) -> None:
    weights = handoff / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match="missing or damaged"):
        load(handoff, lift_data)


def test_unknown_format_is_refused(handoff: Path, lift_data: RobosuiteDataModule) -> None:
    manifest = json.loads((handoff / MANIFEST).read_text())
    (handoff / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match="format 99; this version reads 1"):
        load(handoff, lift_data)


def test_a_damaged_manifest_is_refused_in_a_sentence(handoff: Path, lift_data: RobosuiteDataModule) -> None:
    whole = (handoff / MANIFEST).read_text()
    for damaged, said in ((whole[:-20], "not readable"), ("[]", "format None"), ('{"format": 1}', "does not fit")):
        (handoff / MANIFEST).write_text(damaged)
        with pytest.raises(UserError, match=said):
            load(handoff, lift_data)


# --- the frozen networks are told by their weights ----------------------------------------------------------------


def svd_model(folder: Path, seed: int) -> VideoModel:
    """A tiny video model whose autoencoder's weights come out of a folder."""
    shape: dict[str, Any] = {"block_out_channels": (32, 32, 32), "layers_per_block": 1}
    if not folder.exists():
        torch.manual_seed(seed)
        SVDAutoencoder(**shape).vae.save_pretrained(folder)
    plain = tiny_video_model(residual=False)
    unet = type(plain.unet)(**{**plain.unet.config, "in_channels": 8, "out_channels": 4})
    return VideoModel(unet, SVDAutoencoder(**shape, pretrained=str(folder)), plain.text_encoder, 2, 2)


def hand_over(folder: Path, video: VideoModel, data: RobosuiteDataModule) -> None:
    fit(quiet_trainer(folder.parent, 0, CheckpointHandoff(str(folder))), tiny_video_stage(video), data)


def take_over(folder: Path, video: VideoModel, data: RobosuiteDataModule) -> None:
    stage = tiny_action_stage(video)
    stage.attach(data.preprocessing)
    CheckpointHandoff(str(folder)).load_into(stage)


def test_an_autoencoder_is_told_by_its_weights_and_not_by_their_folder(
    tmp_path: Path, lift_data: RobosuiteDataModule
) -> None:
    here, there, folder = tmp_path / "vae", tmp_path / "elsewhere", tmp_path / "handoff"
    hand_over(folder, svd_model(here, 1), lift_data)
    here.rename(there)
    take_over(folder, svd_model(there, 1), lift_data)
    with pytest.raises(UserError, match=r"frozen\.autoencoder: 'SVDAutoencoder \w+' here, 'SVDAutoencoder \w+' wanted"):
        take_over(folder, svd_model(here, 2), lift_data)  # the folder of then, other weights


def test_another_text_tower_or_kind_of_autoencoder_is_refused(handoff: Path, lift_data: RobosuiteDataModule) -> None:
    video = tiny_video_model()
    with torch.no_grad():
        next(video.text_encoder.parameters()).add_(1e-3)
    with pytest.raises(UserError, match=r"frozen\.text_encoder: "):
        take_over(handoff, video, lift_data)

    class Other(PixelShuffleAutoencoder):
        """Has no weights either."""

    video = tiny_video_model()
    video.autoencoder = Other(factor=4)
    with pytest.raises(UserError, match=r"frozen\.autoencoder: 'PixelShuffleAutoencoder .* wanted"):
        take_over(handoff, video, lift_data)


def test_a_manifest_of_an_older_version_is_compared_as_it_was(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    folder, video = tmp_path / "handoff", svd_model(tmp_path / "vae", 1)
    hand_over(folder, video, lift_data)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["frozen"]
    (folder / MANIFEST).write_text(json.dumps(manifest | {"network": video.config}))
    take_over(folder, svd_model(tmp_path / "vae", 1), lift_data)
    with pytest.raises(UserError, match=r"autoencoder\.init_args\.pretrained: .*vae' here, .*other' wanted"):
        take_over(folder, svd_model(tmp_path / "other", 1), lift_data)


# --- whole at every moment ----------------------------------------------------------------------------------------


def states() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return {"a": torch.zeros(3)}, {"a": torch.ones(3)}


class PowerCut(BaseException):
    """Nothing after it runs, as far as a test can have that."""


@pytest.mark.parametrize("has_old", [True, False])
def test_wherever_writing_ends_the_old_handoff_or_the_new_one_is_whole(
    has_old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = states()
    original: dict[str, Callable[..., Any]] = {
        name: getattr(os, name) for name in ("replace", "fsync", "open", "unlink")
    }
    found: set[str] = set()
    for last in range(100):
        folder = tmp_path / f"handoff_{last}"
        if has_old:
            write_handoff(folder, old, {})
        calls = 0

        def counted(name: str, last: int = last) -> Callable[..., Any]:
            def call(*args: Any, **more: Any) -> Any:  # noqa: ANN401
                nonlocal calls
                calls += 1
                if calls > last:
                    raise PowerCut
                return original[name](*args, **more)

            return call

        with monkeypatch.context() as patch:
            for name in original:
                patch.setattr(os, name, counted(name))
            try:
                write_handoff(folder, new, {})
            except PowerCut:
                was_cut = True
            else:
                was_cut = False
        if not (folder / MANIFEST).exists():
            assert not has_old
            found.add("none")
            continue
        value = load_file(find_weights(folder, read_manifest(folder)))["a"]
        found.add("old" if value.equal(old["a"]) else "new")
        assert value.equal(old["a"]) or value.equal(new["a"])
        if not was_cut:
            assert value.equal(new["a"])
            assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, WEIGHTS]
            break
        write_handoff(folder, new, {})  # and what was left behind is no obstacle
        assert load_file(find_weights(folder, read_manifest(folder)))["a"].equal(new["a"])
        assert not (folder / NEW_WEIGHTS).exists()
    assert found == ({"old", "new"} if has_old else {"none", "new"})


def test_a_full_disk_leaves_the_old_handoff_and_other_files_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = states()
    folder = tmp_path / "handoff"
    write_handoff(folder, old, {})
    (folder / "notes.txt").write_text("mine")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="could not be written"):
            write_handoff(folder, new, {})
    assert load_file(find_weights(folder, read_manifest(folder)))["a"].equal(old["a"])
    write_handoff(folder, new, {})
    assert (folder / "notes.txt").read_text() == "mine"
