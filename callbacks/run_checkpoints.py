"""The two checkpoints of every stage: `last.ckpt` to go on from, `best.ckpt` to judge."""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.run_folder import checkpoint_folder

RANKS_AGREE_EVERY = 5  # steps; asking the other ranks costs a small collective


class LastCheckpoint(Checkpoint):
    """Keep ``checkpoints/last.ckpt`` fresh: by the clock, when the run is told to stop, and at the end.

    Saved after an optimizer step, never between the micro-batches of one, so that a resumed run repeats nothing.
    A crash does not save, for its weights may be broken.

    SIGTERM (a cluster's pre-emption; the command turns Ctrl-C into it) saves at the next step and ends the run on all
    ranks, whichever of them was told. It takes the place of Lightning's own handling, which waits for the end of the
    epoch and, with several ranks, makes them wait for one another forever.

    Args:
        every_minutes: Time between two saves.
        every_steps: Save after every so many optimizer steps as well; None saves by the clock alone.
    """

    def __init__(self, every_minutes: float = 10.0, every_steps: int | None = None) -> None:
        self.every_minutes = every_minutes
        self.every_steps = every_steps
        self.folder = Path()
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._seen_step = 0
        self._told_to_stop = False
        self._is_between_steps = True  # and not between the micro-batches of one

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the run's folder."""
        self.folder = checkpoint_folder(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a resumed run has just been saved."""
        self._saved_at = time.monotonic()
        self._saved_step = self._seen_step = trainer.global_step
        self._told_to_stop = False
        self._is_between_steps = True
        if threading.current_thread() is threading.main_thread():  # Lightning puts the old handler back at the end
            signal.signal(signal.SIGTERM, self._remember_to_stop)

    def _remember_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._told_to_stop = True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Save if it is time and a step has just been taken."""
        step = trainer.global_step
        self._is_between_steps = step != self._seen_step
        if not self._is_between_steps or is_dry_run(trainer):
            return
        self._seen_step = step
        due = self.every_steps is not None and step - self._saved_step >= self.every_steps
        stop = False
        if trainer.world_size == 1 or step % RANKS_AGREE_EVERY == 0:
            late = time.monotonic() - self._saved_at >= 60 * self.every_minutes
            if _any_rank(trainer, late or self._told_to_stop):
                due, stop = True, _any_rank(trainer, self._told_to_stop)
        if due:
            self._save(trainer)
        if stop:
            raise SIGTERMException

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Do not let a long validation use up the time that a cluster leaves; `on_exception` saves.

        One that falls between micro-batches goes on to its end, and the run ends after the step that is under way.
        """
        if self._told_to_stop and self._is_between_steps and trainer.world_size == 1 and trainer.state.fn == "fit":
            raise SIGTERMException

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where the run is stopped from outside, between two steps."""
        stopped = isinstance(exception, SIGTERMException) and trainer.state.fn == "fit" and not is_dry_run(trainer)
        if stopped and self._is_between_steps and trainer.global_step > self._saved_step:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the result."""
        if not is_dry_run(trainer):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.global_step == 0:
            return
        trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step


class BestCheckpoint(ModelCheckpoint):
    """Keep ``checkpoints/best.ckpt``, the weights with the best value of one logged metric.

    It holds no optimizer state. Validations that do not log the metric are passed over; a value that is no number is
    never the best, which is warned of.

    Args:
        monitor: A logged metric. None means ``rollout/success_rate`` where a callback rolls the policy out, and
            ``val/loss`` elsewhere; the command decides that.
        mode: Whether the best is the ``min`` or the ``max``.
    """

    def __init__(self, monitor: str | None = None, mode: str = "min") -> None:
        super().__init__(
            filename="best",
            monitor=monitor or "val/loss",
            mode=mode,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self._is_saving = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the run's folder."""
        self.dirpath = str(checkpoint_folder(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, where the metric is there and a number."""
        value = trainer.callback_metrics.get(str(self.monitor))
        if value is None:
            return
        if not math.isfinite(float(value)):
            warnings.warn(
                f"best_checkpoint.monitor: {self.monitor} is {float(value)} after step {trainer.global_step}; "
                "best.ckpt stays as it is.",
                stacklevel=2,
            )
            return
        self._is_saving = True
        super().on_validation_end(trainer, pl_module)
        self._is_saving = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Drop what only a resumed run needs.

        ``save_weights_only`` would do so too, but skips the other callbacks: averaged weights and the rollout protocol
        would be missing.
        """
        for key in ("optimizer_states", "lr_schedulers", "raw_weights") if self._is_saving else ():
            checkpoint.pop(key, None)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the best value, also in a run directory that was moved."""
        path = str(Path(str(self.dirpath)) / "best.ckpt")
        there = {key: path if state_dict[key] else "" for key in ("best_model_path", "kth_best_model_path")}
        best = dict(zip([path], state_dict["best_k_models"].values(), strict=False))  # one entry, or none yet
        super().load_state_dict({**state_dict, **there, "best_k_models": best, "dirpath": self.dirpath})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so if the metric never came."""
        missing = not self.best_model_path and not is_dry_run(trainer) and trainer.enable_validation
        if missing and trainer.is_global_zero:
            warnings.warn(
                f"best_checkpoint.monitor: {self.monitor!r} was never logged, so there is no best.ckpt; "
                f"logged were {', '.join(sorted(trainer.callback_metrics))}.",
                stacklevel=2,
            )


def _any_rank(trainer: Trainer, decision: bool) -> bool:
    """Whether a decision is true on some rank; every rank must ask."""
    return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))


def is_dry_run(trainer: Trainer) -> bool:
    """Whether this is a ``fast_dev_run``, which leaves no files."""
    return bool(getattr(trainer, "fast_dev_run", False))
