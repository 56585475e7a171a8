"""`videopolicy inspect FILE...`: what is in demo files, and what is wrong with them."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from datamodules.contact_sheet import contact_sheet
from datamodules.demo_files import find_files
from datamodules.inspection import FileReport, inspect_file
from files.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("paths", nargs="+", metavar="FILE", help="HDF5 files, globs or folders")
    parser.add_argument("--contact-sheet", metavar="PNG", help="also draw frames of a few demos of every file")
    parser.add_argument("--demos", type=int, default=4, help="demos of a file on the contact sheet (default 4)")


def run(args: argparse.Namespace) -> int:
    """Print one report a file; returns 1 if there is any problem."""
    files = find_files(args.paths)
    console = Console(markup=False, soft_wrap=True, highlight=False)
    reports = [inspect_file(path) for path in files]
    for report in reports:
        print_report(console, report)
    if len(reports) > 1:
        demos, steps = sum(len(r.lengths) for r in reports), sum(sum(r.lengths) for r in reports)
        console.print(f"{len(reports)} files, {demos} demos, {steps} steps")
    if args.contact_sheet:
        save_contact_sheet(Path(args.contact_sheet), files, args.demos)
        console.print(f"contact sheet: {args.contact_sheet}")
    return int(any(report.problems for report in reports))


def print_report(console: Console, report: FileReport) -> None:
    """Print what is known of one file."""
    table = Table(title=Text(str(report.path)), title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for name, value in rows(report):
        table.add_row(name, Text(value))
    console.print(table)
    for note in report.notes:
        console.print(f"  note: {note}", style="yellow")
    for problem in report.problems:
        console.print(f"  problem: {problem}", style="red")
    if not report.problems:
        console.print("  no problems found", style="green")
    console.print()


def rows(report: FileReport) -> list[tuple[str, str]]:
    """Name and value of every line of a report."""
    if report.layout == "unknown" or not report.lengths:
        return [("layout", report.layout)]
    lengths = report.lengths
    spread = f"{min(lengths)} to {max(lengths)}, mean {sum(lengths) / len(lengths):.1f}, {sum(lengths)} in all"
    described = [
        ("layout", report.layout),
        ("task", report.task),
        *([("env_version", report.env_version)] if report.env_version else []),
        ("demos", str(len(lengths))),
        ("steps", spread),
        ("pairing", report.timing),
        ("stored", report.stored),
        *(("camera", f"{camera} {', '.join(sorted(sizes))}") for camera, sizes in sorted(report.sizes.items())),
        *(("instruction", f"{text} ({count})") for text, count in list(report.instructions.items())[:10]),
    ]
    if (more := len(report.instructions) - 10) > 0:
        described.append(("instruction", f"... and {more} more"))
    for dim, (low, high) in enumerate(zip(report.minimum, report.maximum, strict=True)):
        described.append((f"action {dim}", f"{low:.4g} to {high:.4g}"))
    return described


def save_contact_sheet(path: Path, files: list[Path], demos: int) -> None:
    """Draw and store the picture.

    Raises:
        UserError: No demo can be drawn, or the picture cannot be written.
    """
    sheet = contact_sheet(files, demos_per_file=demos)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --contact-sheet."
        ) from None
