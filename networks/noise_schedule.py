"""Denoising in discrete steps with diffusers' schedulers (Ho et al. 2020)."""

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
Prediction = Literal["epsilon", "sample", "v_prediction"]
Predict = Callable[[Tensor, Tensor], Tensor]
"""(noisy (B, ...), steps (B,)) -> what a network says of it (B, ...), see `NoiseSchedule.target`."""


class NoiseSchedule:
    """How much noise a step adds, and how it is taken out again.

    Args:
        scheduler: ``DDPMScheduler`` adds noise of its own between the steps, ``DDIMScheduler`` (Song et al. 2021) none.
        num_train_steps: Steps from data to pure noise.
        num_steps: Steps back in sampling, each a pass of the network; at most `num_train_steps`.
        beta_schedule: Noise of a step, as diffusers names it.
        clip_sample: Keep the data that each step guesses in [-1, 1].
        prediction: What the network says: the noise (``epsilon``), the data (``sample``), or in between
            (``v_prediction``, Salimans and Ho 2022). The error of the noise weighs steps of little noise most, where
            neighbouring actions tell nearly all; that of the data those of much noise, where only observations do.

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
        prediction: Prediction = "epsilon",
    ) -> None:
        for value, names in ((scheduler, SchedulerName), (beta_schedule, BetaSchedule), (prediction, Prediction)):
            if value not in get_args(names):
                raise UserError(f"schedule: {value!r} is none of {', '.join(get_args(names))}; choose one of these.")
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
        self.prediction = prediction

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, vars(self))

    def noisy(self, clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Data (B, ...) with unit noise as it is after steps (B,), counted from 0."""
        result: Tensor = self._new_scheduler().add_noise(clean, noise, steps)
        return result

    def target(self, clean: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """What a perfect network says of `noisy` data."""
        if self.prediction == "v_prediction":
            velocity: Tensor = self._new_scheduler().get_velocity(clean, noise, steps)
            return velocity
        return noise if self.prediction == "epsilon" else clean

    @torch.no_grad()
    def sample(self, predict: Predict, start: Tensor, seeds: Sequence[int]) -> Tensor:
        """Go from pure noise to data.

        Args:
            predict: The network.
            start: Unit noise (B, ...).
            seeds: One a sample, for what the scheduler adds.
        """
        scheduler, own = self._new_scheduler(), generators(seeds, "scheduler")
        scheduler.set_timesteps(self.num_steps)
        x = start
        for step in scheduler.timesteps:
            said = predict(x, step.expand(len(x)).to(x.device))
            x = scheduler.step(said, step, x, generator=own).prev_sample
        return x

    def _new_scheduler(self) -> Any:  # noqa: ANN401 - diffusers is untyped
        with torch.device("cpu"):  # also where networks are being built on the meta device
            return getattr(diffusers, self.scheduler)(
                num_train_timesteps=self.num_train_steps,
                beta_schedule=self.beta_schedule,
                clip_sample=self.clip_sample,
                prediction_type=self.prediction,
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
