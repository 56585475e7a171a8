"""The page: what the template shows, in the order in which it shows it."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jinja2

from videopolicy.evaluation.tables import between, interval, rate
from videopolicy.reports.contents import Contents, Titled
from videopolicy.reports.sections import paired, section, success_over_steps, success_over_variation
from videopolicy.reports.videos import VideoBudget

FOLDER = Path(__file__).parent
NOTES = 2000  # bytes of what is said about videos once they are chosen


def render(contents: Contents, other: Titled | None, limit: int) -> tuple[str, VideoBudget]:
    """Fill the template.

    Args:
        contents: What the page is about.
        other: What its first evaluation is compared with.
        limit: Bytes that the page may have; what the text leaves goes to videos.

    Returns:
        HTML, and which videos it holds.

    Raises:
        UserError: The two that are to be compared do not belong together.
    """
    without = _fill(contents, other, VideoBudget(0))
    budget = VideoBudget(max(0, limit - len(without.encode()) - NOTES))
    return _fill(contents, other, budget), budget


def _fill(contents: Contents, other: Titled | None, budget: VideoBudget) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,  # names, instructions and errors are strings from files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"readable": readable, "rate": rate, "interval": interval, "image": image}
    return environment.get_template("page.html.j2").render(
        contents=contents,
        name=contents.path.resolve().name if contents.path.is_dir() else contents.path.stem,
        css=(FOLDER / "page.css").read_text(),
        pairs=paired(contents.sections[0], other, budget) if other else None,
        between=between,
        sections=[section(f"evaluation-{n}", item, budget) for n, item in enumerate(contents.sections, start=1)],
        variation=success_over_variation([item.evaluation for item in contents.sections]),
        over_steps=success_over_steps(contents),
        protocol=lambda evaluation: json.dumps(evaluation.document, indent=2),
        budget=budget,
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        program=version("videopolicy"),
    )


def readable(task: str) -> str:
    """A task's name with spaces, where underscores made a sentence one word that no line can break."""
    return re.sub(r"_+", " ", task).strip() or task


def image(svg: str) -> str:
    """A picture as an address, so that its styles and names stay its own."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
