"""Where a stage's files go, asked by everything that writes some."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer


def run_folder(trainer: Trainer) -> Path:
    """The stage's folder, whatever logs: a logger may keep its own files elsewhere, the run's files stay together."""
    return Path(trainer.default_root_dir).resolve()


def checkpoint_folder(trainer: Trainer) -> Path:
    """Where the checkpoints of a run go."""
    return run_folder(trainer) / "checkpoints"


def last_checkpoint(trainer: Trainer) -> Path:
    """The checkpoint that a run goes on from."""
    return checkpoint_folder(trainer) / "last.ckpt"
