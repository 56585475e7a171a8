"""How far a stage is: a rich bar on a terminal, a line a minute in a log file."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class StageProgress(RichProgressBar):
    """Show the stage's steps, their rate and the time that is left until its limit.

    The bar itself counts the batches of an epoch; ``step`` and ``left`` beside it are those of the whole stage. Where
    the output is no terminal (a cluster's log), plain lines take the bar's place.

    Args:
        stage: Name in front of a line.
        every_seconds: Time between two lines.
    """

    def __init__(self, stage: str, every_seconds: float = 60.0) -> None:
        super().__init__()
        self.stage = stage
        self.every_seconds = every_seconds
        self._started_at = self._shown_at = time.monotonic()
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._started_at = self._shown_at = time.monotonic()
        self._first_step = trainer.global_step

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Metrics of the module's progress bar, then the place in the stage."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {**metrics, **self.place(trainer)}

    def _get_train_description(self, current_epoch: int) -> str:
        """Name the stage; Lightning's own text reads ``Epoch 0/-2`` where steps are the limit."""
        return f"{self.stage} stage, epoch {current_epoch}"

    def place(self, trainer: Trainer) -> dict[str, str]:
        """Step of how many, and the time left at the rate so far."""
        total = total_steps(trainer)
        step = trainer.global_step
        done = step - self._first_step
        if total is None:
            return {"step": str(step)}
        place = {"step": f"{step}/{total}"}
        if done > 0:
            seconds = (time.monotonic() - self._started_at) / done * max(total - step, 0)
            place["left"] = str(timedelta(seconds=round(seconds)))
        return place

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Move the bar, or print a line when it is time."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        now = time.monotonic()
        if sys.stdout.isatty() or not trainer.is_global_zero or now - self._shown_at < self.every_seconds:
            return
        self._shown_at = now
        rate = (trainer.global_step - self._first_step) / (now - self._started_at)
        values = " ".join(f"{name} {_plain(value)}" for name, value in self.get_metrics(trainer, pl_module).items())
        print(f"{self.stage} stage: epoch {trainer.current_epoch} {values} ({rate:.2f} steps/s)", flush=True)


def total_steps(trainer: Trainer) -> int | None:
    """Optimizer steps until the trainer's limit, or None where it has none that is known."""
    steps = trainer.estimated_stepping_batches
    return None if steps in (-1, float("inf")) else int(steps)


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
