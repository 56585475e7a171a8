"""`videopolicy report RUN`: one HTML page about an evaluation or a training run, with its videos inside."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from files.writing import write_text
from videopolicy.errors import CommandError
from videopolicy.reports import (
    Evaluation,
    TrainingRun,
    is_evaluation,
    is_training_run,
    pair,
    read_evaluation,
    read_folder,
    read_training_run,
    render,
)
from videopolicy.reports.figures import size


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
        raise CommandError(f"--max-mb {args.max_mb:g}: must be 0 or more.")
    evaluations, training = read(args.run)
    pairs = None
    if args.against is not None:
        others, _ = read(args.against)
        for path, found in ((args.run, evaluations), (args.against, others)):
            if not found:
                raise CommandError(f"{path}: holds no evaluation yet, so there is nothing to compare.")
        pairs = pair(evaluations[0], others[0])
    name = args.run.resolve().name if args.run.is_dir() else args.run.stem
    page, budget = render(name, args.run, evaluations, training, pairs, limit=int(args.max_mb * 1e6))
    output = args.output or default_output(args.run)
    write_text(output, page)
    print(f"{output}: {size(len(page.encode()))}, {len(budget.taken)} videos")
    if budget.left_out:
        print(f"left out: {len(budget.left_out)} videos, because of --max-mb {args.max_mb:g}")
    if budget.broken:
        print(f"cannot be played, left out: {', '.join(map(str, budget.broken))}")
    return 0


def read(path: Path) -> tuple[list[Evaluation], TrainingRun | None]:
    """What a path holds.

    Returns:
        Evaluations, the one to quote first; and the training run they are part of, if they are.

    Raises:
        CommandError: The path is neither an evaluation nor a training run.
    """
    if is_evaluation(path):
        return [read_evaluation(path)], None
    if is_training_run(path):
        training = read_training_run(path)
        return training.sections, training
    if path.is_dir() and (evaluations := read_folder(path)):
        return evaluations, None
    what = "neither a results file nor a folder" if path.is_file() else "neither an evaluation nor a run directory"
    raise CommandError(
        f"{path}: {what if path.exists() else 'no such file or folder'}; give what `videopolicy evaluate --output` "
        "wrote (it holds results.jsonl), or a run directory of `lightning fit` (it holds video/ or action/)."
    )


def default_output(path: Path) -> Path:
    """Where the page goes unless told otherwise: into the folder, or beside the file."""
    return path / "report.html" if path.is_dir() else path.with_suffix(".html")
