"""FSDP: every process keeps a share of what is trained, and of its gradients and optimizer state."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from files.errors import UserError
from networks import read_checkpoint
from networks.svd_unet import layers

if TYPE_CHECKING:
    from lightning_modules.stage import Stage


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes (`torch.distributed.fsdp.fully_shard`), on GPUs and, for tests, on CPUs.

    The networks that a stage trains are cut into shares layer by layer: a layer's weights are gathered before it runs,
    its gradients are averaged and cut again after it. Frozen networks stay whole on every process. While the model is
    judged all weights are gathered, so that each process may call the networks as often as its own episodes need.

    Checkpoints are one ordinary file, written by the first process, which any number of processes under any strategy
    goes on from. `TrainableWeightAveraging` is refused.

    Args:
        reshard_after_forward: Give a layer's weights back after the forward pass and gather them again for the
            backward pass. False keeps them in between: less traffic, and a whole copy of the weights for that time.
        process_group_backend: As in torch; None is nccl on GPUs, gloo on CPUs.
    """

    def __init__(self, reshard_after_forward: bool = True, process_group_backend: str | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
        )
        self.reshard_after_forward = reshard_after_forward

    def setup_environment(self) -> None:
        """Share over all processes."""
        self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()

    def shard(self, module: nn.Module) -> None:
        """Cut a network into shares, one a layer and one of the rest; the first process's weights count."""
        mesh = self.device_mesh["data_parallel"]
        for unit in (*layers(module), module):
            if not isinstance(unit, FSDPModule):
                unit.to(self.root_device)
                for weight in unit.parameters():
                    if not isinstance(weight, DTensor):
                        dist.broadcast(weight.detach(), src=0)
                fully_shard(unit, mesh=mesh, reshard_after_forward=self.reshard_after_forward)

    # --- judging --------------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Gather all weights."""
        self._gather()

    def on_validation_end(self) -> None:
        """Keep a share of them again."""
        self._release()

    def on_test_start(self) -> None:
        """Gather all weights."""
        self._gather()

    def on_test_end(self) -> None:
        """Keep a share of them again."""
        self._release()

    def _gather(self) -> None:
        for module in self._sharded_modules():
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()

    def _release(self) -> None:
        for module in self._sharded_modules():
            module.set_reshard_after_forward(self.reshard_after_forward, recurse=False)
            module.reshard()

    def _sharded_modules(self) -> Iterator[FSDPModule]:
        assert self.model is not None
        return (module for module in self.model.modules() if isinstance(module, FSDPModule))

    # --- checkpoints ----------------------------------------------------------------------------------------------

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The optimizers' states are read as under any other strategy."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole model on the first process, nothing on the others; every process must ask."""
        assert self.model is not None
        return self._whole(self.model.state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer | LightningOptimizer) -> dict[str, Any]:
        """The same of an optimizer."""
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = inner.state_dict()
        states = {index: self._whole(values) for index, values in state["state"].items()}
        return {**state, "state": states} if self.is_global_zero else {}

    def _whole(self, values: Mapping[str, Any]) -> dict[str, Any]:
        whole = {}
        for name, value in values.items():
            gathered = value.full_tensor() if isinstance(value, DTensor) else value
            if self.is_global_zero:
                whole[name] = gathered.cpu() if isinstance(gathered, Tensor) else gathered
        return whole

    def load_checkpoint(
        self, checkpoint_path: str | os.PathLike[str], weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Every process reads the file, from the same pages of memory; tensors and plain values only."""
        return read_checkpoint(self.broadcast(checkpoint_path), mapped=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this process's shares of the weights."""
        assert self.model is not None
        own = self.model.state_dict()
        state = {name: share_of(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.model.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's shares of the optimizers' states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            indices = [index for group in state["param_groups"] for index in group["params"]]
            weight_by_index = dict(zip(indices, weights, strict=False))
            shares = {
                index: {name: share_of(value, weight_by_index.get(index)) for name, value in values.items()}
                for index, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": shares})


def share_of(value: Any, like: Any) -> Any:  # noqa: ANN401 - tensors and plain values
    """This process's share of a whole tensor, where what it is for is shared and of its shape; else the value."""
    if not isinstance(value, Tensor) or not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def shard(stage: Stage) -> None:
    """Share what a stage trains over the processes, where the Trainer's strategy is `ShardedStrategy`.

    Raises:
        UserError: The strategy is another one that shares weights.
    """
    strategy = stage.trainer.strategy
    if isinstance(strategy, ShardedStrategy):
        for module in stage.trained_modules():
            strategy.shard(module)
    elif isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
        raise UserError(
            f"trainer.strategy is {type(strategy).__name__}, under which the stages were never made to work; use "
            "lightning_modules.ShardedStrategy (--trainer experiments/trainer/fsdp.yaml)."
        )
