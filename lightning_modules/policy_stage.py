"""The stage that trains a policy, whichever it is."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from datamodules import Batch, Preprocessing
from lightning_modules.stage import Stage, adam_1e5
from policies import Policy

PREFIX = "policy."  # of the policy's weights inside the stage; files name them without it


class PolicyStage(Stage):
    """Lower a policy's loss on demos; a checkpoint of the run is all that a rollout needs.

    Logs ``train/loss`` and the loss's other parts; on validation ``val/loss`` with theirs and, from sampled actions of
    the first windows, ``val/action_error`` (mean absolute error in the demos' units) and ``val_action_error/step_<k>``
    along the horizon.

    Args:
        policy: What is trained.
        optimizer: Called with the policy's parameter groups.
        lr_scheduler: Called with the optimizer, stepped after every optimizer step. None keeps the rate constant.
        num_predicted: Windows whose actions are sampled in a validation epoch, rounded up to equally many a rank.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: OptimizerCallable = adam_1e5,
        lr_scheduler: LRSchedulerCallable | None = None,
        num_predicted: int = 32,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.policy = policy
        self.num_predicted = num_predicted
        self.register_state_dict_post_hook(_named_as_the_policys)
        self.register_load_state_dict_pre_hook(_named_as_the_stages)

    def attach(self, preprocessing: Preprocessing) -> None:
        """Let the policy build what depends on the data."""
        self.policy.attach(preprocessing)
        super().attach(preprocessing)

    @property
    def uses_future_frames(self) -> bool:
        """Whether frames after the current one are looked at; the datamodule reads none if not."""
        return self.policy.needs_future_frames

    def networks(self) -> list[nn.Module]:
        """The policy's."""
        return self.policy.networks()

    def network_config(self) -> dict[str, Any]:
        """The policy's."""
        return self.policy.network_config()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The policy's."""
        return self.policy.parameter_groups()

    # --- training and validation ----------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The policy's loss, weighted; what is logged is not."""
        losses = self.policy.loss(batch)
        self.log_batch({"train/loss": losses["loss"]}, batch, train=True)
        if parts := {f"train/{name}": value.detach() for name, value in losses.items() if name != "loss"}:
            self.log_dict(parts, batch_size=len(batch))
        return self.policy.loss_weight * losses["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Losses with draws named by the window; errors of actions sampled for the first windows."""
        if not len(batch):  # no demo is held out, but rollouts hang on the validation
            return
        self.log_batch({f"val/{name}": value for name, value in self.policy.loss(batch).items()}, batch)
        if (part := self.to_predict(batch)) is not None:
            self.log_sampled(part)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Test as validation does."""
        self.validation_step(batch, batch_idx)

    @torch.no_grad()
    def log_sampled(self, batch: Batch) -> None:
        """Sample the actions of a batch as a rollout does, and log how far they are from the demos'."""
        self.log_action_error(self.policy.sample_batch(batch)[0], batch)

    def log_action_error(self, actions: Tensor, batch: Batch) -> None:
        """Log the mean error over recorded steps, in the demos' units.

        Args:
            actions: Sampled and still normalised (B, A, D).
            batch: What they were sampled for.
        """
        predicted, true = (self.data.denormalize_actions(value.float()) for value in (actions, batch.actions))
        real = (~batch.action_is_pad).float()
        total, counts = ((predicted - true).abs().mean(dim=-1) * real).sum(dim=0), real.sum(dim=0)
        for step, (error, count) in enumerate(zip(total / counts.clamp(min=1.0), counts.tolist(), strict=True)):
            self.log(f"val_action_error/step_{step:02d}", error, batch_size=int(count), sync_dist=True)
        mean = total.sum() / counts.sum().clamp(min=1.0)
        self.log("val/action_error", mean, batch_size=int(counts.sum()), sync_dist=True)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add how to build the policy without the experiment file."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["policy"] = self.policy.config


def _named_as_the_policys(_: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    """Name the policy's weights in a state dict as the policy does."""
    for name in [name for name in state if name.startswith(prefix + PREFIX)]:
        state[prefix + name.removeprefix(prefix + PREFIX)] = state.pop(name)


def _named_as_the_stages(stage: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Undo `_named_as_the_policys` before a state dict is loaded."""
    parts = {name for name, _ in stage.get_submodule("policy").named_children()}
    for name in [name for name in state if name.removeprefix(prefix).split(".")[0] in parts]:
        state[prefix + PREFIX + name.removeprefix(prefix)] = state.pop(name)
