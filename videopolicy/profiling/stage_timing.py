"""Seconds of a stage's training step and replan on this machine: random weights, generated data, the real Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from datamodules import Batch
from lightning_modules import PolicyStage, Stage
from simulators import EpisodeSpec, Observation, PolicyRequest
from videopolicy.errors import CommandError
from videopolicy.experiment.skeleton import make_computable
from videopolicy.profiling.estimate import Estimate, Setting
from videopolicy.profiling.stage_cost import INSTRUCTION, acts, features_in_memory, random_batch
from videopolicy.profiling.stopwatch import StepTimes, Timing, available_bytes, peak_bytes, restart_peak, time_runs

MOST_STEPS = 20


@dataclass(frozen=True)
class Measured:
    """One thing timed on this machine.

    Attributes:
        timing: Seconds.
        flop: What it computed, by estimate.
        precision: What it computed in.
        peak: Most memory taken, by name.
    """

    timing: Timing
    flop: int
    precision: str
    peak: dict[str, int]

    @property
    def flop_per_s(self) -> float:
        """Achieved speed."""
        return self.flop / self.timing.median_s


def require_memory(stage_name: str, estimate: Estimate, device: torch.device) -> None:
    """Refuse, before anything is built, what would not fit.

    Raises:
        CommandError: The estimate exceeds the memory that is free.
    """
    needed, free = estimate.memory.total(estimate.setting.batch_size), available_bytes(device)
    if free is not None and needed > free:
        raise CommandError(
            f"the {stage_name} stage needs about {needed / 1e9:.1f} GB at batch size {estimate.setting.batch_size} and "
            f"{device} has {free / 1e9:.1f} GB free; add --meta to compute the report without running anything, or "
            "make the batch smaller (-- --data.batch_size 1)."
        )


def time_training(stage: Stage, setting: Setting, flop: int, device: torch.device, enough_s: float) -> Measured:
    """Train on one generated batch again and again, in a Trainer of the experiment's precision.

    Args:
        stage: With weights, attached; it is trained.
        setting: How it is trained.
        flop: FLOPs of a step.
        device: Where.
        enough_s: Seconds of timed steps.
    """
    batch = random_batch(stage.data, setting.batch_size)
    make_computable(stage.to(device))
    times = StepTimes(enough_s)
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=setting.precision,  # type: ignore[arg-type]
        max_epochs=1,
        callbacks=[times],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    restart_peak(device)
    batches: Any = [batch] * (MOST_STEPS + 1)
    with features_in_memory(stage, moved := _moved(batch, device), setting.caches_features):
        batch.features = moved.features
        trainer.fit(stage, DataLoader(batches, batch_size=None, collate_fn=_as_it_is))
    return Measured(Timing.of(times.seconds[1:]), flop, setting.precision, peak_bytes(device))


def time_replan(stage: Any, flop: int, device: torch.device, enough_s: float) -> Measured:  # noqa: ANN401 - an action stage
    """Ask the policy for action chunks, as a rollout does: pictures in, actions out, no video.

    Args:
        stage: With weights, attached.
        flop: FLOPs of a replan.
        device: Where.
        enough_s: Seconds of timed replans.
    """
    data = stage.data
    make_computable(stage.to(device))
    assert isinstance(stage, PolicyStage), "only a policy acts"
    policy = stage.policy
    rng = np.random.default_rng(0)
    shape = (data.image_size, data.image_size, 3)
    images = {camera: rng.integers(0, 256, shape, dtype=np.uint8) for camera in data.cameras}
    observation = Observation(images, {}, INSTRUCTION, 0)
    request = PolicyRequest(observation, EpisodeSpec("profile", "none", 0), replan=0, seed=0)
    restart_peak(device)
    timing = time_runs(lambda: policy.act([request]), device, enough_s)
    precision = "32-true" if next(stage.parameters()).dtype == torch.float32 else str(next(stage.parameters()).dtype)
    return Measured(timing, flop, precision, peak_bytes(device))


def time_stage(stage: Stage, counted: Estimate, device: torch.device, enough_s: float) -> dict[str, Measured]:
    """Time what a stage does: its training step, and its replan if it acts."""
    step = counted.step.forward + counted.step.backward
    measured = {"training_step": time_training(stage, counted.setting, step, device, enough_s)}
    if acts(stage):
        measured["replan"] = time_replan(stage, sum(counted.replan.by_part.values()), device, enough_s)
    return measured


def _moved(batch: Batch, device: torch.device) -> Batch:
    tensors = {name: getattr(batch, name).to(device) for name in ("frames", "actions", "action_is_pad", "windows")}
    return Batch(**tensors, instructions=batch.instructions)


def _as_it_is(batch: Sequence[Any]) -> Any:  # noqa: ANN401 - a batch, which the DataLoader must leave alone
    return batch
