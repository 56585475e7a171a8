"""A run whose numbers stop being numbers ends, and what it saved before stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.distributed.tensor import DTensor

from callbacks.run_folder import last_checkpoint
from files.errors import UserError

SKIPPED_STEPS = 20  # with fp16 a step whose gradients overflow is left out; that many in a row do not come from scaling
EVERY_STEPS = 50  # where the trainer logs nothing
VALIDATION_LOSS = "val/loss"


class DivergedError(UserError):
    """Loss or weights are not finite; the message says since which step, and what is still whole."""


class FiniteTraining(Callback):
    """Stop a run at the first loss or weight that is NaN or infinite, before anything is saved.

    Looks at the weights whenever a checkpoint is about to be written, whoever writes it, and at the losses of all steps
    whenever values are logged and before a validation: a GPU is not made to wait at every step, and still the message
    names the step. With fp16 a lone loss that overflows is left to the scaler, which skips that step.

    Raises:
        DivergedError: On all ranks.
    """

    def __init__(self) -> None:
        self._bad_in_a_row: Tensor | None = None  # losses, counted where they are computed
        self._first_bad: Tensor | None = None  # the optimizer step (from 1) of the first of these

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to begin with broken weights, frozen ones included."""
        require_finite(trainer, dict(pl_module.named_parameters()), "that this run begins with")
        self._bad_in_a_row = torch.zeros((), dtype=torch.int64, device=pl_module.device)
        self._first_bad = torch.zeros((), dtype=torch.int64, device=pl_module.device)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Count; look at the count when it is time."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor) or self._bad_in_a_row is None or self._first_bad is None:
            return
        bad = ~loss.detach().isfinite().all()
        self._first_bad = torch.where(bad & (self._bad_in_a_row == 0), trainer.global_step, self._first_bad)
        self._bad_in_a_row = torch.where(bad, self._bad_in_a_row + 1, 0)
        cheap = pl_module.device.type == "cpu" and trainer.world_size == 1
        if (
            cheap or (batch_idx + 1) % (getattr(trainer, "log_every_n_steps", 0) or EVERY_STEPS) == 0
        ):  # the same on all ranks
            self._look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not judge what has diverged."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._look(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Weights can be finite and already useless: a validation loss tells. fp16 may overflow in it alone."""
        value = trainer.callback_metrics.get(VALIDATION_LOSS)
        if trainer.state.fn != "fit" or trainer.sanity_checking or value is None or _scaler(trainer):
            return
        if _on_any_rank(trainer, not torch.isfinite(torch.as_tensor(value)).all()):
            raise _diverged(trainer, f"{VALIDATION_LOSS} after step {trainer.global_step} is {float(value)}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at what is about to be written; every rank comes by here."""
        if trainer.state.fn == "fit":
            require_finite(trainer, _trained(pl_module), f"after step {trainer.global_step}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the result is saved and handed over."""
        self._look(trainer)
        require_finite(trainer, _trained(pl_module), f"after step {trainer.global_step}")

    def _look(self, trainer: Trainer) -> None:
        if self._bad_in_a_row is None or self._first_bad is None:
            return
        scaler = _scaler(trainer)
        count = int(self._bad_in_a_row)
        if _on_any_rank(trainer, count >= (SKIPPED_STEPS if scaler else 1)):
            step = int(self._first_bad) or trainer.global_step
            raise _diverged(trainer, f"the training loss is not finite since step {step}")


def require_finite(trainer: Trainer, tensors: Mapping[str, Tensor], which: str) -> None:
    """Refuse weights that are not finite; every rank must ask.

    Args:
        trainer: Whose ranks are asked.
        tensors: Weights by name; of sharded ones this rank's share.
        which: What weights they are, for the message.

    Raises:
        DivergedError: On all ranks, if one rank found such a weight.
    """
    by_name = {n: t.to_local() if isinstance(t, DTensor) else t.detach() for n, t in tensors.items()}
    by_name = {name: value for name, value in by_name.items() if value.is_floating_point() and not value.is_meta}
    checks = [value.isfinite().all() for value in by_name.values()]
    is_bad = bool(checks) and not bool(torch.stack([check.to(checks[0].device) for check in checks]).all())
    if _on_any_rank(trainer, is_bad):
        names = [name for name, check in zip(by_name, checks, strict=True) if not check]
        raise _diverged(
            trainer, f"{len(names)} of {len(by_name)} weights {which} are not finite ({', '.join(names[:2])})"
        )


def _trained(module: LightningModule) -> dict[str, Tensor]:
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def _diverged(trainer: Trainer, what: str) -> DivergedError:
    last: Path = last_checkpoint(trainer)
    kept = f"{last} is as it was before" if last.is_file() else "nothing was saved"
    return DivergedError(
        f"{what}, so training stops at step {trainer.global_step} and {kept}; lower the learning rate "
        "(model.optimizer.lr), or clip gradients (trainer.gradient_clip_val), and run it again."
    )


def _scaler(trainer: Trainer) -> bool:
    """Whether gradients are scaled, so that single steps may be skipped."""
    plugin = trainer.precision_plugin
    return isinstance(plugin, MixedPrecision) and plugin.scaler is not None


def _on_any_rank(trainer: Trainer, decision: bool) -> bool:
    """Whether a decision is true on some rank; every rank must ask."""
    return bool(trainer.strategy.reduce_boolean_decision(bool(decision), all=False))
