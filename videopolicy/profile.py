"""`videopolicy profile`: parameters, FLOPs and memory by part, and seconds on this machine: what a run will take."""

from __future__ import annotations

import argparse
import json
import math
import warnings
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from videopolicy.errors import CommandError
from videopolicy.experiment.command_line import CommandLine, add_overrides, parse
from videopolicy.experiment.files import STAGES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "-c", "--config", action="append", required=True, metavar="FILE", help="an experiment; several are merged"
    )
    parser.add_argument("--stage", help=f"one stage only: {', '.join(STAGES)} (default: all that the file has)")
    parser.add_argument("--meta", action="store_true", help="compute only: no weights, no demos, no GPU, nothing run")
    parser.add_argument("--device", help="where to measure, for instance cuda (default: a GPU if there is one)")
    parser.add_argument("--seconds", type=float, default=5.0, help="timed seconds of each measurement (default 5)")
    parser.add_argument(
        "--fits", action="store_true", help="only: what fits, by what is trained, optimizer and devices"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    add_overrides(parser, "--data.batch_size 4")


def run(args: argparse.Namespace) -> int:
    """Print the report; with --json write it too."""
    if not (math.isfinite(args.seconds) and args.seconds > 0):
        raise CommandError(f"--seconds {args.seconds:g}: must be more than 0.")
    line = parse(["fit", *(word for path in args.config for word in ("-c", path)), *args.overrides])
    line.stage = args.stage
    stages = line.stages(line.experiment())
    if args.json:
        require_writable(Path(args.json))
    from rich.console import Console  # heavy imports come once the arguments are known to be good

    from videopolicy.experiment.skeleton import random_stage, skeleton
    from videopolicy.hardware import chosen_device
    from videopolicy.profiling.estimate import estimate
    from videopolicy.profiling.fits import ways_to_train
    from videopolicy.profiling.stage_timing import require_memory, time_stage
    from videopolicy.profiling.tables import print_stage, stage_document, ways_document, ways_table

    device = None if args.meta or args.fits else chosen_device(args.device)
    console = Console(markup=False, highlight=False)
    documents: dict[str, Any] = {}
    for stage in stages:
        setting = setting_of(line, stage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Lightning's, on a stage without data and checkpoints
            if args.fits:
                ways = ways_to_train(partial(skeleton, line.configs, stage, line.overrides), setting)
                console.rule(f"{stage} stage: {setting.precision}", align="left")
                console.print(ways_table(ways, setting.batch_size))
                documents[stage] = {"ways": ways_document(ways, setting.batch_size)}
                continue
            counted = estimate(skeleton(line.configs, stage, line.overrides), setting)
            measured = {}
            if device is not None:
                require_memory(stage, counted, device)
                measured = time_stage(random_stage(line, stage), counted, device, args.seconds)
        print_stage(console, stage, counted, measured)
        documents[stage] = stage_document(counted, measured)
    if args.json:
        Path(args.json).write_text(json.dumps(document(line, documents, device), indent=2) + "\n")
        console.print(f"written: {args.json}")
    return 0


def require_writable(path: Path) -> None:
    """Fail before minutes of counting, not after.

    Raises:
        CommandError: Nothing can be written there.
    """
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise CommandError(f"--json {path}: cannot be written ({error.strerror}); choose another file.") from None


def setting_of(line: CommandLine, stage: str) -> Any:  # noqa: ANN401 - imported late
    """How the experiment trains a stage."""
    from videopolicy.experiment.skeleton import complete_config
    from videopolicy.profiling.estimate import Setting

    return Setting.of(complete_config(line, stage))


def document(line: CommandLine, stages: dict[str, Any], device: Any) -> dict[str, Any]:  # noqa: ANN401
    """The whole report as JSON holds it; a key's ending is its unit."""
    from videopolicy.hardware import hardware
    from videopolicy.profiling.counting import COUNTED
    from videopolicy.versions import git_commit

    return {
        "experiment": list(line.configs),
        "overrides": {key: value for key, value in line.overrides},
        "counted": COUNTED,
        "hardware": None if device is None else hardware(device),
        "commit": git_commit(),
        "date": date.today().isoformat(),
        "stages": stages,
    }
