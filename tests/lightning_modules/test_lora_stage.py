"""A stage that trains adapters: what is trained, handed over, stored, and gone on with."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from callbacks import CheckpointHandoff, TrainableWeightAveraging
from callbacks.handoff import WEIGHTS, handoff_state
from callbacks.stage_file import StageFile
from datamodules import RobosuiteDataModule
from files.errors import UserError
from lightning_modules import JointStage, Stage, VideoStage
from networks import LoRA
from networks.weight_hashes import state_sha256
from policies import load_policy
from tests.stage_parts import (
    fit,
    lift_datamodule,
    quiet_trainer,
    tiny_action_stage,
    tiny_joint_stage,
    tiny_video_model,
    tiny_video_stage,
)
from tests.window_steps import SaveAtStepTwo

LORA = LoRA(rank=2, alpha=4.0, whole=("conv_in",))


def video_stage(lora: LoRA | None = LORA, **arguments: Any) -> VideoStage:  # noqa: ANN401
    return tiny_video_stage(lora=lora, num_predicted=0, **arguments)


def copied(stage: Stage) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in stage.state_dict().items()}


def test_only_what_is_adapted_changes_and_has_optimizer_state(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    stage = video_stage()
    stage.video.unet.gradient_checkpointing = True
    before = copied(stage)
    trainer = quiet_trainer(tmp_path, 2, precision="bf16-mixed")
    fit(trainer, stage, lift_data)
    after = stage.state_dict()
    changed = {n for n, v in after.items() if n.startswith("video.unet.") and n in before and not v.equal(before[n])}
    assert changed == {"video.unet.unet.conv_in.weight", "video.unet.unet.conv_in.bias"}
    frozen = [n.replace(".base_layer.", ".") for n in after if ".base_layer." in n]
    assert frozen
    assert all(after[n.replace(".weight", ".base_layer.weight")].equal(before[n]) for n in frozen if "weight" in n)
    assert any(value.any() for name, value in after.items() if "lora_B" in name)
    trained = [p for p in stage.video.parameters() if p.requires_grad]
    assert {id(p) for p in trainer.optimizers[0].state} == {id(p) for p in trained}


def test_stage_2_gets_an_ordinary_network_that_computes_the_same(
    tmp_path: Path, lift_data: RobosuiteDataModule
) -> None:
    folder, stage = tmp_path / "handoff", video_stage()
    fit(quiet_trainer(tmp_path, 3, CheckpointHandoff(str(folder))), stage, lift_data)
    assert set(load_file(folder / WEIGHTS)) == set(handoff_state(tiny_video_model()))
    action = tiny_action_stage(tiny_video_model(seed=5))
    fit(quiet_trainer(tmp_path, 2, CheckpointHandoff(str(folder))), action, lift_data)
    stored = load_file(folder / WEIGHTS)
    assert state_sha256(handoff_state(action.video)) == state_sha256(stored)
    latents = torch.randn(1, 5, 48, 4, 4)
    with torch.no_grad():
        conditioning = stage.video.condition(torch.rand(1, 2, 3, 16, 16), ["lift"], seeds=[0])
        films = [m.denoise(latents, torch.ones(1), conditioning) for m in (stage.eval().video, action.video)]
    assert torch.allclose(*films, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("averaging", [False, True], ids=["raw", "averaged"])
def test_an_interrupted_run_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, lift_data: RobosuiteDataModule, averaging: bool
) -> None:
    def run(go_on: Path | None = None) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        video = tiny_video_model()
        stage = VideoStage(video, lora=LORA, num_predicted=0, optimizer=partial(torch.optim.Adam, lr=1e-2))
        average = [TrainableWeightAveraging(0.5)] if averaging else []
        trainer = quiet_trainer(tmp_path, 4, *average, SaveAtStepTwo(), limit_val_batches=0)
        fit(trainer, stage, lift_datamodule(Path(str(lift_data.paths)), batch_size=10), go_on)
        return copied(stage)

    whole, resumed = run(), run(tmp_path / "2.ckpt")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_checkpoint_holds_an_ordinary_network(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    stage = video_stage()
    trainer = quiet_trainer(tmp_path, 2)
    fit(trainer, stage, lift_data)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    file = StageFile(tmp_path / "last.ckpt")
    plain = tiny_video_stage(tiny_video_model(seed=5))
    plain.attach(lift_data.preprocessing)
    assert file.load(plain, ["video U-Net", "preconditioning"]) == []
    action = tiny_action_stage(tiny_video_model(seed=6))
    fit(quiet_trainer(tmp_path, 1, CheckpointHandoff(str(tmp_path / "last.ckpt"))), action, lift_data)
    assert torch.equal(action.video.unet.unet.conv_in.weight, stage.video.unet.unet.conv_in.weight)


def test_other_adapters_do_not_go_on(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    trainer = quiet_trainer(tmp_path, 1)
    fit(trainer, video_stage(), lift_data)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    for other in (None, LoRA(rank=3)):
        with pytest.raises(UserError, match=r"other adapters than model.init_args.lora says: lora"):
            fit(quiet_trainer(tmp_path, 2), video_stage(other), lift_data, tmp_path / "last.ckpt")


def test_a_joint_stage_with_adapters_leaves_a_policy(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    stage: JointStage = tiny_joint_stage(lora=LORA)
    trainer = quiet_trainer(tmp_path, 2)
    fit(trainer, stage, lift_data)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    policy = load_policy(tmp_path / "last.ckpt")
    with torch.no_grad():
        conditioning = stage.video.condition(torch.rand(1, 2, 3, 16, 16), ["lift"], seeds=[0])
        ours, theirs = (s.sample(conditioning, [0])[0] for s in (stage.eval().policy, policy.eval()))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
