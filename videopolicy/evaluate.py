"""`videopolicy evaluate`: success rates of a policy, outside training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console

from files.hashes import file_sha256
from networks import read_checkpoint
from networks.inference import CompileMode, Precision
from policies import Policy, load_policy
from rollouts import Actor, EpisodeResult, RandomPolicy, ScriptedPolicy, ZeroPolicy, summarize
from simulators import SimulatorConfig
from videopolicy.errors import CommandError
from videopolicy.evaluation.fairness import compared_with_demos, judged_fairly, picture_size
from videopolicy.evaluation.identity import fingerprint
from videopolicy.evaluation.live_table import success_table
from videopolicy.evaluation.protocol import (
    Protocol,
    find_protocol,
    protocol_names,
    read_protocol,
    read_variation,
    stored_protocol,
)
from videopolicy.evaluation.run import evaluate
from videopolicy.evaluation.sampling_overrides import SamplingOverrides, add_sampling_arguments

POLICIES = ("checkpoint", "scripted", "random", "zero")
FIRST_SEED = 200_000  # neither demos (from 0) nor the rollouts during training (from 100,000) start there


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments; what is not given is the protocol's, or what the checkpoint was trained with."""
    parser.add_argument("--checkpoint", type=home_path, help="a .ckpt of the action stage")
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default="checkpoint",
        help="what acts: the checkpoint (default), the simulator's scripted expert, random or zero actions",
    )
    parser.add_argument(
        "--protocol", metavar="NAME|FILE", help=f"one of {', '.join(protocol_names())}, or a file of your own"
    )
    _add_episode_arguments(parser)
    parser.add_argument("--simulator", help="robosuite, libero, robocasa or package.module:Class, without a protocol")
    parser.add_argument("--suite", help="suite of tasks, for instance libero_10")
    parser.add_argument("--python", help="interpreter of the simulator's workers")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes (default 2)")
    parser.add_argument(
        "--threads", type=int, help="torch threads of a policy on the CPU (default: what the workers leave, at least 1)"
    )
    films = parser.add_mutually_exclusive_group()
    films.add_argument("--videos", type=int, default=2, help="film the first so many episodes (default 2)")
    films.add_argument("--record", action="store_true", help="film every episode")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where the policy runs"
    )
    add_sampling_arguments(parser)
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="float32", help="type of the networks' weights"
    )
    parser.add_argument(
        "--compile", choices=get_args(CompileMode), help="torch.compile's mode; reduce-overhead is CUDA graphs on a GPU"
    )
    parser.add_argument(
        "--output", type=home_path, metavar="DIR", help="results; episodes that are already there are not run again"
    )


def _add_episode_arguments(parser: argparse.ArgumentParser) -> None:
    """Which episodes are judged, and what a protocol says of them."""
    parser.add_argument("--tasks", help="names or indices, comma separated, or 'all'")
    parser.add_argument("--episodes", type=int, help="episodes of each task")
    parser.add_argument(
        "--first-seed", type=int, help="seed of every task's first episode; episodes are then taken as they come"
    )
    parser.add_argument(
        "--as-in-training",
        action="store_true",
        help="judge the episodes of the rollouts during training (with --protocol: all of its episodes), also those "
        "that chose the checkpoint or stood in its demos (default: held-out episodes)",
    )
    parser.add_argument(
        "--words",
        choices=("simulator", "demos"),
        default="simulator",
        help="whose words the policy is given: the simulator's (default), or the demos' where these had others",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="seconds a simulator may take over a chunk or reset (default: the protocol's, or the training's)",
    )
    parser.add_argument("--execute-steps", type=int, help="actions executed before the policy is asked again")
    parser.add_argument("--max-steps", type=int, help="step limit of an episode")
    parser.add_argument(
        "--variation",
        action="append",
        default=[],
        metavar="KIND[=LEVEL]",
        help="vary position, appearance, camera or instruction (level 1 unless given; may be repeated)",
    )


def home_path(text: str) -> Path:
    """A path; `~` is the home folder also where the shell left it, as in `--output=~/results`."""
    return Path(text).expanduser()


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, and say where results and videos are; 1 if no episode could be run."""
    console = Console(markup=False)
    policy, identity, protocol = prepare(args)
    say_warnings(protocol, console)
    output: Path = args.output or default_output(args.checkpoint, identity, protocol)
    videos = sys.maxsize if args.record else args.videos
    try:
        results = evaluate(policy, identity, protocol, output, args.workers, videos, args.device, console, args.threads)
    except KeyboardInterrupt:
        console.print(f"stopped; the same command goes on with what is missing in {output}", markup=False)
        return 130
    notes = json.loads((output / "results.json").read_text())["warnings"]
    console.print(success_table({identity["kind"]: summarize(results, protocol.groups)}, notes))
    say = partial(console.print, soft_wrap=True, markup=False)
    say(f"results: {output}/results.md, .json, .csv (all of the directory), .jsonl")
    if (output / "videos").is_dir():
        say(f"videos:  {output}/videos/*.mp4")
    return require_outcome(results, say)


def say_warnings(protocol: Protocol, console: Console) -> None:
    """Say before the first episode what the rates will have to be read with."""
    for warning in protocol.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)


def require_outcome(results: Sequence[EpisodeResult], say: Callable[[str], None]) -> int:
    """Exit status: 1, with a sentence, if every episode ended in an error."""
    if any(result.success is not None for result in results):
        return 0
    first = next((result.error for result in results if result.error), None)
    reason = (first or "no reason given").strip().splitlines()[0]
    say(f"none of the {len(results)} episodes could be run ({reason}); mend this, the same command tries again")
    return 1


# --- what is judged, and how ------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> tuple[Actor, dict[str, Any], Protocol]:
    """The policy, what identifies it, and the complete protocol with its tasks named.

    Raises:
        CommandError: The options do not say what to do, or contradict one another.
        NetworkError: The checkpoint cannot be used.
        SimulatorError: The simulator cannot be used.
    """
    file = None if args.protocol is None else find_protocol(args.protocol)
    if file is not None:
        read_protocol(file)  # a slip in it must not wait for the checkpoint
    if args.policy == "checkpoint" and args.checkpoint is None:
        raise CommandError("no policy: give --checkpoint FILE, or --policy scripted, random or zero.")
    if args.checkpoint is None and (args.as_in_training or args.words == "demos"):
        option = "--as-in-training" if args.as_in_training else "--words demos"
        raise CommandError(f"{option}: only a checkpoint knows its training; give --checkpoint FILE, or leave it out.")
    sampling = SamplingOverrides.of(args)
    if args.policy != "checkpoint" and sampling.given():
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sampling.given())
        raise CommandError(f"{options}: --policy {args.policy} samples nothing; leave them out.")
    document = {} if args.checkpoint is None else read_checkpoint(args.checkpoint)
    network = None
    if args.policy == "checkpoint":
        network = load_policy(args.checkpoint, args.device, document, args.precision, args.compile)
    protocol = choose_protocol(args, file, document, network)
    protocol = overridden(protocol, args)
    if network is not None:
        require_fit(network, protocol, args.checkpoint)
    protocol = protocol.with_tasks(args.tasks)
    if document:
        chosen = args.as_in_training or args.first_seed is not None
        protocol = judged_fairly(protocol, document, args.checkpoint, args.words, chosen)
        protocol = replace(protocol, origin=None) if network is None else compared_with_demos(protocol)
    if network is not None:
        sampling.apply(network)
        identity = checkpoint_identity(args.checkpoint) | {"sampling": sampling.given()}
        if args.precision != "float32":  # rounds otherwise: its episodes do not mix with float32's
            identity["precision"] = args.precision
        return network, identity, protocol
    return blind_policy(args.policy, protocol.execute_steps), {"kind": args.policy}, protocol


def blind_policy(kind: str, execute_steps: int) -> Actor:
    """A policy that looks at no picture, of `POLICIES`."""
    if kind == "scripted":
        return ScriptedPolicy()
    return RandomPolicy(execute_steps) if kind == "random" else ZeroPolicy(execute_steps)


def checkpoint_identity(checkpoint: Path, kind: str = "checkpoint") -> dict[str, Any]:
    """What names a checkpoint's policy in ``protocol.json``: where it was, and the SHA-256 of the file."""
    return {"kind": kind, "path": str(checkpoint.resolve()), "sha256": file_sha256(checkpoint)}


def choose_protocol(
    args: argparse.Namespace, file: Path | None, document: Mapping[str, Any], network: Policy | None
) -> Protocol:
    """The protocol named on the command line, else the checkpoint's own, else one made of options.

    Args:
        args: The command line.
        file: The file of `--protocol`.
        document: Content of the checkpoint; empty without one.
        network: The policy, which decides cameras and image size where nothing else does.
    """
    data = None if network is None else network.data
    stored = document.get("rollout")
    if file is not None:
        protocol = read_protocol(file) if data is None else read_protocol(file, picture_size(document, data))
        if args.simulator not in (None, protocol.simulator.name):
            raise CommandError(
                f"--simulator {args.simulator}: protocol {protocol.name!r} is of {protocol.simulator.name}; "
                "leave one of them out."
            )
        seen = protocol.simulator.cameras
        if data is not None and set(data.cameras) <= set(seen):  # draw no picture that the policy does not look at
            return replace(protocol, simulator=replace(protocol.simulator, cameras=list(data.cameras)))
        return protocol
    if stored is not None and args.simulator in (None, stored["simulator"]["name"]):
        protocol = stored_protocol(stored, f"training of {args.checkpoint.stem}")
        return protocol if args.as_in_training else replace(protocol, first_seed=FIRST_SEED)
    if data is not None and args.simulator and args.tasks:
        simulator = SimulatorConfig(args.simulator, ["all"], list(data.cameras), picture_size(document, data))
        steps = max(data.action_horizon // 2, 1)
        return Protocol("command line", "options of the command line", simulator, 20, FIRST_SEED, steps)
    known = ", ".join(protocol_names())
    if args.checkpoint is None:
        raise CommandError(f"no protocol: give --protocol NAME ({known}), or a --checkpoint that was rolled out.")
    raise CommandError(
        f"{args.checkpoint}: trained without rollouts, so it names no simulator; give --protocol NAME ({known}), "
        "or --simulator and --tasks."
    )


def overridden(protocol: Protocol, args: argparse.Namespace) -> Protocol:
    """The protocol with what single options change in it."""
    simulator: dict[str, Any] = {"suite": args.suite, "max_steps": args.max_steps, "python": args.python}
    if args.suite not in (None, protocol.simulator.suite):
        simulator["tasks"] = ["all"]
    if args.variation:
        simulator["variation"] = read_variation(args.variation)
    config = replace(protocol.simulator, **{name: value for name, value in simulator.items() if value is not None})
    rest = {
        "episodes_per_task": args.episodes,
        "first_seed": args.first_seed,
        "execute_steps": args.execute_steps,
        "timeout_s": args.timeout,
    }
    return replace(protocol, simulator=config, **{name: value for name, value in rest.items() if value is not None})


def require_fit(network: Policy, protocol: Protocol, checkpoint: Path) -> None:
    """Fail before the first episode if the policy wants pictures that the protocol does not draw."""
    data = network.data
    if missing := [camera for camera in data.cameras if camera not in protocol.simulator.cameras]:
        raise CommandError(
            f"{checkpoint}: was trained on cameras {list(data.cameras)}, but protocol {protocol.name!r} has "
            f"{list(protocol.simulator.cameras)}, without {missing}; add them to a protocol file of your own."
        )
    if protocol.execute_steps > data.action_horizon:
        raise CommandError(
            f"{checkpoint}: gives {data.action_horizon} actions at a time, but protocol {protocol.name!r} executes "
            f"{protocol.execute_steps}; add --execute-steps {max(data.action_horizon // 2, 1)}."
        )


def default_output(checkpoint: Path | None, policy: Mapping[str, Any], protocol: Protocol) -> Path:
    """A directory that only the same policy under the same protocol shares; more episodes may be added to it."""
    digest = fingerprint({"policy": policy, "protocol": protocol.to_dict()})[:8]
    if checkpoint is not None and policy["kind"] == "checkpoint":
        return checkpoint.parent.parent / "evaluations" / f"{checkpoint.stem}_{digest}"
    return Path("runs") / "evaluations" / f"{protocol.name.replace(' ', '_')}_{policy['kind']}_{digest}"
