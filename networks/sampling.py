"""Samplers: diffusers' schedulers run on our noise levels, for any number of things denoised together."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

from files.errors import UserError
from networks.component_config import describe
from networks.randomness import generators

Denoise = Callable[[tuple[Tensor, ...], Tensor], tuple[Tensor, ...]]
"""(noisy tensors (B, ...), sigma (B,)) -> clean tensors of the same shapes."""

SCHEDULERS = (  # those that take our noise levels and clean predictions, checked in tests/networks/test_sampling.py
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
SCHEDULER_DEFAULTS = {  # latents are not bounded; every level is used once; the last step is a plain one
    "clip_sample": False,
    "thresholding": False,
    "timestep_spacing": "leading",
    "lower_order_final": True,
}


class Sampler:
    """How samples are drawn: noise levels, guidance, and the scheduler that steps between the levels.

    The levels follow Karras et al. 2022 (equation 5): evenly spaced in sigma^(1/rho), then 0.

    Args:
        num_steps: Noise levels above 0; with most schedulers the number of network passes.
        sigma_max: First level.
        sigma_min: Last level above 0.
        rho: Larger puts more steps at low noise.
        guidance: g of classifier-free guidance, unconditional + g (conditional - unconditional); 1 asks for no
            unconditional pass.
        scheduler: Name of a diffusers scheduler class.
        scheduler_options: Further arguments of that class.

    Raises:
        UserError: A value out of range, or a scheduler or option that does not exist.
    """

    def __init__(
        self,
        num_steps: int = 30,
        sigma_max: float = 700.0,
        sigma_min: float = 0.002,
        rho: float = 7.0,
        guidance: float = 2.0,
        scheduler: str = "EulerDiscreteScheduler",
        scheduler_options: dict[str, Any] | None = None,
    ) -> None:
        if num_steps < 1 or not 0 < sigma_min <= sigma_max or rho <= 0:
            raise UserError(
                f"sampler: num_steps {num_steps}, sigma_min {sigma_min}, sigma_max {sigma_max}, rho {rho}; "
                "needed are num_steps >= 1, 0 < sigma_min <= sigma_max and rho > 0."
            )
        self.num_steps = num_steps
        self.sigma_max = sigma_max
        self.sigma_min = sigma_min
        self.rho = rho
        self.guidance = guidance
        self.scheduler = scheduler
        self.scheduler_options = dict(scheduler_options or {})
        self._new_scheduler()  # a wrong name or option fails here, not in the first rollout

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        names = ("num_steps", "sigma_max", "sigma_min", "rho", "guidance", "scheduler", "scheduler_options")
        return describe(self, {name: getattr(self, name) for name in names})

    @property
    def is_stochastic(self) -> bool:
        """Whether the scheduler adds noise between the levels."""
        sde = str(self.scheduler_options.get("algorithm_type", "")).startswith("sde")
        return sde or self.scheduler == "DDPMScheduler"

    def sigmas(self) -> Tensor:
        """Noise levels (num_steps + 1,), descending, 0 at the end."""
        with torch.device("cpu"):  # also where networks are being built on the meta device
            ramp = torch.linspace(0, 1, self.num_steps, dtype=torch.float64)
            high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
            return torch.cat([(high + ramp * (low - high)) ** self.rho, torch.zeros(1, dtype=torch.float64)]).float()

    def first_level(self, like: Tensor) -> Tensor:
        """`sigma_max` for every sample of a batch, (B,)."""
        return like.new_full((len(like),), self.sigma_max)

    @torch.no_grad()
    def sample(
        self,
        denoise: Denoise,
        start: tuple[Tensor, ...],
        seeds: Sequence[int] | None = None,
    ) -> tuple[Tensor, ...]:
        """Denoise from `sigma_max` to 0, all tensors at the same levels.

        Args:
            denoise: The denoiser, guidance included (see `guided`).
            start: Noisy tensors at `sigma_max`, each (B, ...), as `Preconditioning.pure_noise` gives them.
            seeds: One a sample, which a stochastic scheduler needs: each draws what it adds from a stream of its own.
        """
        schedulers = [self._new_scheduler() for _ in start]  # multistep schedulers remember what they stepped
        first = schedulers[0]
        scaled = first.init_noise_sigma == 1.0  # these schedulers work on x / sqrt(sigma² + 1)
        options = {"generator": generators(seeds or (), "scheduler")} if self.is_stochastic else {}
        assert seeds is not None or not self.is_stochastic, f"{self.scheduler} draws noise, so name its seeds"
        x = tuple(t / (_level(first, first.timesteps[0]) ** 2 + 1) ** 0.5 if scaled else t for t in start)
        for timestep in first.timesteps:
            sigma = _level(first, timestep)
            noisy = tuple(t * (sigma**2 + 1) ** 0.5 for t in x) if scaled else x
            clean = denoise(noisy, torch.full((len(x[0]),), sigma, device=x[0].device, dtype=x[0].dtype))
            for scheduler, tensor in zip(schedulers, x, strict=True):
                scheduler.scale_model_input(tensor, timestep)  # sets its step index; the denoiser scales by itself
            steps = zip(schedulers, clean, x, strict=True)
            x = tuple(_step(s, c.to(t.dtype), timestep, t, options) for s, c, t in steps)
        return x

    def _new_scheduler(self) -> Any:  # noqa: ANN401 - diffusers is untyped
        """A scheduler that predicts clean data and steps over `sigmas()`.

        Its training schedule is set to have exactly our levels, so that every class understands them.
        """
        if self.scheduler not in SCHEDULERS:
            raise UserError(f"sampler: no scheduler {self.scheduler!r}; choose one of {', '.join(SCHEDULERS)}.")
        cls = getattr(diffusers, self.scheduler)
        sigmas = self.sigmas()
        ours = {"num_train_timesteps": self.num_steps, "trained_betas": _betas(sigmas), "prediction_type": "sample"}
        known = set(inspect.signature(cls.__init__).parameters) - {"self", *ours}
        if unknown := sorted(set(self.scheduler_options) - known):
            raise UserError(
                f"sampler: {self.scheduler} has no option {unknown} for scheduler_options; it has {sorted(known)}."
            )
        defaults = {name: value for name, value in SCHEDULER_DEFAULTS.items() if name in known}
        with torch.device("cpu"):
            scheduler = cls(**ours, **defaults | self.scheduler_options)
            scheduler.set_timesteps(self.num_steps)
            if hasattr(scheduler, "sigmas") and scheduler.sigmas.shape == sigmas.shape:
                scheduler.sigmas = sigmas  # undo float32 rounding of the way over betas
                scheduler.timesteps = torch.arange(self.num_steps - 1, -1, -1).to(scheduler.timesteps.dtype)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        return scheduler


def guided(clean: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) on clean predictions.

    Args:
        clean: Predictions of a doubled batch (2B, ...), conditional first.
        guidance: 1 leaves the conditional prediction as it is.
    """
    conditional, unconditional = clean.chunk(2)
    return unconditional + guidance * (conditional - unconditional)


def _step(scheduler: Any, clean: Tensor, timestep: Tensor, x: Tensor, options: dict[str, Any]) -> Tensor:  # noqa: ANN401
    """The sample after one step; Euler keeps float64, where diffusers goes through float32."""
    stepped: Tensor = scheduler.step(clean, timestep, x, **options).prev_sample
    if x.dtype == torch.float64 and isinstance(scheduler, diffusers.EulerDiscreteScheduler):
        sigma, following = scheduler.sigmas[scheduler.step_index - 1 : scheduler.step_index + 1].tolist()
        exact: Tensor = x + (following - sigma) * (x - clean) / sigma
        return exact
    return stepped


def _betas(sigmas: Tensor) -> list[float]:
    """Variances of the diffusion steps at whose ends the levels are sigmas (descending, 0 last)."""
    alphas_cumprod = 1 / (1 + sigmas.double().flip(0).square())  # of levels 0, sigma_min, ..., sigma_max
    betas: list[float] = (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).tolist()
    return betas


def _level(scheduler: Any, timestep: Tensor) -> float:  # noqa: ANN401 - diffusers is untyped
    """Noise level that the scheduler believes its sample has now."""
    if hasattr(scheduler, "sigmas"):
        return float(scheduler.sigmas[scheduler.step_index or 0])
    alpha = scheduler.alphas_cumprod[int(timestep)]
    return float(((1 - alpha) / alpha) ** 0.5)
