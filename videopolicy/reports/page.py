"""The page: what the template shows, in the order in which it shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from videopolicy.errors import CommandError
from videopolicy.reports import figures
from videopolicy.reports.evaluations import Evaluation
from videopolicy.reports.pairs import PairedEvaluations
from videopolicy.reports.sections import changed_rows, paired_tasks, section
from videopolicy.reports.stages import StageView, stage_view, success_over_steps
from videopolicy.reports.training import TrainingRun
from videopolicy.reports.variation import success_over_variation
from videopolicy.reports.videos import VideoBudget

FOLDER = Path(__file__).parent
MAX_CONFIG = 200_000  # characters of config that are shown


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
    wordings = (figures.readable, figures.rate, figures.signed, figures.duration)
    environment.filters |= {wording.__name__: wording for wording in wordings}
    changed = changed_rows(pairs, budget) if pairs else []
    sections = [section(f"evaluation-{index}", item, budget) for index, item in enumerate(evaluations, start=1)]
    stages = [stage_view(stage, budget) for stage in training.stages] if training else []
    versions = _versions(evaluations, stages)
    stages = [replace(v, environment=[row for row in v.environment if row not in versions]) for v in stages]
    return environment.get_template("page.html.j2").render(
        name=name,
        path=path,
        css=environment.get_template("page.css").render(),
        sections=sections,
        variation=success_over_variation(evaluations),
        stages=stages,
        training=training,
        over_steps=success_over_steps(training) if training else None,
        pairs=pairs,
        changed=changed,
        paired_tasks=paired_tasks(pairs) if pairs else [],
        budget=budget,
        config=(training.config if training else "")[:MAX_CONFIG],
        versions=versions,
        profile=_profile(training) if training else {},
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        program=version("videopolicy"),
    )


def _profile(training: TrainingRun) -> dict[str, figures.Rows]:
    try:
        return figures.profiled(training.profile)
    except (KeyError, TypeError, AttributeError) as error:
        raise CommandError(
            f"{training.path / 'profile.json'}: not what `videopolicy profile --json` writes ({error!r}); "
            "make it again, or move it away."
        ) from error


def _versions(evaluations: Iterable[Evaluation], stages: Sequence[StageView]) -> figures.Rows:
    """What all stages, or the first evaluation, ran on; what differs between stages stays with them."""
    if stages:
        return [row for row in stages[0].environment if all(row in view.environment for view in stages)]
    found: dict[str, Any] = next((e.protocol["versions"] for e in evaluations if e.protocol.get("versions")), {})
    return figures.environment(found)
