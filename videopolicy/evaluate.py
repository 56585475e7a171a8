"""`videopolicy evaluate`: success rates of a checkpoint, outside training."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from callbacks.clips import side_by_side, write_clip
from lightning_modules import VideoPolicy, load_policy
from networks import read_checkpoint
from simulators import (
    EpisodeResult,
    Policy,
    ResultsFile,
    RolloutEngine,
    SimulatorConfig,
    SimulatorError,
    compare,
    summarize,
)
from simulators.statistics import Summary

HELP = "roll a checkpoint out and report success rates with 95 % Wilson intervals"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments; everything but the checkpoint defaults to what the checkpoint was trained with."""
    parser.add_argument("--checkpoint", required=True, type=Path, help="a .ckpt of the action stage")
    parser.add_argument("--simulator", help="robosuite, libero, robocasa or package.module:Class")
    parser.add_argument("--suite", help="suite of tasks, for instance libero_10")
    parser.add_argument("--task", nargs="+", help="task names, or 'all'")
    parser.add_argument("--episodes", type=int, help="episodes in all, spread evenly over the tasks")
    parser.add_argument("--first-seed", type=int, help="seed of the first episode")
    parser.add_argument("--execute-steps", type=int, help="actions executed before the policy is asked again")
    parser.add_argument("--max-steps", type=int, help="step limit of an episode")
    parser.add_argument("--python", help="interpreter of the simulator's workers")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes (default 2)")
    parser.add_argument("--videos", type=int, default=2, help="episodes to film (default 2)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where the policy runs"
    )
    parser.add_argument("--output", type=Path, help="results as JSON lines; episodes already there are not run again")
    parser.add_argument("--compare", type=Path, help="another results file over the same episodes, compared in pairs")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, and say where results and videos are."""
    console = Console()
    document = read_checkpoint(args.checkpoint)
    policy = load_policy(args.checkpoint, args.device, document)
    protocol = rollout_protocol(document.get("rollout"), policy, args)
    output = args.output or default_output(args.checkpoint, protocol)
    results = evaluate(policy, protocol, output, workers=args.workers, videos=args.videos)
    console.print(table({args.checkpoint.name: summarize(results)}))
    console.print(f"results: {output}")
    if args.videos:
        console.print(f"videos:  {output.with_suffix('')}/*.mp4")
    if args.compare is not None:
        console.print(comparison(results, list(ResultsFile(args.compare).load().values()), args.compare))
    return 0


def rollout_protocol(stored: dict[str, Any] | None, policy: VideoPolicy, args: argparse.Namespace) -> dict[str, Any]:
    """Merge what the checkpoint was trained to be judged by with what the command line says.

    Args:
        stored: What `SimulationRollout` left in the checkpoint, if it was used.
        policy: The policy, which decides cameras and image size where nothing else does.
        args: The command line.

    Returns:
        ``simulator`` (`SimulatorConfig`), ``num_episodes``, ``first_seed``, ``execute_steps``.

    Raises:
        SimulatorError: Neither the checkpoint nor the command line names a simulator and its tasks.
    """
    if stored is None and not (args.simulator and args.task):
        raise SimulatorError(
            f"{args.checkpoint}: trained without rollouts, so it names no simulator; add --simulator and --task."
        )
    data = policy.stage.data
    if stored is not None and args.simulator in (None, stored["simulator"]["name"]):
        config = SimulatorConfig(**stored["simulator"])
    else:
        config = SimulatorConfig(args.simulator, args.task or ["all"], list(data.cameras), data.image_size)
    changes = {"tasks": args.task, "suite": args.suite, "max_steps": args.max_steps, "python": args.python}
    config = replace(config, **{name: value for name, value in changes.items() if value is not None})
    rest = stored or {"num_episodes": 20, "first_seed": 100_000, "execute_steps": data.action_horizon // 2}
    given = {"num_episodes": args.episodes, "first_seed": args.first_seed, "execute_steps": args.execute_steps}
    return {
        "simulator": config,
        **{name: rest[name] if value is None else value for name, value in given.items()},
    }


def evaluate(
    policy: Policy, protocol: dict[str, Any], output: Path, workers: int, videos: int = 0, progress: bool = True
) -> list[EpisodeResult]:
    """Run a protocol's episodes, appending to a results file and filming the first few.

    Args:
        policy: Anything with `act`.
        protocol: What `rollout_protocol` returns.
        output: Results as JSON lines; episodes already there are skipped.
        workers: Simulator processes.
        videos: Episodes to film; mp4 files go into a folder named like `output`.
        progress: Show a bar.

    Returns:
        One result an episode.
    """
    simulator: SimulatorConfig = protocol["simulator"].check()
    output.parent.mkdir(parents=True, exist_ok=True)
    record_stride = policy.stage.data.frame_stride if isinstance(policy, VideoPolicy) else 4
    engine = RolloutEngine(
        simulator,
        num_workers=workers,
        execute_steps=protocol["execute_steps"],
        record_episodes=videos,
        record_stride=record_stride,
    )
    episodes = simulator.episodes(protocol["num_episodes"], protocol["first_seed"])
    with engine:
        file = ResultsFile(output)
        results = engine.run(policy, episodes, file.load(), progress, on_result=file.append)
    for result in results:
        if result.recording is not None:
            path = output.with_suffix("") / f"{result.task}_seed{result.seed}.mp4"
            write_clip(path, side_by_side(result.recording))
    return results


def table(summaries: dict[str, Summary]) -> Table:
    """Success rates by policy and task, each with its Wilson 95 % interval."""
    result = Table(title="Success rates (Wilson 95 % intervals)")
    for column in ("policy", "task", "successes", "rate", "interval", "errors", "mean steps"):
        is_name = column in ("policy", "task")
        result.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for name, summary in summaries.items():
        rows = [*summary.tasks, *([summary.total] if len(summary.tasks) > 1 else [])]
        for row in rows:
            result.add_row(
                name,
                row.task,
                f"{row.successes}/{row.episodes}",
                f"{row.success_rate:.3f}",
                f"{row.low:.3f} to {row.high:.3f}",
                str(row.errors),
                f"{row.mean_steps:.0f}",
            )
        if len(summary.tasks) > 1:
            result.add_row(name, "mean over tasks", "", f"{summary.mean_success_rate:.3f}", "", "", "")
    return result


def comparison(ours: Sequence[EpisodeResult], theirs: Sequence[EpisodeResult], name: Path) -> str:
    """One sentence on two policies over the episodes that both ran."""
    pairs = compare(ours, theirs).total
    return (
        f"in pairs against {name}: both {pairs.both}, only this {pairs.only_a}, only that {pairs.only_b}, "
        f"neither {pairs.neither}; exact McNemar p = {pairs.p_value:.3g}"
    )


def default_output(checkpoint: Path, protocol: dict[str, Any]) -> Path:
    """A results file that only the same weights under the same protocol share; more episodes may be added to it."""
    with checkpoint.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    simulator = {**protocol["simulator"].to_dict(), "tasks": None, "python": None}
    digest.update(json.dumps([simulator, protocol["execute_steps"]], sort_keys=True).encode())
    return checkpoint.parent.parent / "evaluations" / f"{checkpoint.stem}_{digest.hexdigest()[:8]}.jsonl"
