"""`videopolicy variation`: success over growing variation, one curve a kind."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from rich.console import Console

from files.errors import UserError
from rollouts import EpisodeResult
from rollouts.worker_process import check_simulator
from simulators import SimulatorConfig
from simulators.variations import KINDS
from videopolicy.evaluation.prepared import prepare
from videopolicy.evaluation.request import EvaluationRequest
from videopolicy.evaluation.run import evaluate, exit_status, say_warnings
from videopolicy.evaluation.variation_curve import Curve, Place, write_curve

STANDARD = "standard"
"""Folder of level 0, which all kinds share."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments: those of `evaluate`, kinds and levels."""
    EvaluationRequest.add_arguments(parser)
    parser.add_argument(
        "--kinds", default=",".join(KINDS), help=f"what to vary, comma separated (default {','.join(KINDS)})"
    )
    parser.add_argument("--levels", default="0,0.5,1,1.5", help="levels of each kind (default 0,0.5,1,1.5)")


def run(args: argparse.Namespace) -> int:
    """Evaluate every point that is not there yet, and draw the curve after each.

    Raises:
        UserError: The options do not say what to do.
        SimulatorError: The simulator cannot vary one of the kinds.
    """
    request = EvaluationRequest.of(args)
    if request.output is None:
        raise UserError("no --output DIR; every kind and level gets a folder in it, beside curve.png.")
    kinds, levels = read_kinds(args.kinds), read_levels(args.levels)
    prepared, console = prepare(request), Console(markup=False)
    protocol = prepared.protocol
    if twice := [kind for kind in kinds if kind in protocol.simulator.variation]:
        raise UserError(f"--variation and --kinds both name {twice}; vary a kind in one of them only.")
    require_able(protocol.simulator, kinds, levels)
    say_warnings(protocol, console)
    curve = Curve(dict(prepared.identity), protocol.name, protocol.episodes_per_task, protocol.simulator.to_dict())
    everything: list[EpisodeResult] = []
    try:
        for point in points(kinds, levels):
            console.print(f"{point.kind or STANDARD} {point.level:g}", style="bold")
            variation = {**protocol.simulator.variation, **({point.kind: point.level} if point.kind else {})}
            varied = replace(protocol, simulator=replace(protocol.simulator, variation=variation))
            results = evaluate(replace(prepared, protocol=varied), request, request.output / point.folder, console)
            everything += results
            curve.add(point, results)
            write_curve(curve, request.output)
    except KeyboardInterrupt:
        console.print(f"stopped; the same command goes on with what is missing in {request.output}", markup=False)
        return 130
    console.print(curve.table())
    say = partial(console.print, soft_wrap=True, markup=False)
    say(f"curve: {request.output}/curve.png, .md, .json")
    return exit_status(everything, say)


def read_kinds(text: str) -> list[str]:
    """Kinds of variation from what follows `--kinds`.

    Raises:
        UserError: A kind is unknown or comes twice; lists those there are.
    """
    kinds = [word.strip() for word in text.split(",")]
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"--kinds {text}: unknown {unknown}; there are {','.join(KINDS)}.")
    if len(set(kinds)) < len(kinds):
        raise UserError(f"--kinds {text}: name each kind once.")
    return kinds


def read_levels(text: str) -> list[float]:
    """Levels, growing, with 0 among them, from what follows `--levels`.

    Raises:
        UserError: One is no number or below 0.
    """
    try:
        levels = {float(word) for word in text.split(",")}
    except ValueError as error:
        raise UserError(f"--levels {text}: not numbers; write for instance 0,0.5,1,1.5.") from error
    if wrong := [level for level in levels if not math.isfinite(level) or level < 0]:
        raise UserError(f"--levels {text}: {wrong} are no levels; a level is a finite number, 0 or more.")
    if levels <= {0.0}:
        raise UserError(f"--levels {text}: nothing to vary; name a level above 0.")
    return sorted(levels | {0.0})


def require_able(simulator: SimulatorConfig, kinds: Sequence[str], levels: Sequence[float]) -> None:
    """Ask the simulator about all kinds before the first episode."""
    check_simulator(replace(simulator, variation={**simulator.variation, **dict.fromkeys(kinds, max(levels))}))


def points(kinds: Sequence[str], levels: Sequence[float]) -> Iterator[Place]:
    """Everything to run: the standard once, then small levels first, so that the whole curve grows."""
    yield Place("", 0.0, STANDARD)
    for level in levels:
        if level > 0:
            for kind in kinds:
                yield Place(kind, level, f"{kind}_{level:g}")
