"""What is in a demo file, what is wrong with it, and how it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from datamodules.demos import demo_problems
from datamodules.errors import DatasetError
from datamodules.readers import DemoReader, RobomimicReader, demo_names, detect_reader, open_demo_file, turn_upright

THUMBNAIL = 112  # pixels of a side on the contact sheet
CAPTION = 18  # pixels of height
GAP = 10  # pixels between two cameras


@dataclass
class FileReport:
    """One demo file.

    Attributes:
        path: The file.
        layout: Which layout it is in, and which data module reads it; "unknown" otherwise.
        task: Name of the task.
        lengths: Steps of every demo, in order.
        sizes: Camera to the sizes found, e.g. "256x256".
        instructions: Distinct instructions to their number of demos.
        minimum: Smallest finite value of every action dimension, over all demos of the usual width.
        maximum: Largest ones.
        problems: What would keep the file from being trained on, one sentence each.
    """

    path: Path
    layout: str = "unknown"
    task: str = ""
    lengths: list[int] = field(default_factory=list)
    sizes: dict[str, set[str]] = field(default_factory=dict)
    instructions: dict[str, int] = field(default_factory=dict)
    minimum: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    maximum: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    problems: list[str] = field(default_factory=list)


def inspect_file(path: str | Path) -> FileReport:
    """Look at every demo of a file; problems are listed, not raised. Images are not read, actions are."""
    report = FileReport(Path(path))
    try:
        with open_demo_file(path) as file:
            reader = detect_reader(file)
            if reader is None:
                report.problems.append("no demo with camera images (data/demo_N/obs/...); collect or render some.")
                return report
            report.layout, report.task = f"{reader.title} ({reader.data_module})", reader.task(file)
            demos = [file["data"][name] for name in demo_names(file)]
            cameras = sorted({camera for demo in demos for camera in reader.cameras(demo)})
            for demo in demos:
                _inspect_demo(report, demo, reader, cameras)
    except (DatasetError, OSError) as error:
        report.problems.append(" ".join(str(error).split()).removeprefix(f"{path}: "))
    constant = [int(d) for d in np.flatnonzero(report.minimum == report.maximum)]
    if constant:
        found = ", ".join(f"{d} (always {report.minimum[d]:g})" for d in constant)
        report.problems.append(f"constant action dimensions {found}; use action_dims or constant_actions: zero.")
    return report


def contact_sheet(paths: Sequence[str | Path], demos_per_file: int = 4, moments: int = 4) -> Image.Image | None:
    """Picture of a few demos: a row a demo, for every camera some moments from its first to its last step, upright.

    Files and demos that cannot be read are left out; None if that is all of them.
    """
    rows = [row for path in paths for row in _file_rows(Path(path), demos_per_file, moments)]
    if not rows:
        return None
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _inspect_demo(report: FileReport, demo: h5py.Group, reader: DemoReader, cameras: Sequence[str]) -> None:
    name = demo.name.rpartition("/")[2]
    problems = list(demo_problems(demo, reader, cameras))
    text = reader.instruction(demo)
    if text is None:
        problems.append("no instruction; set data.init_args.instruction to what the robot was told.")
    else:
        report.instructions[text] = report.instructions.get(text, 0) + 1
    for camera in reader.cameras(demo):
        shape = demo[reader.camera_key(camera)].shape
        report.sizes.setdefault(camera, set()).add("x".join(str(n) for n in shape[1:3]))
    actions = demo.get("actions")
    if isinstance(actions, h5py.Dataset) and actions.ndim == 2:
        report.lengths.append(len(actions))
        problems += _merge_actions(report, np.asarray(actions[()], dtype=np.float64))
    else:
        report.lengths.append(0)
    report.problems += [f"{name}: {problem}" for problem in problems]


def _merge_actions(report: FileReport, actions: npt.NDArray[np.float64]) -> list[str]:
    if not len(actions):
        return []
    problems = []
    if count := int((~np.isfinite(actions)).any(1).sum()):
        problems.append(f"actions of {count} steps are not finite; remove or repair this demo.")
        actions = np.where(np.isfinite(actions), actions, np.nan)
    low, high = np.fmin.reduce(actions), np.fmax.reduce(actions)
    if not len(report.minimum):
        report.minimum, report.maximum = low, high
    elif len(low) != len(report.minimum):
        problems.append(f"actions are {len(low)} wide, those before {len(report.minimum)}; remove this demo.")
    else:
        report.minimum, report.maximum = np.fmin(report.minimum, low), np.fmax(report.maximum, high)
    return problems


def _file_rows(path: Path, num_demos: int, moments: int) -> list[Image.Image]:
    rows = []
    try:
        with open_demo_file(path) as file:
            reader = detect_reader(file) or RobomimicReader()
            names = demo_names(file)
            chosen = sorted({round(i) for i in np.linspace(0, len(names) - 1, min(num_demos, len(names)))})
            for name in (names[i] for i in chosen):
                if row := _demo_row(file["data"][name], reader, f"{reader.task(file)} {name}", moments):
                    rows.append(row)
    except (DatasetError, OSError):
        return rows  # inspect_file reports it
    return rows


def _demo_row(demo: h5py.Group, reader: DemoReader, title: str, moments: int) -> Image.Image | None:
    strips = []
    length = 0
    for camera in reader.cameras(demo):
        images = demo[reader.camera_key(camera)]
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            continue
        length = len(images)
        steps = [round(step) for step in np.linspace(0, length - 1, moments)]
        frames = [turn_upright(images[step], reader.orientation) for step in steps]
        strips.append((camera, steps, frames))
    if not strips:
        return None
    strip_width = moments * THUMBNAIL + GAP
    row = Image.new("RGB", (len(strips) * strip_width, 2 * CAPTION + THUMBNAIL + GAP), "white")
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(13)
    draw.text((4, 1), f"{title}, {length} steps: {reader.instruction(demo) or 'no instruction'}", "black", font)
    for s, (camera, steps, frames) in enumerate(strips):
        left = s * strip_width
        draw.text((left + 4, CAPTION), f"{camera}, steps {', '.join(map(str, steps))}", "dimgray", font)
        for f, frame in enumerate(frames):
            thumbnail = Image.fromarray(np.ascontiguousarray(frame)).resize((THUMBNAIL, THUMBNAIL))
            row.paste(thumbnail, (left + f * THUMBNAIL, 2 * CAPTION))
    return row
