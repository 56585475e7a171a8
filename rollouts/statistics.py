"""What may be quoted from episode results: rates with intervals, and comparisons of two runs in pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rollouts.results import EpisodeResult

Z95 = 1.959963984540054
"""Quantile of the normal distribution for 95 % intervals."""


def wilson_interval(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a success rate; (0, 1) if there were no episodes."""
    return _wilson(successes / n, n, z) if n else (0.0, 1.0)


def _wilson(rate: float, n: float, z: float = Z95) -> tuple[float, float]:
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def mean_interval(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """95 % interval of the mean success rate over tasks; (0, 1) if there were no episodes.

    Tasks are strata: how they differ from one another does not widen it. It is Wilson's interval with the effective
    number of episodes, at which a single rate would vary as the mean does (E. L. Korn and B. I. Graubard, Survey
    Methodology 24 (1998) 193-201). With one task, or tasks of equal rates and numbers, it is that of all episodes.

    Args:
        counts: Successes and episodes of each task; tasks without episodes are left out.
    """
    counts = [(successes, n) for successes, n in counts if n]
    if not counts:
        return 0.0, 1.0
    # Jeffreys' rates in the variance: a task that was solved every time is not thereby certain
    rates = [(successes + 0.5) / (n + 1) for successes, n in counts]
    variance = sum(rate * (1 - rate) / n for rate, (_, n) in zip(rates, counts, strict=True)) / len(counts) ** 2
    middle = sum(rates) / len(counts)
    return _wilson(sum(successes / n for successes, n in counts) / len(counts), middle * (1 - middle) / variance)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values of several tests, so corrected that all of them together are wrong as seldom as one (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min((len(p_values) - rank) * p_values[index], 1.0))
        corrected[index] = largest
    return corrected


# --- one run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskSummary:
    """Results of one task, or of several together; episodes that ended in an error count in `errors` only.

    `starts` is how many recorded initial states, or else seeds, the episodes began from: fewer than episodes, and
    these are repeats, for which the interval is too narrow.
    """

    task: str
    successes: int
    episodes: int
    errors: int
    low: float
    high: float
    mean_steps: float
    seconds_per_replan: float
    starts: int

    @property
    def success_rate(self) -> float:
        """Successes per episode; NaN without episodes."""
        return self.successes / self.episodes if self.episodes else math.nan


@dataclass(frozen=True)
class GroupSummary:
    """Tasks that are reported together, for instance those that were held out from training.

    Args:
        name: Name of the group.
        total: All its episodes together.
        mean_success_rate: Mean over its tasks.
        mean_interval: Its 95 % interval, see `mean_interval`.
    """

    name: str
    total: TaskSummary
    mean_success_rate: float
    mean_interval: tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """Per-task rows, all episodes together, and the mean over tasks, which is the number papers quote."""

    tasks: list[TaskSummary]
    total: TaskSummary
    mean_success_rate: float
    mean_interval: tuple[float, float]
    groups: list[GroupSummary] = field(default_factory=list)


def summarize(results: Iterable[EpisodeResult], groups: Mapping[str, Sequence[str]] | None = None) -> Summary:
    """Success rates with 95 % Wilson intervals.

    Args:
        results: Episodes of any number of tasks.
        groups: Group name -> its tasks; a group none of whose tasks was run is left out.
    """
    by_task: dict[str, list[EpisodeResult]] = {}
    for result in results:
        by_task.setdefault(result.task, []).append(result)
    tasks = {name: _summarize(name, part) for name, part in by_task.items()}
    rows = []
    for name, members in (groups or {}).items():
        if run := [task for task in members if task in by_task]:
            together = _summarize(name, [result for task in run for result in by_task[task]])
            rows.append(GroupSummary(name, together, *_mean_rate([tasks[task] for task in run])))
    total = _summarize("total", [result for part in by_task.values() for result in part])
    return Summary(list(tasks.values()), total, *_mean_rate(list(tasks.values())), groups=rows)


def _mean_rate(tasks: Sequence[TaskSummary]) -> tuple[float, tuple[float, float]]:
    """Mean over the tasks that have a rate, and its interval."""
    rates = [task.success_rate for task in tasks if task.episodes]
    mean = sum(rates) / len(rates) if rates else math.nan
    return mean, mean_interval([(task.successes, task.episodes) for task in tasks])


def _summarize(name: str, results: Sequence[EpisodeResult]) -> TaskSummary:
    valid = [result for result in results if result.success is not None]
    successes = sum(result.success is True for result in valid)
    low, high = wilson_interval(successes, len(valid))
    replans = sum(result.replans for result in valid)
    starts = {(result.task, result.seed if result.init_state is None else result.init_state) for result in valid}
    return TaskSummary(
        task=name,
        successes=successes,
        episodes=len(valid),
        errors=len(results) - len(valid),
        low=low,
        high=high,
        mean_steps=sum(result.steps for result in valid) / len(valid) if valid else math.nan,
        seconds_per_replan=sum(result.policy_s for result in valid) / replans if replans else math.nan,
        starts=len(starts),
    )


# --- two runs over the same episodes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """The same episodes by two policies A and B.

    Args:
        task: The task, or `total`.
        both: Solved by both.
        only_a: Solved by A alone.
        only_b: Solved by B alone.
        neither: Solved by neither.
    """

    task: str
    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def episodes(self) -> int:
        """Number of pairs."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def successes(self) -> tuple[int, int]:
        """Episodes that A solved, and that B solved."""
        return self.both + self.only_a, self.both + self.only_b

    @property
    def difference(self) -> float:
        """Success rate of A minus that of B; NaN without pairs."""
        return (self.only_a - self.only_b) / self.episodes if self.episodes else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `difference`, see `newcombe_interval`."""
        return newcombe_interval(self.both, self.only_a, self.only_b, self.neither)

    @property
    def p_value(self) -> float:
        """See `mcnemar_exact`."""
        return mcnemar_exact(self.only_a, self.only_b)


@dataclass(frozen=True)
class Comparison:
    """Two runs in pairs.

    Args:
        tasks: Pairs of each task.
        total: All pairs.
        only_in_a: Episodes that B does not have.
        only_in_b: Episodes that A does not have.
        errors: Episodes that both have and that ended in an error in either; they are in no pair.
    """

    tasks: list[Pairs]
    total: Pairs
    only_in_a: int
    only_in_b: int
    errors: int

    @property
    def mean_difference(self) -> float:
        """Mean over tasks of A's success rate minus B's; NaN without pairs."""
        return sum(task.difference for task in self.tasks) / len(self.tasks) if self.tasks else math.nan

    @property
    def mean_difference_interval(self) -> tuple[float, float]:
        """95 % interval of `mean_difference`: Newcombe's, with means over tasks in place of rates."""
        return _mean_difference_interval(self.tasks)


def compare(a: Iterable[EpisodeResult], b: Iterable[EpisodeResult]) -> Comparison:
    """Pair two runs by episode."""
    runs = [{result.key: result for result in results} for results in (a, b)]
    shared = [key for key in runs[0] if key in runs[1]]
    outcomes: dict[str, list[tuple[bool, bool]]] = {}
    errors = 0
    for key in shared:
        first, second = runs[0][key].success, runs[1][key].success
        if first is None or second is None:
            errors += 1
        else:
            outcomes.setdefault(runs[0][key].task, []).append((first, second))
    tasks = [_pairs(task, pairs) for task, pairs in outcomes.items()]
    total = _pairs("total", [pair for pairs in outcomes.values() for pair in pairs])
    return Comparison(tasks, total, len(runs[0]) - len(shared), len(runs[1]) - len(shared), errors)


def _pairs(task: str, outcomes: Sequence[tuple[bool, bool]]) -> Pairs:
    count = outcomes.count
    return Pairs(task, count((True, True)), count((True, False)), count((False, True)), count((False, False)))


def newcombe_interval(both: int, only_a: int, only_b: int, neither: int, z: float = Z95) -> tuple[float, float]:
    """Interval of the difference of two success rates over the same episodes; (-1, 1) if there were none.

    The limits of both Wilson intervals are squared and added, allowing for the correlation phi of the pairs: method 10
    of R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired
    data", Statistics in Medicine 17 (1998) 2635-2650.
    """
    n = both + only_a + only_b + neither
    if n == 0:
        return -1.0, 1.0
    successes_a, successes_b = both + only_a, both + only_b
    intervals = wilson_interval(successes_a, n, z), wilson_interval(successes_b, n, z)
    return _recovered((successes_a / n, successes_b / n), intervals, _phi(both, only_a, only_b, neither))


def _mean_difference_interval(tasks: Sequence[Pairs]) -> tuple[float, float]:
    if not tasks:
        return -1.0, 1.0
    counts = [[(task.successes[side], task.episodes) for task in tasks] for side in (0, 1)]
    rates = [[successes / n for successes, n in part] for part in counts]
    covariance = sum((t.both / t.episodes - a * b) / t.episodes for t, a, b in zip(tasks, *rates, strict=True))
    variances = [sum(rate * (1 - rate) / t.episodes for t, rate in zip(tasks, part, strict=True)) for part in rates]
    scale = math.sqrt(variances[0] * variances[1])
    means = (sum(rates[0]) / len(tasks), sum(rates[1]) / len(tasks))
    return _recovered(means, (mean_interval(counts[0]), mean_interval(counts[1])), covariance / scale if scale else 0.0)


def _recovered(
    rates: tuple[float, float], intervals: tuple[tuple[float, float], tuple[float, float]], phi: float
) -> tuple[float, float]:
    """Interval of a difference from the intervals of both and their correlation."""
    (rate_a, rate_b), ((low_a, high_a), (low_b, high_b)) = rates, intervals

    def distance(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))  # rounding may pass 0

    difference = rate_a - rate_b
    return (
        difference - distance(rate_a - low_a, high_b - rate_b),
        difference + distance(high_a - rate_a, rate_b - low_b),
    )


def _phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Correlation of the pairs, with Newcombe's continuity correction; 0 if a policy solved all or none."""
    n = both + only_a + only_b + neither
    product = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if product == 0:
        return 0.0
    numerator: float = both * neither - only_a * only_b
    if numerator > 0:
        numerator = max(numerator - n / 2, 0.0)
    return numerator / math.sqrt(product)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided binomial test that a discordant pair falls either way with probability one half (McNemar, exact)."""
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**n))
