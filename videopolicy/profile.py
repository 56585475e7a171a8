"""`videopolicy profile`: parameters, FLOPs and an estimate of memory, by part: what a run will take."""

from __future__ import annotations

import argparse
import json
import warnings
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from files.errors import UserError
from videopolicy.experiment.command_line import CommandLine, add_overrides, parse
from videopolicy.experiment.files import STAGES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "-c", "--config", action="append", required=True, metavar="FILE", help="an experiment; several are merged"
    )
    parser.add_argument("--stage", help=f"one stage only: {', '.join(STAGES)} (default: all that the file has)")
    parser.add_argument("--meta", action="store_true", help=argparse.SUPPRESS)  # older command lines; all is computed
    parser.add_argument(
        "--fits", action="store_true", help="only: what fits, by what is trained, optimizer and devices"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    add_overrides(parser, "--data.batch_size 4")


def run(args: argparse.Namespace) -> int:
    """Print the report; with --json write it too."""
    line = parse(["fit", *(word for path in args.config for word in ("-c", path)), *args.overrides])
    line.stage = args.stage
    stages = line.stages(line.experiment())
    if args.json:
        require_writable(Path(args.json))
    from rich.console import Console  # heavy imports come once the arguments are known to be good

    console = Console(markup=False, highlight=False)
    documents = {stage: profile_stage(line, stage, args.fits, console) for stage in stages}
    if args.json:
        Path(args.json).write_text(json.dumps(document(line, documents), indent=2) + "\n")
        console.print(f"written: {args.json}")
    return 0


def profile_stage(line: CommandLine, stage: str, fits: bool, console: Any) -> dict[str, Any]:  # noqa: ANN401
    """Print what a stage takes, or with `fits` what fits; returns it as plain values."""
    from videopolicy.experiment.skeleton import complete_config, skeleton
    from videopolicy.profiling.fits import ways_to_train
    from videopolicy.profiling.memory import Setting
    from videopolicy.profiling.report import estimate, print_stage, stage_document, ways_document, ways_table

    setting, make = Setting.of(complete_config(line, stage)), partial(skeleton, line.configs, stage, line.overrides)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning's, on a stage without data, Trainer and checkpoints
        made = make()
        policy = getattr(made, "policy", made)
        if not hasattr(policy, "video"):
            raise UserError(
                f"{' + '.join(line.configs)}: the {stage} stage trains a {type(policy).__name__}, whose parts profile "
                "does not know; give an experiment with a video model."
            )
        if fits:
            ways = ways_to_train(make, setting)
            console.rule(f"{stage} stage: {setting.precision}", align="left")
            console.print(ways_table(ways, setting.batch_size))
            return {"ways": ways_document(ways, setting.batch_size)}
        counted = estimate(made, setting)
    print_stage(console, stage, counted)
    return stage_document(counted)


def require_writable(path: Path) -> None:
    """Fail before minutes of counting, not after.

    Raises:
        UserError: Nothing can be written there.
    """
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise UserError(f"--json {path}: cannot be written ({error.strerror}); choose another file.") from None


def document(line: CommandLine, stages: dict[str, Any]) -> dict[str, Any]:
    """The whole report as JSON holds it; a key's ending is its unit."""
    from videopolicy.profiling.counting import COUNTED
    from videopolicy.versions import git_commit

    return {
        "experiment": list(line.configs),
        "overrides": {key: value for key, value in line.overrides},
        "counted": COUNTED,
        "commit": git_commit(),
        "date": date.today().isoformat(),
        "stages": stages,
    }
