"""Denoising in discrete steps with diffusers' schedulers: the network predicts the noise (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import diffusers
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from files.errors import UserError
from networks.component_config import describe
from networks.inference import as_weights
from networks.randomness import generators

SchedulerName = Literal["DDPMScheduler", "DDIMScheduler"]
BetaSchedule = Literal["squaredcos_cap_v2", "linear", "scaled_linear"]
PredictNoise = Callable[[Tensor, Tensor], Tensor]
"""(noisy (B, ...), steps (B,)) -> the noise in it (B, ...)."""


class NoiseSchedule:
    """How much noise a step adds, and how it is taken out again.

    Args:
        scheduler: ``DDPMScheduler`` adds noise of its own between the steps, ``DDIMScheduler`` (Song et al. 2021) none.
        num_train_steps: Steps from data to pure noise.
        num_steps: Steps back in sampling, each a pass of the network; at most `num_train_steps`.
        beta_schedule: Noise of a step, as diffusers names it.
        clip_sample: Keep the data that each step guesses in [-1, 1].

    Raises:
        UserError: A value out of range, or an unknown name.
    """

    def __init__(
        self,
        scheduler: SchedulerName = "DDPMScheduler",
        num_train_steps: int = 100,
        num_steps: int = 100,
        beta_schedule: BetaSchedule = "squaredcos_cap_v2",
        clip_sample: bool = True,
    ) -> None:
        if scheduler not in get_args(SchedulerName) or beta_schedule not in get_args(BetaSchedule):
            raise UserError(
                f"schedule: {scheduler!r} with {beta_schedule!r}; choose one of {get_args(SchedulerName)} and one of "
                f"{get_args(BetaSchedule)}."
            )
        if not 1 <= num_steps <= num_train_steps:
            raise UserError(
                f"schedule: num_steps is {num_steps} and num_train_steps {num_train_steps}; it must be from "
                "1 to that many."
            )
        self.scheduler = scheduler
        self.num_train_steps = num_train_steps
        self.num_steps = num_steps
        self.beta_schedule = beta_schedule
        self.clip_sample = clip_sample

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, vars(self))

    def noisy(self, clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Data (B, ...) with unit noise as it is after steps (B,), counted from 0."""
        result: Tensor = self._new_scheduler().add_noise(clean, noise, steps)
        return result

    @torch.no_grad()
    def sample(self, predict_noise: PredictNoise, start: Tensor, seeds: Sequence[int]) -> Tensor:
        """Go from pure noise to data.

        Args:
            predict_noise: The network.
            start: Unit noise (B, ...).
            seeds: One a sample, for what the scheduler adds.
        """
        scheduler, own = self._new_scheduler(), generators(seeds, "scheduler")
        scheduler.set_timesteps(self.num_steps)
        x = start
        for step in scheduler.timesteps:
            noise = predict_noise(x, step.expand(len(x)).to(x.device))
            x = scheduler.step(noise, step, x, generator=own).prev_sample
        return x

    def _new_scheduler(self) -> Any:  # noqa: ANN401 - diffusers is untyped
        with torch.device("cpu"):  # also where networks are being built on the meta device
            return getattr(diffusers, self.scheduler)(
                num_train_timesteps=self.num_train_steps,
                beta_schedule=self.beta_schedule,
                clip_sample=self.clip_sample,
                prediction_type="epsilon",
            )


class StepEmbedding(nn.Module):
    """A step's number as sines and cosines and a linear layer: Diffusion Policy's, up to its activation.

    Args:
        dim: Sines and cosines; even.

    Shape:
        - steps: (B,)
        - output: (B, 4 * dim), for `ActionUNet`, which goes on with its activation and a linear layer
    """

    def __init__(self, dim: int = 128) -> None:
        super().__init__()
        self.dim, self.emb_dim = dim, 4 * dim
        self.linear = nn.Linear(dim, self.emb_dim)

    def forward(self, steps: Tensor) -> Tensor:
        """Embed steps."""
        waves = get_timestep_embedding(steps, self.dim, downscale_freq_shift=1)
        result: Tensor = self.linear(as_weights(waves, self.linear))
        return result
