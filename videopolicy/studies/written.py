"""A study's outcome as files: study.md for a report, study.json for programs, success.png and .svg to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from files.writing import replacing, write_text
from rollouts.crossed_bootstrap import METHOD, ONE_SEED, Estimate
from videopolicy.evaluation.pictures import as_png, as_svg, new_figure
from videopolicy.evaluation.tables import markdown_table
from videopolicy.studies.definition import Study
from videopolicy.studies.results import RunResult
from videopolicy.studies.summary import ALL_TASKS, Cell, Section, column, points, sections

FORMAT = 1
MARKS = "osD^vPX*<>"
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:red", "tab:brown", "tab:pink", "tab:gray")


def write_outcome(study: Study, results: Sequence[RunResult], open_runs: Mapping[str, str], output: Path) -> None:
    """Write all files.

    Args:
        study: The study.
        results: Of the finished runs.
        open_runs: Run that is not finished -> why.
        output: The study's folder.
    """
    found = sections(study, results)
    write_text(output / "study.md", to_markdown(study, found, results, open_runs))
    write_text(output / "study.json", json.dumps(_document(study, found, results, open_runs), indent=1) + "\n")
    for section in found:
        if section.cells:
            stem = "success" if section.name == ALL_TASKS else f"success_{section.name.replace(' ', '_')}"
            with replacing(output / f"{stem}.png") as part:
                part.write_bytes(as_png(draw(study, section)))
            write_text(output / f"{stem}.svg", as_svg(draw(study, section)))


def to_markdown(
    study: Study, found: Sequence[Section], results: Sequence[RunResult], open_runs: Mapping[str, str]
) -> str:
    """Tables of success and of differences to the first row, and what they rest on."""
    parts = [f"# Study {study.name}"]
    for section in found:
        what = "" if section.name == ALL_TASKS else f", {section.name}"
        parts.append(f"## Success over {_swept(study)}{what}")
        parts.append(_table(study, section, differences=False))
        if len(study.experiments) > 1:
            parts.append(f"Difference to {next(iter(study.experiments))}{what}:")
            parts.append(_table(study, section, differences=True))
        if section.left_out:
            why = "which some run does not have or could not run, are in no cell"
            parts.append(f"**Warning:** {section.left_out} episodes, {why}.")
    parts.append("\n".join(f"- {note}." for note in notes(study, found, results)))
    if open_runs:
        parts.append("Not finished:\n\n" + "\n".join(f"- {name}: {why}" for name, why in open_runs.items()))
    return "\n\n".join(parts) + "\n"


def notes(study: Study, found: Sequence[Section], results: Sequence[RunResult]) -> list[str]:
    """What a reader of the numbers has to know."""
    counts = sorted({len(cell.seeds) for section in found for cell in section.cells})
    told = [METHOD]
    if counts:
        told.append(f"training seeds a cell: {' or '.join(map(str, counts))}; episodes a task: {study.episodes}")
    if 1 in counts:
        told.append(ONE_SEED)
    for what, values in (
        ("commit", [result.commit for result in results]),
        ("hardware", [result.hardware for result in results]),
        ("warning", [warning for result in results for warning in result.warnings]),
    ):
        told += [f"{what}: {value}" for value in dict.fromkeys(values) if value]
    return [note.rstrip(".") for note in told]


def _swept(study: Study) -> str:
    return f"variation of {study.variation}" if len(study.levels) > 1 else "action demos a task"


def _table(study: Study, section: Section, differences: bool) -> str:
    header = ["row", *(column(study, point) for point in points(study))]
    rows = list(study.experiments)[int(differences) :]
    lines = [[row, *(_words(section.find(row, *point), differences) for point in points(study))] for row in rows]
    return markdown_table(header, lines)


def _words(cell: Cell | None, differences: bool) -> str:
    value = None if cell is None else cell.against_first if differences else cell.rate
    if value is None:
        return "-"
    return in_words(value, "+" if differences else "")


def in_words(value: Estimate, sign: str = "") -> str:
    """A mean with its interval."""
    return f"{value.mean:{sign}.2f} ({value.low:{sign}.2f} to {value.high:{sign}.2f})"


def _document(
    study: Study, found: Sequence[Section], results: Sequence[RunResult], open_runs: Mapping[str, str]
) -> dict[str, Any]:
    cells = [{"tasks": section.name, **asdict(cell)} for section in found for cell in section.cells]
    return {
        "format": FORMAT,
        "study": study.name,
        "protocol": study.protocol["name"],
        "episodes_per_task": study.episodes,
        "notes": notes(study, found, results),
        "cells": cells,
        "not_finished": dict(open_runs),
    }


def draw(study: Study, section: Section) -> Figure:
    """Success over the columns, a line a row; columns are evenly apart, whatever their numbers."""
    figure, axes = new_figure(7.2, 4.4)
    places = points(study)
    rows = list(study.experiments)
    for index, row in enumerate(rows):
        aside = 0.06 * (index - (len(rows) - 1) / 2)  # bars of two rows do not hide each other
        cells = [(x + aside, section.find(row, *point)) for x, point in enumerate(places)]
        there = [(x, cell.rate) for x, cell in cells if cell is not None]
        bars = [[max(end, 0.0) for end in ends] for ends in _bars([rate for _, rate in there])]
        axes.errorbar(
            [x for x, _ in there],
            [rate.mean for _, rate in there],
            bars,
            label=row,
            marker=MARKS[index % len(MARKS)],
            color=COLOURS[index % len(COLOURS)],
            capsize=3,
        )
    axes.set_xticks(range(len(places)), [column(study, point) for point in places])
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xlabel(_swept(study))
    axes.set_ylabel("success rate, 95 % over seeds and episodes")
    title = study.name if section.name == ALL_TASKS else f"{study.name}: {section.name}"
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    return figure


def _bars(rates: Sequence[Estimate]) -> list[list[float]]:
    return [[rate.mean - rate.low for rate in rates], [rate.high - rate.mean for rate in rates]]
