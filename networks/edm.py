"""Preconditioning and loss of the denoiser (Karras et al. 2022, "EDM", arXiv 2206.00364, section 5).

Everything here is computed in float32 (or better), whatever precision the networks around it run in.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from files.errors import UserError
from networks.component_config import describe


def c_noise(sigma: Tensor) -> Tensor:
    """Noise level as the networks read it: ln(sigma) / 4."""
    return sigma.log() / 4


class Preconditioning(nn.Module, ABC):
    """Denoiser D = center + c_skip (x - center) + c_out F(c_in (x - center), c_noise) of data with spread s_d.

    c_skip = s_d² / (s² + s_d²), c_out = ± s s_d / √(s² + s_d²), c_in = 1 / √(s² + s_d²) (EDM, equation 7, table 1). A
    subclass says where the data is centred and how far it spreads.

    Shape:
        - sigma: (B,)
        - noisy, net_output, clean: (B, R, ...), R rows (video frames or action steps)
        - cond: as noisy, or None where the preconditioning does not look at it
    """

    out_sign = 1.0

    @abstractmethod
    def center(self, cond: Tensor | None) -> Tensor | float:
        """Expected data, subtracted before everything else."""

    @abstractmethod
    def data_std(self) -> Tensor | float:
        """Spread s_d of the data around its centre: a number, or (R, ...)."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""

    @property
    def fitted(self) -> bool:
        """Whether it knows all it needs of the data; if not, `update` and `finish` come first."""
        return True

    def update(self, clean: Tensor, cond: Tensor) -> None:
        """Take in one batch of latents and conditioning latents, both (B, R, ...)."""
        raise UserError(f"{type(self).__name__} has nothing to fit to data.")

    def finish(self) -> None:
        """Turn what `update` saw into statistics."""
        raise UserError(f"{type(self).__name__} has nothing to fit to data.")

    def scalings(self, sigma: Tensor, ndim: int) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in), each broadcastable to a tensor of `ndim` axes."""
        s = _exact(sigma).reshape(-1, *[1] * (ndim - 1))
        std = self.data_std()
        total = s.square() + std**2
        return std**2 / total, self.out_sign * s * std / total.sqrt(), total.rsqrt()

    def net_input(self, noisy: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """What the network sees: the noisy data centred and scaled to unit variance."""
        _, _, c_in = self.scalings(sigma, noisy.ndim)
        return c_in * (_exact(noisy) - self.center(cond))

    def denoised(self, net_output: Tensor, noisy: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """Clean data that a raw network output stands for."""
        c_skip, c_out, _ = self.scalings(sigma, noisy.ndim)
        center = self.center(cond)
        return center + c_skip * (_exact(noisy) - center) + c_out * _exact(net_output)

    def pure_noise(self, noise: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """Start of sampling from unit noise: centre plus noise as wide as noised data, √(s² + s_d²).

        The network then sees the noise itself, at every level.
        """
        _, _, c_in = self.scalings(sigma, noise.ndim)
        return _exact(noise) / c_in + self.center(cond)

    def loss_weight(self, sigma: Tensor, ndim: int) -> Tensor:
        """1 / c_out²: with it the denoiser's squared error is the raw network's, of unit size at every level."""
        _, c_out, _ = self.scalings(sigma, ndim)
        return c_out.square().reciprocal()

    def row_losses(self, denoised: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """Weighted squared error of each row, averaged over its elements: (B, R)."""
        error = self.loss_weight(sigma, clean.ndim) * (_exact(denoised) - _exact(clean)).square()
        return error.flatten(2).mean(-1)


class EDMPreconditioning(Preconditioning):
    """The published one: data centred on zero, with Stable Video Diffusion's sign of the output (v-prediction).

    Args:
        sigma_data: Standard deviation of the data.
    """

    out_sign = -1.0

    def __init__(self, sigma_data: float = 1.0) -> None:
        super().__init__()
        if sigma_data <= 0:
            raise UserError(f"EDM preconditioning: sigma_data is {sigma_data}; it must be positive.")
        self.sigma_data = sigma_data

    def center(self, cond: Tensor | None) -> float:
        """Zero."""
        return 0.0

    def data_std(self) -> float:
        """The same for every element."""
        return self.sigma_data

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, {"sigma_data": self.sigma_data})


class ResidualPreconditioning(Preconditioning):
    """A denoiser centred on the conditioning frame: it only has to learn what changes.

    The residual's standard deviation is measured for every latent element of every row, so that still background costs
    the network nothing. On small runs this halves the error at low noise against `EDMPreconditioning`. It is measured
    on data before training: call `update` with a few hundred samples, then `finish`; the result travels in the state
    dict.

    Args:
        floor: Smallest standard deviation, in latent units: no element is taken for perfectly still.
    """

    std: Tensor

    def __init__(self, floor: float = 0.03) -> None:
        super().__init__()
        if floor <= 0:
            raise UserError(f"residual preconditioning: floor is {floor}; it must be positive.")
        self.floor = floor
        self.register_buffer("std", torch.empty(0))  # (R, c, h, w) once fitted
        self._sum: Tensor | None = None
        self._count = 0

    @property
    def fitted(self) -> bool:
        """Whether the standard deviations are known."""
        return self.std.numel() > 0

    @torch.no_grad()
    def update(self, clean: Tensor, cond: Tensor) -> None:
        """Take in one batch of latents and their conditioning frames, both (B, R, c, h, w)."""
        if clean.shape != cond.shape:
            raise UserError(
                f"residual preconditioning: latents are {tuple(clean.shape)}, conditions {tuple(cond.shape)}; "
                "they must be of one shape."
            )
        total = (_exact(clean) - _exact(cond)).square().sum(0, dtype=torch.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(clean)

    @torch.no_grad()
    def finish(self) -> None:
        """Turn what `update` saw into standard deviations, and forget it."""
        if self._sum is None:
            raise UserError("residual preconditioning: no data to fit to; call `update` with at least one batch first.")
        self.std = (self._sum / self._count + self.floor**2).sqrt().to(self.std)
        self._sum, self._count = None, 0

    def center(self, cond: Tensor | None) -> Tensor:
        """The conditioning frame of each row."""
        assert cond is not None, "a residual preconditioning needs the conditioning latents"
        return _exact(cond)

    def data_std(self) -> Tensor:
        """Measured standard deviation of each element of each row."""
        if not self.fitted:
            raise UserError(
                "residual preconditioning: used before it was fitted to data; "
                "run the video stage (it fits at its start), or load a checkpoint of it."
            )
        return _exact(self.std)

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, {"floor": self.floor})

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Take the shape of the stored buffer, which only the data decides."""
        stored = state_dict.get(f"{prefix}std")
        if isinstance(stored, Tensor) and stored.shape != self.std.shape:
            self.std = self.std.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class PooledResidualPreconditioning(ResidualPreconditioning):
    """The same with one standard deviation for all elements of all rows, so that the loss is about what moves.

    With a deviation of its own every element counts alike, still background as much as the arm. Small networks trained
    for minutes then predict motion worse (benchmarks/2026-11-29_small_video_network.md).
    """

    @torch.no_grad()
    def finish(self) -> None:
        """Pool what `update` saw into one number."""
        super().finish()
        self.std = self.std.square().mean().sqrt().reshape(1)


def mean_over_rows(*row_losses: Tensor) -> Tensor:
    """Mean over all rows of all modalities together, so that each counts by its number of rows (25/57 and 32/57)."""
    return torch.cat([rows.flatten() for rows in row_losses]).mean()


def _exact(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
