"""How demos look: a few moments of a few demos on one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datamodules.hdf5 import READ_ERRORS, demo_file, why_not_read
from datamodules.pictures import Orientation, turn_upright
from datamodules.readers import DemoReader, demo_group, demo_names, detect_reader, no_images, unknown_layout
from files.errors import UserError

THUMBNAIL = 112  # pixels of a side
CAPTION = 18  # pixels of height
GAP = 10  # pixels between two cameras


def contact_sheet(paths: Sequence[str | Path], demos_per_file: int = 4, moments: int = 4) -> Image.Image:
    """Picture of a few demos: a row a demo, for every camera some moments from its first to its last step, upright.

    Files and demos that cannot be read are left out.

    Raises:
        UserError: That is all of them; says why the first cannot be drawn.
    """
    reasons: list[str] = []
    rows = [row for path in paths for row in _file_rows(Path(path), demos_per_file, moments, reasons)]
    if not rows:
        raise UserError(f"no demo can be drawn: {reasons[0] if reasons else 'there is none'}")
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _file_rows(path: Path, num_demos: int, moments: int, reasons: list[str]) -> list[Image.Image]:
    rows = []
    try:
        with demo_file(path) as file:
            if (reader := detect_reader(file)) is None:
                raise UserError(f"{path}: {unknown_layout(file)}")
            names = demo_names(file)
            chosen = sorted({round(i) for i in np.linspace(0, len(names) - 1, min(num_demos, len(names)))})
            for name in (names[i] for i in chosen):
                try:
                    title = f"{reader.task(file)} {name}"
                    rows.append(_demo_row(demo_group(file, name), reader, reader.orientation(file), title, moments))
                except UserError as error:
                    reasons.append(str(error))
    except UserError as error:
        reasons.append(str(error))
    return rows


def _demo_row(demo: h5py.Group, reader: DemoReader, orientation: Orientation, title: str, moments: int) -> Image.Image:
    where = f"{demo.file.filename} {demo.name.rpartition('/')[2]}"
    strips = []
    length = 0
    for camera, key in reader.keys_by_camera(demo).items():
        try:
            images = reader.pictures(demo, camera)
            if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
                continue
            length = len(images)
            steps = [round(step) for step in np.linspace(0, length - 1, moments)]
            strips.append((camera, steps, [turn_upright(images[step], orientation) for step in steps]))
        except READ_ERRORS as error:
            raise UserError(f"{where}: {why_not_read(demo['obs'], key, error)}.") from None
    if not strips:
        raise UserError(f"{where}: {no_images(demo)}")
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
