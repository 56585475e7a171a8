"""Two processes with a share of the weights each train what one process does, and leave what one leaves."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from callbacks import CheckpointHandoff, TrainableWeightAveraging
from callbacks.handoff import WEIGHTS, read_manifest
from datamodules import RobosuiteDataModule
from files.errors import UserError
from lightning_modules import PolicyStage, ShardedStrategy, Stage
from networks import LoRA
from tests.stage_parts import fit, lift_datamodule, quiet_trainer
from tests.window_steps import stage_of

pytestmark = [pytest.mark.usefixtures("window_steps"), pytest.mark.forks]
MOMENTUM = {"optimizer": partial(torch.optim.SGD, lr=0.02, momentum=0.9)}  # Adam would blow rounding up to whole steps


def in_two_processes(work: Callable[[], None]) -> None:
    """Do the same in two forked processes that know of each other as torchrun's do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def one(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2"}
        os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"TORCHELASTIC_RUN_ID": "test"}
        torch.set_num_threads(1)
        work()

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


class Saving(Callback):
    """Writes `<step>_on_<processes>.ckpt` after every step."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        path = Path(trainer.default_root_dir) / f"{trainer.global_step}_on_{trainer.world_size}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)


class Uneven(Callback):
    """Asks for actions as rollouts do: as often as a process's own episodes need, which no other process knows."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, PolicyStage):
            conditioning = pl_module.video.condition(torch.zeros(1, 2, 3, 16, 16), ["lift"], seeds=[0])
            for seed in range(1 + 2 * trainer.global_rank):
                pl_module.policy.sample(conditioning, [seed])


def train(
    stage: Stage,
    folder: Path,
    demos: Path,
    steps: int,
    *callbacks: Callback,
    go_on: Path | None = None,
    **arguments: Any,  # noqa: ANN401
) -> None:
    """Train to a step, writing every checkpoint; two processes get half a batch each."""
    torch.manual_seed(1)
    processes = arguments.get("devices", 1)
    data = lift_datamodule(demos, batch_size=4 // processes)
    limits = {"limit_train_batches": 4, "val_check_interval": 2, "limit_val_batches": 1}
    trainer = quiet_trainer(folder, steps, Uneven(), Saving(), *callbacks, **limits, **arguments)
    fit(trainer, stage, data, go_on)


def shared(stage: Stage, *arguments: Any, reshard: bool = True, **named: Any) -> Callable[[], None]:  # noqa: ANN401
    """The same with half of everything that is trained on each of two processes."""

    def work() -> None:
        train(stage, *arguments, devices=2, strategy=ShardedStrategy(reshard), **named)
        trained = {id(weight) for group in stage.parameter_groups() for weight in group["params"]}
        assert all(isinstance(w, DTensor) == (id(w) in trained) for w in stage.parameters() if w.requires_grad)

    return work


def same(one: Path, two: Path) -> None:
    """Weights and optimizer states of two checkpoints agree."""
    here, there = (torch.load(path, weights_only=True) for path in (one, two))
    assert list(here["state_dict"]) == list(there["state_dict"])
    for name, value in here["state_dict"].items():
        assert torch.allclose(there["state_dict"][name], value, atol=2e-5), name
    one_state, two_state = (checkpoint["optimizer_states"][0] for checkpoint in (here, there))
    assert one_state["param_groups"] == two_state["param_groups"]
    for index, values in one_state["state"].items():
        momentum = two_state["state"][index]["momentum_buffer"]
        whole = values["momentum_buffer"]
        rounding = max(2e-5, 5e-3 * whole.abs().max().item())  # 3e-6 to 8e-5 of 0.04, by the noise that is drawn
        assert torch.allclose(momentum, whole, rtol=1e-3, atol=rounding), index


@pytest.mark.parametrize(("kind", "reshard"), [("video", True), ("video", False), ("action", True), ("joint", True)])
def test_shares_give_the_weights_and_optimizer_state_of_the_whole(
    tmp_path: Path, lift_data: RobosuiteDataModule, kind: str, reshard: bool
) -> None:
    demos = Path(str(lift_data.paths))
    one, two = (stage_of(kind, **MOMENTUM, num_predicted=2) for _ in range(2))
    two.video.unet.gradient_checkpointing = kind != "action"
    train(one, tmp_path, demos, 3)
    in_two_processes(shared(two, tmp_path, demos, 3, reshard=reshard))
    same(tmp_path / "3_on_1.ckpt", tmp_path / "3_on_2.ckpt")


@pytest.mark.slow  # four runs, two of them of two processes
def test_adapters_go_on_under_any_number_of_processes_and_are_handed_over(
    tmp_path: Path, lift_data: RobosuiteDataModule
) -> None:
    demos = Path(str(lift_data.paths))

    def stage() -> Stage:
        return stage_of("video", **MOMENTUM, lora=LoRA(rank=2, whole=("conv_in",)))

    train(stage(), tmp_path, demos, 4, CheckpointHandoff(str(tmp_path / "whole")))
    whole = (tmp_path / "4_on_1.ckpt").rename(tmp_path / "whole.ckpt")
    handoff = CheckpointHandoff(str(tmp_path / "shared"))
    in_two_processes(shared(stage(), tmp_path, demos, 4, handoff))
    same(whole, tmp_path / "4_on_2.ckpt")
    train(stage(), tmp_path, demos, 4, go_on=tmp_path / "2_on_2.ckpt")
    same(whole, tmp_path / "4_on_1.ckpt")
    in_two_processes(shared(stage(), tmp_path, demos, 4, go_on=tmp_path / "2_on_1.ckpt"))
    same(whole, tmp_path / "4_on_2.ckpt")
    manifests = [read_manifest(tmp_path / name) for name in ("whole", "shared")]
    assert manifests[0]["network"] == manifests[1]["network"]
    here, there = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "shared"))
    assert set(here) == set(there)
    assert all(torch.allclose(there[name], value, atol=2e-5) for name, value in here.items())


@pytest.mark.parametrize("strategy", ["fsdp", ModelParallelStrategy()], ids=["fsdp", "model parallel"])
def test_other_ways_to_share_weights_are_refused(
    lift_data: RobosuiteDataModule,
    strategy: str | ModelParallelStrategy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = stage_of("video")
    stage.attach(lift_data.preprocessing)
    made = FSDPStrategy() if strategy == "fsdp" else strategy
    monkeypatch.setattr(stage, "_trainer", SimpleNamespace(strategy=made, datamodule=None, precision_plugin=None))
    with pytest.raises(UserError, match=r"never made to work; use lightning_modules.ShardedStrategy"):
        stage.configure_model()


def test_weight_averaging_is_refused(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    trainer = quiet_trainer(tmp_path, 1, TrainableWeightAveraging(), strategy=ShardedStrategy())
    with pytest.raises(UserError, match="TrainableWeightAveraging does not work under FSDP"):
        TrainableWeightAveraging().setup(trainer, stage_of("video"), "fit")
