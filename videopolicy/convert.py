"""`videopolicy convert`: Stable Video Diffusion and published weights into a checkpoint of ours, and back."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

from files.errors import UserError
from lightning_modules import Stage
from networks.checkpoints.file import write_checkpoint, write_safetensors
from videopolicy.conversion.description import Description, networks_of
from videopolicy.conversion.layout import part_of
from videopolicy.conversion.plan import PartSummary, Plan, cast, native_tables, plan, published_table
from videopolicy.conversion.source import REFERENCE_ONLY, Source, read_source

DTYPES = ("float32", "float16", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add = parser.add_argument
    add("--from", dest="kind", required=True, choices=("svd", "reference", "native"), help="what the input is")
    add("--to", dest="layout", required=True, choices=("native", "reference"), help="what the output shall be")
    add("--input", required=True, help="a .ckpt or .safetensors; with --from svd also a diffusers folder or hub id")
    add("--output", required=True, type=Path, help="a .ckpt; with --to reference also a .safetensors")
    add("--dtype", choices=DTYPES, help="type of the floating-point weights (default: as they are)")
    add("--ignore", nargs="+", default=[], metavar="PATTERN", help="names that may be missing, unknown or misshaped")
    add(
        "-c",
        "--config",
        action="append",
        type=Path,
        default=[],
        help="experiment whose networks the weights are of; with --to native it makes them a whole checkpoint",
    )
    add(
        "--model.video",
        dest="video",
        type=Path,
        help="a video model (a part file) in place of the experiment's, or alone: bare weights of a video network",
    )
    add("--statistics", type=Path, help="JSON with minimum and maximum of the actions (default: from the demos)")
    add("--force", action="store_true", help="replace an output that is there")


def run(args: argparse.Namespace) -> int:
    """Convert, and print what was found and written."""
    console = Console(markup=False)
    require_usable(args)
    description = Description(args.config, args.video, args.statistics) if args.config else None
    with progress_bar(console) as progress:
        task = progress.add_task("reading", total=input_size(args.input))
        source = read_source(args.kind, args.input, lambda size: progress.advance(task, size))
        model = networks(source, args, description)
        found = plan(source, model, args.ignore)
        progress.update(task, completed=progress.tasks[task].total or 0)
        if args.layout == "native":
            document = native_document(source, found, args, description, model)
        else:
            document = reference_document(source, found, args)
        write(document, args.output, progress)
    console.print(table(found.parts, args.dtype))
    for name in found.ignored:
        console.print(f"left out: {name}", highlight=False, soft_wrap=True)
    size = args.output.stat().st_size
    console.print(f"{args.output}: {args.layout}, {size / 1e9:.2f} GB", highlight=False, soft_wrap=True)
    return 0


def require_usable(args: argparse.Namespace) -> None:
    """Refuse arguments that do not go together, before anything is read.

    Raises:
        UserError: The output is there, has the wrong ending, or an option has no use.
    """
    endings = {"native": (".ckpt",), "reference": (".ckpt", ".safetensors")}[args.layout]
    if args.output.suffix not in endings:
        raise UserError(f"--output {args.output}: a {args.layout} file ends in {' or '.join(endings)}.")
    if args.output.is_dir():
        raise UserError(f"--output {args.output}: is a folder; give a file.")
    if args.output.exists() and not args.force:
        raise UserError(f"{args.output}: is there already; give another --output, or --force to replace it.")
    if args.statistics and (args.layout != "native" or not args.config):
        raise UserError(
            "--statistics: of no use without an experiment and --to native; add -c experiments/robocasa.yaml."
        )
    if args.kind != "native" and not args.config and not args.video:
        raise UserError(
            f"--from {args.kind}: such a file does not say how large its networks are; give the experiment (-c "
            "experiments/robocasa.yaml), or for a video network alone --model.video experiments/networks/svd.yaml."
        )
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written ({error.strerror}); choose another.") from None
    if not os.access(args.output.parent, os.W_OK):
        raise UserError(f"--output {args.output}: its folder is read-only; choose another.")


def networks(source: Source, args: argparse.Namespace, description: Description | None) -> Any:  # noqa: ANN401
    """The networks that the weights are of, on the meta device: the experiment's, or what the file says of itself."""
    if description is None:
        return networks_of(source, args.video)
    acts = any(part_of(name, source.naming) == "action_unet" for name in source.weights)
    return description.networks(acts, whole=args.layout == "native")


def native_document(
    source: Source,
    found: Plan,
    args: argparse.Namespace,
    description: Description | None,
    model: Any,  # noqa: ANN401 - a stage, where there is a description
) -> dict[str, Any]:
    """A checkpoint of ours; the weights move out of the source."""
    state, extras = native_tables(source, found)
    described = source.description
    if description is not None:
        assert isinstance(model, Stage), "a description's networks are a stage's"
        described = description.entries(args.input, list(state), model)
    for weights in (state, extras):
        as_wanted(weights, args.dtype)
    begin = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": lightning.__version__}
    return {**begin, **described, "state_dict": state, REFERENCE_ONLY: extras}


def reference_document(source: Source, found: Plan, args: argparse.Namespace) -> dict[str, Any]:
    """A published checkpoint; the weights move out of the source."""
    weights = published_table(source, found)
    as_wanted(weights, args.dtype)
    return weights if args.output.suffix == ".safetensors" else {"state_dict": weights}


def as_wanted(weights: dict[str, Tensor], dtype: str | None) -> None:
    """Cast a table in place where a type is asked for."""
    if dtype is not None:
        cast(weights, getattr(torch, dtype))


def write(document: dict[str, Any], output: Path, progress: Progress) -> None:
    """Write the output in one step."""
    tables = [value for value in document.values() if isinstance(value, dict)] or [document]
    size = sum(t.nbytes for weights in tables for t in weights.values() if isinstance(t, Tensor))
    task = progress.add_task("writing", total=size)
    if output.suffix == ".safetensors":
        write_safetensors(document, output)
    else:
        write_checkpoint(document, output, lambda written: progress.advance(TaskID(task), written))
    progress.update(task, completed=size)


def table(parts: list[PartSummary], dtype: str | None) -> Table:
    """What was found, part by part."""
    result = Table(title="Parts")
    for column in ("part", "keys", "parameters", "matched", "dtype"):
        result.add_column(column, justify="left" if column in ("part", "dtype") else "right")
    for part in parts:
        matched = "" if part.matched is None else f"{part.matched}/{part.keys}"
        counts = (str(part.keys), f"{part.parameters:,}", matched) if part.keys else ("absent", "", "")
        result.add_row(
            part.label, *counts, " to ".join([", ".join(part.dtypes), *([dtype] if dtype and part.dtypes else [])])
        )
    return result


def input_size(path: str) -> int | None:
    """Bytes to read, where that is known."""
    where = Path(path)
    return where.stat().st_size if where.is_file() else None


@contextmanager
def progress_bar(console: Console) -> Iterator[Progress]:
    """Bytes read and written; gone when done."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress
