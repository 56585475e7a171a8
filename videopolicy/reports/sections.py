"""Evaluations as the page shows them: rates by task, and episodes with their videos, failures first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rollouts import EpisodeResult
from rollouts.statistics import TaskSummary
from videopolicy.reports import figures
from videopolicy.reports.evaluations import OUTCOMES, Evaluation
from videopolicy.reports.figures import rate, readable, signed
from videopolicy.reports.pairs import PairedEvaluations
from videopolicy.reports.videos import Clip, VideoBudget

MAX_ROWS = 600  # episodes of an outcome; the rest is counted and said
UNFOLDED = {"failure": 25, "error": 25, "success": 0}  # rows that are seen without a click


@dataclass(frozen=True)
class EpisodeRow:
    """One episode of a table."""

    result: EpisodeResult
    clip: Clip | None
    filmed: Path | None
    command: str | None


@dataclass(frozen=True)
class EpisodeGroup:
    """Failures, errors or successes of one evaluation, the filmed ones first; of many, most are folded away."""

    outcome: str
    open: list[EpisodeRow]
    folded: list[EpisodeRow]
    unlisted: int

    @property
    def count(self) -> int:
        """Episodes with this outcome."""
        return len(self.open) + len(self.folded) + self.unlisted


@dataclass(frozen=True)
class Section:
    """One evaluation on the page; `tasks` come with the lowest success rate first."""

    id: str
    evaluation: Evaluation
    tasks: list[TaskSummary]
    groups: list[EpisodeGroup]
    times: figures.Rows
    about: figures.Rows
    grouped: list[list[str]]
    protocol: figures.Rows


def section(id: str, evaluation: Evaluation, budget: VideoBudget) -> Section:
    """One evaluation; its videos go into the budget in the order of its rows."""
    tasks = sorted(evaluation.summary.tasks, key=lambda task: (not task.episodes, task.success_rate, task.task))
    groups = []
    for success, outcome in OUTCOMES.items():
        results = [result for result in evaluation.results if result.success is success]
        if results:
            results.sort(key=lambda result: evaluation.video(result) is None)
            shown = [_episode_row(evaluation, result, id, budget) for result in results[:MAX_ROWS]]
            first = UNFOLDED[outcome] if len(shown) > 6 else len(shown)
            groups.append(EpisodeGroup(outcome, shown[:first], shown[first:], len(results) - len(shown)))
    return Section(
        id=id,
        evaluation=evaluation,
        tasks=tasks,
        groups=groups,
        times=figures.time_of_episodes(evaluation),
        about=_about(evaluation),
        grouped=[
            [group.name, rate(group.mean_success_rate), *solved(group.total)] for group in evaluation.summary.groups
        ],
        protocol=_protocol(evaluation),
    )


def _about(evaluation: Evaluation) -> figures.Rows:
    """What a reader must know of policy and protocol before the number means anything."""
    policy, settings = evaluation.protocol.get("policy", {}), evaluation.protocol.get("protocol", {})
    simulator = settings.get("simulator", {})
    levels = [f"{kind} {level:g}" for kind, level in evaluation.variation.items()]
    limits = ", ".join(dict.fromkeys(str(result.max_steps) for result in evaluation.results if result.max_steps))
    rows = [
        ("policy", policy.get("kind")),
        ("checkpoint", policy.get("path")),
        ("SHA-256", (policy.get("sha256") or "")[:16]),
        ("protocol", settings.get("name")),
        ("its source", settings.get("source")),
        ("simulator", " ".join(filter(None, (simulator.get("name"), simulator.get("suite"))))),
        ("variation", ", ".join(levels)),
        ("episodes a task", settings.get("episodes_per_task")),
        ("first seed", settings.get("first_seed")),
        ("actions executed a replan", settings.get("execute_steps")),
        ("step limit", simulator.get("max_steps") or limits),
        ("fingerprint", evaluation.protocol.get("fingerprint")),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def solved(total: TaskSummary) -> list[str]:
    """Counts and Wilson interval as two cells."""
    return [f"{total.successes} of {total.episodes}", f"{rate(total.low)} to {rate(total.high)}"]


def _episode_row(evaluation: Evaluation, result: EpisodeResult, place: str, budget: VideoBudget) -> EpisodeRow:
    filmed = evaluation.video(result)
    return EpisodeRow(result, budget.embed(filmed, place) if filmed else None, filmed, evaluation.repeat(result))


def _protocol(evaluation: Evaluation) -> figures.Rows:
    content = {key: value for key, value in evaluation.protocol.items() if key not in ("format", "versions")}
    return figures.flattened(content)


def changed_rows(pairs: PairedEvaluations, budget: VideoBudget) -> list[tuple[EpisodeRow, EpisodeRow]]:
    """Both sides of every episode that only one of the two solved."""
    return [
        (_episode_row(pairs.a, x, "pairs", budget), _episode_row(pairs.b, y, "pairs", budget))
        for x, y in pairs.changed[:MAX_ROWS]
    ]


def paired_tasks(pairs: PairedEvaluations) -> list[list[str]]:
    """A row a task: solved by each, pairs, difference and its interval."""
    return [
        [readable(task.task), *map(str, task.successes), str(task.episodes), signed(task.difference),
         f"{signed(task.interval[0])} to {signed(task.interval[1])}"]
        for task in sorted(pairs.counts.tasks, key=lambda task: task.difference)
    ]  # fmt: skip
