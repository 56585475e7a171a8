"""The page: what the template shows, in the order in which it shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from simulators import EpisodeResult
from simulators.statistics import TaskSummary
from videopolicy.reports import figures
from videopolicy.reports.charts import Chart, Points, line_chart
from videopolicy.reports.evaluations import OUTCOMES, Evaluation
from videopolicy.reports.pairs import PairedEvaluations
from videopolicy.reports.training import Stage, TrainingRun
from videopolicy.reports.videos import Clip, VideoBudget

FOLDER = Path(__file__).parent
MAX_ROWS = 600  # episodes a table; the rest is counted and said
MAX_CONFIG = 200_000  # characters of config that are shown


@dataclass(frozen=True)
class EpisodeRow:
    """One episode of a table."""

    result: EpisodeResult
    clip: Clip | None
    filmed: Path | None
    command: str | None


@dataclass(frozen=True)
class EpisodeGroup:
    """Failures, errors or successes of one evaluation."""

    outcome: str
    rows: list[EpisodeRow]
    unlisted: int


@dataclass(frozen=True)
class Section:
    """One evaluation on the page; `tasks` come with the lowest success rate first."""

    id: str
    evaluation: Evaluation
    tasks: list[TaskSummary]
    groups: list[EpisodeGroup]
    times: figures.Rows
    protocol: figures.Rows


@dataclass(frozen=True)
class StageView:
    """One training stage on the page."""

    stage: Stage
    losses: Chart | None
    validation: list[list[str]]
    clips: list[tuple[str, Clip]]
    times: figures.Rows
    environment: figures.Rows


def render(
    name: str,
    path: Path,
    evaluations: list[Evaluation],
    training: TrainingRun | None,
    pairs: PairedEvaluations | None,
    limit: int,
) -> tuple[str, VideoBudget]:
    """Fill the template.

    Args:
        name: What the page is about.
        path: Where it was read from.
        evaluations: One section each; the headline quotes the first.
        training: The run directory, if it is one.
        pairs: A comparison of the first evaluation with another.
        limit: Bytes that the page may have; what the text leaves goes to videos.

    Returns:
        HTML, and which videos it holds.
    """
    text = _fill(name, path, evaluations, training, pairs, VideoBudget(0))
    budget = VideoBudget(max(0, limit - len(text.encode())))
    # Twice: sizes of text and notes are known only once it is written. The second time finds the videos in the budget.
    _fill(name, path, evaluations, training, pairs, budget)
    return _fill(name, path, evaluations, training, pairs, budget), budget


def _fill(
    name: str,
    path: Path,
    evaluations: list[Evaluation],
    training: TrainingRun | None,
    pairs: PairedEvaluations | None,
    budget: VideoBudget,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,  # names, instructions and errors are strings from files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"readable": readable, "rate": rate, "signed": signed, "duration": figures.duration}
    sections = [_section(f"evaluation-{index}", item, budget) for index, item in enumerate(evaluations, start=1)]
    stages = [_stage_view(stage, budget) for stage in training.stages] if training else []
    versions = _versions(evaluations, stages)
    stages = [replace(v, environment=[row for row in v.environment if row not in versions]) for v in stages]
    changed = _changed(pairs, budget) if pairs else []
    return environment.get_template("page.html.j2").render(
        name=name,
        path=path,
        css=environment.get_template("page.css").render(),
        sections=sections,
        stages=stages,
        training=training,
        over_steps=success_over_steps(training) if training else None,
        pairs=pairs,
        changed=changed,
        paired_tasks=_paired_tasks(pairs) if pairs else [],
        budget=budget,
        config=(training.config if training else "")[:MAX_CONFIG],
        versions=versions,
        profile=figures.flattened(training.profile) if training else [],
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        program=version("videopolicy"),
    )


def readable(task: str) -> str:
    """A task's name with spaces, where underscores made a sentence one word that no line can break."""
    return re.sub(r"_+", " ", task).strip() or task


def rate(value: float) -> str:
    """A success rate with two digits."""
    return f"{value:.2f}" if value == value else "none"  # NaN: no episode could be run


def signed(value: float) -> str:
    """A difference of two rates."""
    return f"{value:+.2f}"


def _section(id: str, evaluation: Evaluation, budget: VideoBudget) -> Section:
    tasks = sorted(evaluation.summary.tasks, key=lambda task: (not task.episodes, task.success_rate, task.task))
    groups = []
    for success, outcome in OUTCOMES.items():
        results = [result for result in evaluation.results if result.success is success]
        if results:
            shown = [_episode_row(evaluation, result, budget) for result in results[:MAX_ROWS]]
            groups.append(EpisodeGroup(outcome, shown, len(results) - len(shown)))
    return Section(id, evaluation, tasks, groups, figures.time_of_episodes(evaluation), _protocol(evaluation))


def _episode_row(evaluation: Evaluation, result: EpisodeResult, budget: VideoBudget) -> EpisodeRow:
    filmed = evaluation.video(result)
    return EpisodeRow(result, budget.embed(filmed) if filmed else None, filmed, evaluation.repeat(result))


def _protocol(evaluation: Evaluation) -> figures.Rows:
    content = {key: value for key, value in evaluation.protocol.items() if key not in ("format", "versions")}
    return figures.flattened(content)


def _changed(pairs: PairedEvaluations, budget: VideoBudget) -> list[tuple[EpisodeRow, EpisodeRow]]:
    return [(_episode_row(pairs.a, x, budget), _episode_row(pairs.b, y, budget)) for x, y in pairs.changed[:MAX_ROWS]]


def _paired_tasks(pairs: PairedEvaluations) -> list[list[str]]:
    return [
        [readable(task.task), *map(str, task.successes), str(task.episodes), signed(task.difference),
         f"{signed(task.interval[0])} to {signed(task.interval[1])}"]
        for task in sorted(pairs.counts.tasks, key=lambda task: task.difference)
    ]  # fmt: skip


def _stage_view(stage: Stage, budget: VideoBudget) -> StageView:
    clips = [(path.stem, budget.embed(path)) for path in stage.clips]
    return StageView(
        stage,
        losses(stage),
        figures.first_and_last(stage.curves),
        [(name, clip) for name, clip in clips if clip],
        figures.time_of_stage(stage),
        figures.environment(stage.versions),
    )


def _versions(evaluations: Iterable[Evaluation], stages: Sequence[StageView]) -> figures.Rows:
    """What all stages, or the first evaluation, ran on; what differs between stages stays with them."""
    if stages:
        return [row for row in stages[0].environment if all(row in view.environment for view in stages)]
    found: dict[str, Any] = next((e.protocol["versions"] for e in evaluations if e.protocol.get("versions")), {})
    return figures.environment(found)


def losses(stage: Stage) -> Chart | None:
    """Training and validation loss over steps; None before anything was logged."""
    curves = [
        Points(tag, style, [(float(step), value) for step, value in stage.curves[tag]])
        for tag, style in (("train/loss", "quiet"), ("val/loss", "strong"))
        if stage.curves.get(tag)
    ]
    if not curves:
        return None
    note = "val/loss is taken at fixed noise levels: compare it with itself, not with train/loss."
    return line_chart(f"Loss of the {stage.name} stage", curves, note=note)


def success_over_steps(training: TrainingRun) -> Chart | None:
    """Success rate of every validation with its Wilson interval; None before the first."""
    totals = {step: item.summary.total for step, item in sorted(training.rollouts.items())}
    counted = {step: total for step, total in totals.items() if total.episodes}
    if not counted:
        return None
    points = Points(
        "solved, Wilson 95 % interval",
        "strong",
        [(float(step), total.success_rate) for step, total in counted.items()],
        [(total.low, total.high) for total in counted.values()],
    )
    cells = [
        [
            f"{step:,}",
            rate(t.success_rate),
            f"{t.successes} of {t.episodes}",
            f"{t.low:.2f} to {t.high:.2f}",
            str(t.errors),
        ]
        for step, t in totals.items()
    ]
    table = [["step", "rate", "solved", "Wilson 95 %", "errors"], *cells]
    return line_chart("Rollouts of every validation", [points], top=1.0, table=table)
