"""`videopolicy evaluate`: success rates of a policy, outside training."""

from __future__ import annotations

import argparse
from functools import partial

from rich.console import Console

from rollouts import summarize
from videopolicy.evaluation.live_table import success_table
from videopolicy.evaluation.prepared import prepare
from videopolicy.evaluation.request import EvaluationRequest
from videopolicy.evaluation.results_directory import read_evaluation
from videopolicy.evaluation.run import evaluate, exit_status, say_warnings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments; what is not given is the protocol's, or what the checkpoint was trained with."""
    EvaluationRequest.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, and say where results and videos are; 1 if no episode could be run."""
    request, console = EvaluationRequest.of(args), Console(markup=False)
    prepared = prepare(request)
    say_warnings(prepared.protocol, console)
    output = request.output or prepared.default_output(request.checkpoint)
    try:
        results = evaluate(prepared, request, output, console)
    except KeyboardInterrupt:
        console.print(f"stopped; the same command goes on with what is missing in {output}", markup=False)
        return 130
    rates = {prepared.identity["kind"]: summarize(results, prepared.protocol.groups)}
    console.print(success_table(rates, read_evaluation(output).summary_file["warnings"]))
    say = partial(console.print, soft_wrap=True, markup=False)
    say(f"results: {output}/results.md, .json, .csv (all of the directory), .jsonl")
    if (output / "videos").is_dir():
        say(f"videos:  {output}/videos/*.mp4")
    return exit_status(results, say)
