"""Intervals that count both the training seeds and the held-out episodes that a rate happens to rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rollouts.statistics import mean_interval

NUM_DRAWS = 4000
METHOD = (
    "95 % intervals by a hierarchical bootstrap: training seeds are drawn anew, and the held-out episodes of every "
    "task, which are the same for all seeds and rows, so differences are of pairs"
)
ONE_SEED = "one training seed: the interval counts the episodes alone, not how trainings differ"


@dataclass(frozen=True)
class Estimate:
    """A mean over training seeds, tasks and episodes.

    Attributes:
        mean: Mean over tasks of the mean over their episodes and the seeds.
        low: Lower end of its 95 % interval.
        high: Upper end.
        num_seeds: Training seeds; with one the interval counts the episodes alone.
        num_episodes: Episodes of each seed.
    """

    mean: float
    low: float
    high: float
    num_seeds: int
    num_episodes: int


def estimate(outcomes: npt.NDArray[np.float64], tasks: Sequence[str]) -> Estimate:
    """Mean of outcomes with its interval, by drawing seeds and episodes anew with replacement.

    Seeds and episodes are crossed (A. B. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007)
    386-411): a draw of episodes holds for all seeds. Of S seeds S - 1 are drawn at a time, and so of the episodes of a
    task, with which the variance of a mean is right for few (P. J. McCarthy and C. B. Snowden, 1985). The same draws
    serve every array of one shape, so a difference of two rows is that of pairs, and of equal rows exactly 0.

    Args:
        outcomes: (S, E), 0 or 1 for a rate, or differences of these.
        tasks: The task of each of the E episodes.
    """
    num_seeds, num_episodes = outcomes.shape
    groups = _members(tasks)
    rng = np.random.default_rng(0)
    seeds = _weights(rng, num_seeds)  # (B, S)
    means = np.zeros(NUM_DRAWS)
    for members in groups:
        episodes = _weights(rng, len(members))
        means += np.einsum("bs,se,be->b", seeds, outcomes[:, members], episodes, optimize=True) / len(groups)
    mean = mean_over_tasks(outcomes, tasks)
    low, high = (float(end) for end in np.quantile(means, [0.025, 0.975]))
    if (outcomes == 1).all() or (outcomes == 0).all():
        low, high = _unanimous(outcomes, groups, low, high)
    return Estimate(mean, min(low, mean), max(high, mean), num_seeds, num_episodes)


def mean_over_tasks(outcomes: npt.NDArray[np.float64], tasks: Sequence[str]) -> float:
    """Mean over tasks of the mean of their outcomes (S, E)."""
    return float(np.mean([outcomes[:, members].mean() for members in _members(tasks)]))


def difference(outcomes: npt.NDArray[np.float64], reference: npt.NDArray[np.float64], tasks: Sequence[str]) -> Estimate:
    """Mean of the differences of pairs (S, E), with its interval."""
    pairs = outcomes - reference
    if not pairs.any():
        return Estimate(0.0, 0.0, 0.0, *pairs.shape)
    return estimate(pairs, tasks)


def _members(tasks: Sequence[str]) -> list[npt.NDArray[np.intp]]:
    """Places of the episodes of each task."""
    names = np.asarray(tasks)
    return [np.flatnonzero(names == name) for name in dict.fromkeys(tasks)]


def _unanimous(
    outcomes: npt.NDArray[np.float64], groups: Sequence[npt.NDArray[np.intp]], low: float, high: float
) -> tuple[float, float]:
    """Where every outcome is the same there is nothing to draw: Wilson's interval of one seed's episodes."""
    counts = [(int(outcomes[0, members].sum()), len(members)) for members in groups]
    wilson = mean_interval(counts)
    return min(low, wilson[0]), max(high, wilson[1])


def _weights(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Shares (B, count) of units drawn with replacement, one less than there are; a single one is all there is."""
    drawn = max(count - 1, 1)
    return rng.multinomial(drawn, np.full(count, 1 / count), size=NUM_DRAWS) / drawn
