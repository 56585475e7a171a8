"""Sums a demo, and what is made of them: scores, with intervals over demos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Sums = Mapping[str, Array]
"""Name -> sums (..., V, T - 1), a camera and a future frame; `error`, `held` and `size` as in `SquaredErrors`, of all
pixels, and with `_moving` and `_latent` of moving pixels and of latents; `ssim` and `images`, a picture each."""

SCORES = {
    "skill": "skill",
    "skill_moving": "skill, moving",
    "psnr": "PSNR",
    "psnr_moving": "PSNR, moving",
    "psnr_still": "PSNR, still",
    "ssim": "SSIM",
    "latent_mse": "latent MSE",
    "latent_skill": "latent skill",
}
"""Score -> its title in a table."""
NUM_RESAMPLES = 2000


def scores(sums: Sums) -> dict[str, Array]:
    """Scores of sums of any shape; not a number where there is nothing to score."""
    with np.errstate(divide="ignore", invalid="ignore"):
        still = {name: sums[name] - sums[f"{name}_moving"] for name in ("error", "size")}
        return {
            "skill": _skill(sums["error"], sums["held"]),
            "skill_moving": _skill(sums["error_moving"], sums["held_moving"]),
            "psnr": _psnr(sums["error"], sums["size"]),
            "psnr_moving": _psnr(sums["error_moving"], sums["size_moving"]),
            "psnr_still": _psnr(still["error"], still["size"]),
            "ssim": sums["ssim"] / sums["images"],
            "latent_mse": sums["error_latent"] / sums["size_latent"],
            "latent_skill": _skill(sums["error_latent"], sums["held_latent"]),
        }


def _skill(error: Array, held: Array) -> Array:
    skill: Array = 1.0 - error / np.where(held > 0, held, np.nan)
    return skill


def _psnr(error: Array, size: Array) -> Array:
    mse = np.maximum(error / np.where(size > 0, size, np.nan), 1e-12)
    decibels: Array = 10.0 * np.log10(4.0 / mse)  # data range 2
    return decibels


def resamples(num_demos: int, seed: int = 0) -> Array:
    """How often each demo is drawn in each of `NUM_RESAMPLES` draws with replacement, (R, N); R is 0 for one demo."""
    if num_demos < 2:
        return np.zeros((0, num_demos))
    rng = np.random.default_rng(seed)
    drawn: Array = rng.multinomial(num_demos, np.full(num_demos, 1 / num_demos), size=NUM_RESAMPLES).astype(np.float64)
    return drawn


class Measured:
    """The scores of one row: a condition and a number of steps.

    Args:
        sums: With demos in front, (N, V, T - 1).
        drawn: `resamples` of these demos, the same for all rows, so that differences of rows are paired.

    Attributes:
        by_frame: Score -> its value, then its values in the resamples, (1 + R, V, T - 1).
        by_camera: The same with a camera's frames summed first, (1 + R, V).
        mean: The mean of the cameras in which there is something to score, (1 + R,).
    """

    def __init__(self, sums: Sums, drawn: Array) -> None:
        weights = np.concatenate([np.ones((1, drawn.shape[1])), drawn])
        totals = {name: np.tensordot(weights, value, axes=1) for name, value in sums.items()}
        self.by_frame = scores(totals)
        self.by_camera = scores({name: total.sum(-1) for name, total in totals.items()})
        self.mean = {name: _mean(value) for name, value in self.by_camera.items()}

    def document(self, cameras: Iterable[str], other: Measured) -> dict[str, Any]:
        """Every score as [value, low, high], and the difference of means to another row."""
        return {
            "mean": {name: estimate(value) for name, value in self.mean.items()},
            "difference": {name: estimate(value - other.mean[name]) for name, value in self.mean.items()},
            "cameras": {
                camera: {name: estimate(value[:, view]) for name, value in self.by_camera.items()}
                for view, camera in enumerate(cameras)
            },
            "frames": {
                camera: {name: [estimate(one) for one in value[:, view].T] for name, value in self.by_frame.items()}
                for view, camera in enumerate(cameras)
            },
        }


def _mean(values: Array) -> Array:
    """Mean over the last axis of what is a number."""
    known = np.isfinite(values)
    counts = known.sum(-1)
    mean: Array = np.where(known, values, 0.0).sum(-1) / np.where(counts > 0, counts, np.nan)
    return mean


def estimate(values: Array) -> list[float | None]:
    """A value and the 95 % percentile interval of its resamples; None where there is no number.

    Args:
        values: The value, then its resamples (1 + R,).
    """
    spread = values[1:][np.isfinite(values[1:])]
    ends = np.percentile(spread, (2.5, 97.5)) if len(spread) else (np.nan, np.nan)
    return [float(number) if np.isfinite(number) else None for number in (values[0], *ends)]
