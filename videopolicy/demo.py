"""`videopolicy demo`: the whole method in small, with the controls that say what its success rate means."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from rich.console import Console

from files.errors import UserError
from rollouts import EpisodeResult, summarize
from videopolicy.demo_controls import Controls, ControlsPlan, last_checkpoint, roll_out, run_command
from videopolicy.evaluation.live_table import success_table
from videopolicy.experiment.command_line import add_overrides, parse

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
COLLECT = ("--simulator", "robosuite", "--task", "Lift", "--image-size", "64", "--workers", "2")
NUM_DEMOS = 60
NUM_EPISODES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "--run-dir", type=Path, help="where everything is written (default runs/demo, or runs/demo_seed<seed>)"
    )
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--episodes", type=int, default=NUM_EPISODES, help="held-out episodes a policy")
    parser.add_argument(
        "--override", nargs=argparse.REMAINDER, default=[], help="the same as --: all that follows is for the trainings"
    )
    add_overrides(parser, "--trainer.max_steps 10")


def run(args: argparse.Namespace) -> int:
    """Run the demo; interrupted and started again it goes on where it stopped.

    Two pipelines share the cores, one thread each: the policy, and its controls.

    Returns:
        130 after Ctrl-C, and 1 if none of a policy's episodes could be run.
    """
    console = Console(markup=False)
    start = time.monotonic()
    if args.episodes < 1:
        raise UserError(f"--episodes {args.episodes}: must be 1 or more.")
    run_dir: Path = args.run_dir or Path(f"runs/demo_seed{args.seed}" if args.seed else "runs/demo")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--run-dir {run_dir}: cannot be made ({error.strerror}); choose another.") from None
    try:
        results = _results(args, run_dir, console)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on")
        return 130
    minutes = (time.monotonic() - start) / 60

    console.print(success_table({name: summarize(part) for name, part in results.items()}))
    console.print(
        f"videos: {run_dir}/rollouts/*/videos (executed above predicted), {run_dir}/trained/video/videos\n"
        f"dashboards: make tensorboard ARGS='--logdir {run_dir}'",
        markup=False,
    )
    numbers = {name: _count(part) for name, part in results.items()}
    print(json.dumps({**numbers, "minutes": round(minutes, 1)}))
    return 0 if all(part["episodes"] for part in numbers.values()) else 1


def _results(args: argparse.Namespace, run_dir: Path, console: Console) -> dict[str, list[EpisodeResult]]:
    """Collect, train and roll out; policy -> its held-out episodes."""
    demos = run_dir / "demos.hdf5"
    fit = ("videopolicy.lightning_cli", "fit", "-c", str(EXPERIMENTS / "lift.yaml"))
    common = (f"--data.init_args.paths={demos}", f"--seed_everything={args.seed}", *args.override, *args.overrides)
    parse([*fit[1:], *common]).experiment()  # a slip in an override must not wait for the demos
    console.rule("1  collect demos with the scripted expert")
    run_command("videopolicy.main", "collect", *COLLECT, "--episodes", str(NUM_DEMOS), "--output", str(demos))

    console.rule("2  train: video stage, handoff, action stage")
    torch.set_num_threads(1)
    without = ("-c", str(EXPERIMENTS / "controls" / "without_stage1.yaml"))
    plan = ControlsPlan(run_dir, demos, args.episodes, (*fit, *without), common)
    with Controls(plan) as controls:
        console.print(
            f"the controls are trained and rolled out beside it; their output goes to {plan.log}", markup=False
        )
        run_command(*fit, "--run_dir", str(run_dir / "trained"), *common)
        console.rule(f"3  {args.episodes} held-out episodes for each policy")
        checkpoint = last_checkpoint(run_dir / "trained")
        trained = roll_out(checkpoint, run_dir / "rollouts" / "trained", args.episodes, console=console)
        console.print("waiting for the controls" if controls.is_running() else "the controls are done")
        return {"trained": trained, **controls.results()}


def _count(results: list[EpisodeResult]) -> dict[str, int]:
    counted = [result for result in results if result.success is not None]
    return {"successes": sum(bool(result.success) for result in counted), "episodes": len(counted)}
