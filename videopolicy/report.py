"""`videopolicy report RUN`: one HTML page about an evaluation or a training run, with its videos inside."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from files.errors import UserError
from files.writing import write_text
from videopolicy.reports.contents import read_contents
from videopolicy.reports.page import render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="a run directory, a folder of `evaluate --output`, or of several",
    )
    parser.add_argument("--against", type=Path, metavar="RUN", help="another one over the same episodes, in pairs")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (default RUN/report.html)")
    parser.add_argument("--max-mb", type=float, default=20.0, help="size limit of the page in MB (default 20)")


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is and what did not fit."""
    if not (math.isfinite(args.max_mb) and args.max_mb >= 0):
        raise UserError(f"--max-mb {args.max_mb:g}: must be 0 or more.")
    contents = read_contents(args.run)
    other = None
    if args.against is not None:
        against = read_contents(args.against)
        for part in (contents, against):
            if not part.sections:
                raise UserError(f"{part.path}: holds no evaluation yet, so there is nothing to compare.")
        other = against.sections[0]
    page, budget = render(contents, other, limit=int(args.max_mb * 1e6))
    output = args.output or (args.run / "report.html" if args.run.is_dir() else args.run.with_suffix(".html"))
    write_text(output, page)
    print(f"{output}: {len(page.encode()) / 1e6:.3g} MB, {len(budget.taken)} videos")
    if budget.left_out:
        print(f"left out: {len(budget.left_out)} videos, because of --max-mb {args.max_mb:g}")
    if budget.broken:
        print(f"cannot be played, left out: {', '.join(map(str, budget.broken))}")
    return 0
