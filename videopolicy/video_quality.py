"""`videopolicy video-quality`: whether a video network films, on demos that it was not trained on."""

from __future__ import annotations

import argparse
from pathlib import Path

from files.errors import UserError
from videopolicy.experiment.command_line import add_overrides, parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="of a video stage, or of a policy that has one")
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        metavar="FILE",
        help="the experiment, for its held-out demos and its sampler (default: the one recorded beside the checkpoint)",
    )
    parser.add_argument(
        "--steps", type=steps_of, default=[1, 2, 5, 10, 30], help="numbers of sampling steps (default 1,2,5,10,30)"
    )
    parser.add_argument("--demos", type=count, default=64, help="at most so many held-out demos (default 64)")
    parser.add_argument("--windows", type=count, default=4, help="windows a demo (default 4)")
    parser.add_argument("--sheets", type=int, default=6, help="demos to draw (default 6)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: video_quality in the stage's folder")
    parser.add_argument("--device", help="for instance cuda (default: a GPU if there is one)")
    add_overrides(parser, "--data.init_args.paths demos/other.hdf5")


def steps_of(text: str) -> list[int]:
    """Numbers of steps, ascending."""
    return sorted({count(number) for number in text.split(",")})


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Measure, write the report, and print its first table."""
    config = args.config or [str(recorded_config(args.checkpoint))]
    line = parse(["fit", *(word for path in config for word in ("-c", path)), *args.overrides])
    experiment = line.experiment()
    stage = line.stage_config(experiment, line.stages(experiment)[0])

    from rich.console import Console  # heavy imports come once the arguments are known to be good

    from videopolicy.evaluation.tables import terminal_table
    from videopolicy.filming.report import short_table, write_report, write_sheets
    from videopolicy.filming.run import film

    console = Console(markup=False, highlight=False)
    filmed = film(args.checkpoint, stage, args.steps, args.demos, args.windows, args.sheets, args.device, console)
    output = args.output or default_output(args.checkpoint)
    write_report(output, filmed.facts, filmed.rows)
    sheets = write_sheets(output, filmed.shown, filmed.preprocessing)
    console.print(filmed.facts["summary"])
    console.print(terminal_table("Mean of the cameras", *short_table(filmed.rows), names=("",)))
    console.print(f"written: {output}/results.md, results.json, {len(sheets)} sheets")
    return 0


def recorded_config(checkpoint: Path) -> Path:
    """The config that a run keeps beside its checkpoints.

    Raises:
        UserError: There is none.
    """
    path = checkpoint.parent.parent / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{checkpoint}: no experiment is recorded beside it ({path}); name the one whose held-out demos are to be "
            "filmed with -c."
        )
    return path


def default_output(checkpoint: Path) -> Path:
    """A folder beside the checkpoint's own."""
    folder = checkpoint.parent
    return (folder.parent if folder.name == "checkpoints" else folder) / "video_quality"
