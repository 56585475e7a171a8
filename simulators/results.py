"""Episode results as JSON lines, and the statistics that may be quoted from them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from simulators.errors import SimulatorError
from simulators.protocol import Array, EpisodeSpec


@dataclass(frozen=True)
class Prediction:
    """Frames (V, T, H, W, 3) uint8 that the policy foresaw when it planned at `step`."""

    step: int
    frames: Array


@dataclass
class Recording:
    """Executed and predicted pictures of one episode.

    Args:
        cameras: Names, in the order of the data.
        steps: Episode step of each executed frame; the first is 0.
        frames: One camera -> (H, W, 3) uint8 dictionary per entry of `steps`.
        predictions: One for every replan, if the policy predicts.
        stride: Steps between frames (the last step of the episode is kept as well).
    """

    cameras: list[str]
    steps: list[int]
    frames: list[dict[str, Array]]
    predictions: list[Prediction]
    stride: int


@dataclass
class EpisodeResult:
    """One line of a results file.

    Args:
        suite: See `EpisodeSpec`.
        task: See `EpisodeSpec`.
        seed: See `EpisodeSpec`.
        init_state: See `EpisodeSpec`.
        success: Whether the task was solved; None if the episode could not be run, which is neither.
        steps: Control steps executed.
        replans: Action chunks asked of the policy.
        wall_s: Seconds from reset to end.
        policy_s: Seconds of policy time; a batched call is split evenly among its episodes.
        error: Why there is no outcome.
        recording: Pictures, if this episode was recorded; not written to the file.
    """

    suite: str
    task: str
    seed: int
    init_state: int | None
    success: bool | None
    steps: int = 0
    replans: int = 0
    wall_s: float = 0.0
    policy_s: float = 0.0
    error: str | None = None
    recording: Recording | None = field(default=None, compare=False, repr=False)

    @property
    def spec(self) -> EpisodeSpec:
        """The episode this is the result of."""
        return EpisodeSpec(self.suite, self.task, self.seed, self.init_state)

    @property
    def key(self) -> str:
        """See `EpisodeSpec.key`."""
        return self.spec.key

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content of the line."""
        content = asdict(self)
        del content["recording"]
        return content


_LINE_FIELDS = {item.name for item in fields(EpisodeResult)} - {"recording"}


class ResultsFile:
    """A file of JSON lines that survives being killed: every result is flushed, a half-written last line is cut off.

    Args:
        path: The file; made with its folder when the first result comes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def load(self) -> dict[str, EpisodeResult]:
        """Episode key -> its latest result.

        Raises:
            SimulatorError: If a line is not a result.
        """
        if not self.path.exists():
            return {}
        lines = self.path.read_text().split("\n")
        results = {}
        for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was cut short
            try:
                content = json.loads(line)
                result = EpisodeResult(**{key: content[key] for key in _LINE_FIELDS})
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise SimulatorError(
                    f"{self.path}: line {number} is not an episode result ({error}); move the file away."
                ) from error
            results[result.key] = result
        return results

    def append(self, result: EpisodeResult) -> None:
        """Add one line and flush it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._cut_half_line()
        with self.path.open("a") as file:
            file.write(json.dumps(result.to_dict()) + "\n")
            file.flush()

    def _cut_half_line(self) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        if content and not content.endswith(b"\n"):
            warnings.warn(f"{self.path}: the last line was cut short by a kill; its episode runs again", stacklevel=3)
            with self.path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a success rate (z = 1.96: 95 %); (0, 1) if there were no episodes."""
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


@dataclass(frozen=True)
class TaskSummary:
    """Results of one task, or of all; episodes that ended in an error count in `errors` only."""

    task: str
    successes: int
    episodes: int
    errors: int
    low: float
    high: float
    mean_steps: float
    seconds_per_replan: float

    @property
    def success_rate(self) -> float:
        """Successes per episode; NaN without episodes."""
        return self.successes / self.episodes if self.episodes else math.nan


@dataclass(frozen=True)
class Summary:
    """Per-task rows, all episodes together, and the mean over tasks, which is the number papers quote."""

    tasks: list[TaskSummary]
    total: TaskSummary
    mean_success_rate: float


def summarize(results: Iterable[EpisodeResult]) -> Summary:
    """Success rates with 95 % Wilson intervals."""
    results = list(results)
    names = list(dict.fromkeys(result.task for result in results))
    tasks = [_summarize_task(name, [result for result in results if result.task == name]) for name in names]
    rates = [task.success_rate for task in tasks if task.episodes]
    mean = sum(rates) / len(rates) if rates else math.nan
    return Summary(tasks, _summarize_task("total", results), mean)


def _summarize_task(name: str, results: Sequence[EpisodeResult]) -> TaskSummary:
    valid = [result for result in results if result.success is not None]
    successes = sum(result.success is True for result in valid)
    low, high = wilson_interval(successes, len(valid))
    replans = sum(result.replans for result in valid)
    return TaskSummary(
        task=name,
        successes=successes,
        episodes=len(valid),
        errors=len(results) - len(valid),
        low=low,
        high=high,
        mean_steps=sum(result.steps for result in valid) / len(valid) if valid else math.nan,
        seconds_per_replan=sum(result.policy_s for result in valid) / replans if replans else math.nan,
    )


@dataclass(frozen=True)
class Comparison:
    """Two runs over the same episodes; errors and unshared episodes are left out and counted in `unpaired`."""

    both: int
    only_a: int
    only_b: int
    neither: int
    unpaired: int
    p_value: float


def compare(a: Iterable[EpisodeResult], b: Iterable[EpisodeResult]) -> Comparison:
    """Pair two runs by episode; p is McNemar's exact two-sided test."""
    outcome_a = {result.key: result.success for result in a}
    outcome_b = {result.key: result.success for result in b}
    keys = outcome_a.keys() | outcome_b.keys()
    pairs = [(outcome_a.get(key), outcome_b.get(key)) for key in keys]
    paired = [pair for pair in pairs if None not in pair]
    only_a, only_b = paired.count((True, False)), paired.count((False, True))
    return Comparison(
        both=paired.count((True, True)),
        only_a=only_a,
        only_b=only_b,
        neither=paired.count((False, False)),
        unpaired=len(pairs) - len(paired),
        p_value=mcnemar_exact(only_a, only_b),
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided binomial test that a discordant pair falls either way with probability one half."""
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**n))
