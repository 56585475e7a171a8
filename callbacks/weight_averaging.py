"""Exponential moving average of what a stage trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from files.errors import UserError
from lightning_modules.policy_stage import PREFIX


class TrainableWeightAveraging(Callback):
    """Keep an exponential moving average of the trainable weights, and use it wherever the model is judged.

    Validation, rollouts, checkpoints' ``state_dict`` and the handoff see the average; the optimizer goes on with the
    raw weights, which travel in the callback's own state, so that a resumed run continues exactly. Frozen weights (a
    1.5 B U-Net in stage 2, the autoencoder, the text tower) are neither copied nor averaged, which is why Lightning's
    ``EMAWeightAveraging`` is not used.

    Args:
        decay: Weight of the past in ``average = decay * average + (1 - decay) * weights`` after every optimizer step.
        warmup: Average with ``min(decay, (1 + n) / (10 + n))`` at step n, so that short runs forget their start. A
            number p is Diffusion Policy's rule, ``min(decay, 1 - n**-p)`` (published: .75), which forgets it faster.

    Raises:
        UserError: Under FSDP, where the trainable weights are shards, or beside another average.
    """

    def __init__(self, decay: float = 0.999, warmup: bool | float = True) -> None:
        if not isinstance(warmup, bool) and warmup <= 0:
            raise UserError(f"averaging.warmup is {warmup}; it must be true, false or a power above 0, such as 0.75.")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"TrainableWeightAveraging.decay is {decay}; it must lie in [0, 1).")
        self.decay = decay
        self.warmup = warmup
        self.average_by_name: dict[str, Tensor] = {}
        self._raw_by_name: dict[str, Tensor] = {}  # filled while the averages stand in the model
        self._num_averaged = 0
        self._last_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a second average, and strategies whose weights this callback would not see whole."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, TrainableWeightAveraging) for callback in callbacks) > 1:
            raise UserError(
                "TrainableWeightAveraging stands twice in the trainer's callbacks and would average its own average; "
                "leave the second out."
            )
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise UserError(
                "TrainableWeightAveraging does not work under FSDP, which shards the weights: set averaging to null, "
                "or use trainer.strategy ddp."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the current weights; a resumed run brings its own averages."""
        weights = _trainable(pl_module)
        if not self.average_by_name:
            self.average_by_name = {name: weight.detach().clone() for name, weight in weights.items()}
        self.average_by_name = {name: value.to(weights[name]) for name, value in self.average_by_name.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count on from the step that is restored by now."""
        self._last_step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Average once an optimizer step, not once a micro-batch."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        count = self._num_averaged
        decay = min(self.decay, self._warm_up(count))
        weights = _trainable(pl_module)
        averages = [self.average_by_name[name] for name in weights]
        get_ema_multi_avg_fn(decay)(averages, [weight.detach() for weight in weights.values()], count)
        self._num_averaged += 1

    def _warm_up(self, count: int) -> float:
        """Largest decay after so many steps."""
        if isinstance(self.warmup, bool):
            return (1 + count) / (10 + count) if self.warmup else 1.0
        largest: float = 1.0 - max(1, count) ** -self.warmup
        return largest

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge the average."""
        self._swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on training the raw weights."""
        self._swap_out(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the raw weights behind when a validation is interrupted."""
        self._swap_out(pl_module)

    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The average is the result of the run."""
        self._swap_in(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Every checkpoint is written: the raw weights are no longer needed."""
        self._raw_by_name = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the averages into the model's part of the checkpoint and the raw weights beside them."""
        if not self.average_by_name:
            return
        state = checkpoint["state_dict"]
        raw = {name: self._raw_by_name.get(name, state[name]) for name in self.average_by_name}
        checkpoint["raw_weights"] = {name: value.detach().clone() for name, value in raw.items()}
        checkpoint["num_averaged"] = self._num_averaged
        state.update(self.average_by_name)

    @torch.no_grad()
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue from the raw weights when fitting; judge the averages otherwise."""
        if "raw_weights" not in checkpoint or trainer.state.fn != "fit":
            return
        raw = checkpoint["raw_weights"]
        self.average_by_name = {name: checkpoint["state_dict"][name].clone() for name in raw}
        self._num_averaged = int(checkpoint["num_averaged"])
        for name, weight in _trainable(pl_module).items():  # the model itself was restored before the callbacks
            weight.copy_(raw[name])

    @contextmanager
    def averaged(self, pl_module: LightningModule) -> Iterator[None]:
        """Let the averages stand in the model for a while."""
        already_in = bool(self._raw_by_name)
        self._swap_in(pl_module)
        try:
            yield
        finally:
            if not already_in:
                self._swap_out(pl_module)

    @torch.no_grad()
    def _swap_in(self, pl_module: LightningModule) -> None:
        if self._raw_by_name or not self.average_by_name:
            return
        weights = _trainable(pl_module)
        self._raw_by_name = {name: weight.detach().clone() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.copy_(self.average_by_name[name])

    @torch.no_grad()
    def _swap_out(self, pl_module: LightningModule) -> None:
        for name, weight in _trainable(pl_module).items() if self._raw_by_name else ():
            weight.copy_(self._raw_by_name[name])
        self._raw_by_name = {}


def _trainable(pl_module: LightningModule) -> dict[str, Tensor]:
    """Trainable weights by their names in a checkpoint."""
    weights = pl_module.named_parameters()
    return {name.removeprefix(PREFIX): weight for name, weight in weights if weight.requires_grad}
