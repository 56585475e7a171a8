"""`videopolicy cache`: every distinct frame and instruction of an experiment encoded once, for training to read."""

from __future__ import annotations

import argparse
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
    parser.add_argument(
        "--stage", help=f"take data and networks of this stage: {', '.join(STAGES)} (default: the first)"
    )
    parser.add_argument(
        "--variants", type=int, default=4, help="draws of colour jitter and noise besides the plain one (default 4)"
    )
    parser.add_argument("--output", metavar="DIR", help="the cache (default: latents/<name of the experiment file>)")
    parser.add_argument("--device", help="where to encode, for instance cuda (default: a GPU if there is one)")
    parser.add_argument("--rebuild", action="store_true", help="replace what was made with other settings or files")
    add_overrides(parser, "--data.image_size 128")


def run(args: argparse.Namespace) -> int:
    """Encode what is not there yet."""
    if args.variants < 0:
        raise UserError(f"--variants {args.variants}: must be 0 or more.")
    line = parse(["fit", *(word for path in args.config for word in ("-c", path)), *args.overrides])
    line.stage = args.stage
    stage = line.stages(line.experiment())[0]
    from rich.console import Console  # heavy imports come once the arguments are known to be good

    from videopolicy.hardware import chosen_device
    from videopolicy.latent_encoding import FrameEncoder

    device = chosen_device(args.device)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    data, autoencoder, text_encoder, condition_noise = parts(line, stage)
    demos = data.demos()
    encoder = FrameEncoder(data, autoencoder.to(device), text_encoder.to(device), condition_noise, args.variants)
    folder = Path(args.output or Path("latents") / Path(args.config[0]).stem)
    encoder.fill(folder, demos, console, args.rebuild)
    console.print(f"complete: set data.init_args.latent_cache to {folder}")
    return 0


def parts(line: CommandLine, stage: str) -> tuple[Any, Any, Any, float]:
    """Data module, autoencoder, text encoder and condition noise of a stage; its U-Net is not built.

    Raises:
        UserError: The experiment names no autoencoder or text encoder.
    """
    from networks.component_config import build
    from videopolicy.experiment.stage_run import StageRun

    cli = StageRun(line.stage_config(line.experiment(), stage))
    data = cli.data_alone()
    video = cli.document["model"]["init_args"]["video"]["init_args"]
    data.latent_cache = None  # it is what is being made
    return data, build(video["autoencoder"]), build(video["text_encoder"]), float(video["condition_noise"])
