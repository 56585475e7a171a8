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

    from videopolicy.experiment.skeleton import skeleton
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
                measured = time_stage(with_weights(line, stage), counted, device, args.seconds)
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


def chosen_device(name: str | None) -> Any:  # noqa: ANN401 - torch is not imported yet
    """The device asked for, or a GPU, or the CPU.

    Raises:
        CommandError: There is no such device.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if has_gpu else "cpu"))
    except RuntimeError:
        device = None
    there = "cpu and cuda" if has_gpu else "cpu only"
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cuda" and not has_gpu):
        raise CommandError(f"--device {name}: not on this machine, which has {there}; --meta needs none.")
    return device


def setting_of(line: CommandLine, stage: str) -> Any:  # noqa: ANN401 - imported late
    """How the experiment trains a stage."""
    from videopolicy.profiling.estimate import Setting

    return Setting.of(_parsed(line, stage).config_document)


def with_weights(line: CommandLine, stage: str) -> Any:  # noqa: ANN401 - imported late
    """The stage with random weights, told of the data's layout."""
    from videopolicy.experiment.skeleton import expected_preprocessing

    model, data = _parsed(line, stage).parts()
    model.attach(expected_preprocessing(data))
    return model


def _parsed(line: CommandLine, stage: str) -> Any:  # noqa: ANN401 - imported late
    from videopolicy.experiment.skeleton import without_weights
    from videopolicy.experiment.stage_cli import StageCLI

    return StageCLI("fit", without_weights(line.stage_config(line.experiment(), stage)), instantiate=False)


def document(line: CommandLine, stages: dict[str, Any], device: Any) -> dict[str, Any]:  # noqa: ANN401
    """The whole report as JSON holds it; a key's ending is its unit."""
    from networks.counting import COUNTED
    from videopolicy.profiling.stopwatch import hardware
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
