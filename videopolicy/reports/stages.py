"""Training as the page shows it: losses and success over steps."""

from __future__ import annotations

from dataclasses import dataclass

from videopolicy.reports import figures
from videopolicy.reports.charts import Chart, Points, line_chart
from videopolicy.reports.figures import rate
from videopolicy.reports.sections import solved
from videopolicy.reports.training import Stage, TrainingRun
from videopolicy.reports.videos import Clip, VideoBudget


@dataclass(frozen=True)
class StageView:
    """One training stage on the page."""

    stage: Stage
    losses: Chart | None
    validation: list[list[str]]
    clips: list[tuple[str, Clip]]
    times: figures.Rows
    environment: figures.Rows


def stage_view(stage: Stage, budget: VideoBudget) -> StageView:
    """One stage, with the videos of its last validation."""
    clips = [(path.stem, budget.embed(path, stage.name)) for path in stage.clips]
    return StageView(
        stage,
        losses(stage),
        figures.first_and_last(stage.curves),
        [(name, clip) for name, clip in clips if clip],
        figures.time_of_stage(stage),
        figures.environment(stage.versions),
    )


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
    table = [["step", "rate", "solved", "Wilson 95 %", "errors"]]
    for step, total in totals.items():
        table.append([f"{step:,}", rate(total.success_rate), *solved(total), str(total.errors)])
    return line_chart("Rollouts of every validation", [points], top=1.0, table=table)
