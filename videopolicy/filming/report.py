"""What was found, as tables, JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from callbacks.clips import grid
from datamodules import Preprocessing
from files.writing import replacing, write_text
from videopolicy.evaluation.tables import between, markdown_table
from videopolicy.filming.measure import WRONG, Row, Shown
from videopolicy.filming.scores import SCORES

FORMAT = 1
NOTE = """\
Future frames only; the first one is given. Skill: 1 - MSE / MSE of holding the current picture (0: no better than a
still picture, 1: perfect). Moving: pixels that change by more than a tenth of the range in any future frame of the
window; still: the others. Errors are summed over windows, and frames, before ratios and logarithms; means are of
cameras. In brackets: 95 % interval over demos (bootstrap of {resamples} draws). Difference: of moving skill, on the
same demos and from the same noise, to the first row; of a control to the instruction with as many steps.
"""


def write_report(folder: Path, facts: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write ``results.json`` and ``results.md``.

    Args:
        folder: Where.
        facts: What was measured, on what.
        rows: `Measured.document` of every row, with its ``condition``, ``steps`` and ``seconds_per_window``.
    """
    document = {"format": FORMAT, **facts, "rows": rows}
    write_text(folder / "results.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    write_text(folder / "results.md", to_markdown(facts, rows))


def to_markdown(facts: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """All tables: the mean of the cameras, each camera, and moving skill frame by frame."""
    parts = [f"# Does it film? {facts['checkpoint']}", facts["summary"], NOTE.format(resamples=facts["resamples"])]
    head, cells = mean_table(rows)
    parts += ["## Mean of the cameras", markdown_table(head, cells)]
    for camera in rows[0]["cameras"]:
        lines = [[row_name(row), *(cell(row["cameras"][camera][name], name) for name in SCORES)] for row in rows]
        parts += [f"## {camera}", markdown_table(["", *SCORES.values()], lines)]
        by_frame = [(row, row["frames"][camera]["skill_moving"]) for row in rows]
        lines = [[row_name(row), *(cell(value, "skill_moving") for value in values)] for row, values in by_frame]
        numbers = [f"frame {number + 1}" for number in range(len(by_frame[0][1]))]
        parts += ["Skill of moving pixels, frame by frame:", markdown_table(["", *numbers], lines)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def mean_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the first table."""
    head = ["", *SCORES.values(), "difference", "s a window"]
    cells = [
        [
            row_name(row),
            *(cell(row["mean"][name], name) for name in SCORES),
            cell(row["difference"]["skill_moving"], "skill_moving", sign="+"),
            f"{row['seconds_per_window']:.2g}",
        ]
        for row in rows
    ]
    return head, cells


def short_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and cells of what a terminal has room for."""
    head = ["", "moving skill", "difference", "skill", "PSNR"]
    cells = []
    for row in rows:
        mean, moved = row["mean"], row["difference"]["skill_moving"]
        values = [cell(mean["skill_moving"], "skill_moving"), cell(moved, "skill_moving", sign="+")]
        cells.append(
            [row_name(row), *values, *(cell(mean[name], name).partition(" ")[0] for name in ("skill", "psnr"))]
        )
    return head, cells


def row_name(row: Mapping[str, Any]) -> str:
    """Condition and steps in words."""
    return str(Row(row["condition"], row["steps"]))


def cell(value: Sequence[float | None], name: str, sign: str = "") -> str:
    """A value with its interval; a dash where there is none."""
    middle, low, high = value
    if middle is None:
        return "-"
    digits = 1 if name.startswith("psnr") else 4 if name == "latent_mse" else 2
    around = "" if low is None or high is None else f" ({between(low, high, digits, sign)})"
    return f"{middle:{sign}.{digits}f}{around}"


def draw(shown: Shown, preprocessing: Preprocessing) -> Image.Image:
    """A band for the truth and for every row: the first camera's frames from left to right, then the next one's."""

    def strips(pictures: Tensor) -> list[Any]:
        clips = preprocessing.to_uint8(pictures).permute(0, 3, 1, 4, 2)  # (V, H, T, W, 3)
        return [clip.flatten(1, 2).numpy()[None] for clip in clips]

    def caption(row: Row | None) -> str:
        if row is None:
            return f"true: {shown.title}"
        return f"{row}: {shown.wrong}" if row.condition == WRONG else str(row)

    sheet = grid([(caption(row), strips(pictures)) for row, pictures in shown.pictures.items()])
    return Image.fromarray(sheet[0])


def write_sheets(folder: Path, shown: Sequence[Shown], preprocessing: Preprocessing) -> list[Path]:
    """Draw every window that was kept into a PNG of its own."""
    paths = [folder / f"sheet_{number}.png" for number in range(len(shown))]
    for path, one in zip(paths, shown, strict=True):
        with replacing(path) as part:
            draw(one, preprocessing).save(part, format="PNG")
    return paths
