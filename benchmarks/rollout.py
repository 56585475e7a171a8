"""Seconds of a control step of the rollout engine under several settings, by turns in one run.

    python benchmarks/rollout.py --protocol lift
    python benchmarks/rollout.py --protocol libero_object --tasks 0,4 --image-size 128 --episodes 4
    python benchmarks/rollout.py --protocol lift --checkpoint runs/lift/action/checkpoints/last.ckpt

Settings, all of them an evaluation's: one worker that draws with every effect (shadows, reflections, multisampling) as
published evaluations do; `--workers` of them; and as many without effects, which is the default. In each turn all of
them run the same episodes, with the scripted expert and the pictures that a policy would look at, or with a
checkpoint's policy. With the expert the outcomes have to agree, or the exit status is 1. A checkpoint's policy is not
the same in pictures that are drawn otherwise, so that its episodes may differ in length; hence seconds of a control
step. Workers are started beforehand. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout too

import torch

from benchmarks.parts.turns import Setting, add_turn_arguments, report, take_turns
from policies import load_policy
from rollouts import Actor, EpisodeResult, RolloutEngine, ScriptedPolicy
from videopolicy.evaluation.protocol import Protocol, find_protocol, read_protocol

EFFECTS = {"shadows": True, "reflections": True, "multisampling": 4}
PLAIN = {"shadows": False, "reflections": False, "multisampling": 0}


class SeeingExpert(ScriptedPolicy):
    """The scripted expert, with a picture of every camera at every replan, as a policy needs them."""

    needs_images = True


def main(words: Sequence[str] | None = None) -> int:
    """Run every setting by turns and print the table."""
    args = parse_arguments(words)
    policy = SeeingExpert() if args.checkpoint is None else load_policy(args.checkpoint, args.device)
    protocol = read_protocol(find_protocol(args.protocol), args.image_size)
    config = replace(protocol.simulator, max_steps=args.max_steps or protocol.simulator.max_steps)
    protocol = replace(protocol, simulator=config, episodes_per_task=args.turns * args.episodes).with_tasks(args.tasks)
    many = f"{args.workers} workers"
    ways = {"1 worker, every effect": (1, EFFECTS), f"{many}, every effect": (args.workers, EFFECTS)}
    ways[f"{many}, no effects"] = (args.workers, PLAIN)
    found: dict[str, list[EpisodeResult]] = {name: [] for name in ways}
    with ExitStack() as stack:
        settings = []
        for name, (workers, effects) in ways.items():
            drawn = replace(protocol.simulator, **effects)
            engine = stack.enter_context(RolloutEngine(drawn, workers, protocol.execute_steps))
            settings.append(setting(name, engine, policy, protocol, args.episodes, found[name]))
        take_turns(settings, torch.device(args.device), args.turns, args.minutes)
    scripted = args.checkpoint is None
    agree = not scripted or outcomes_agree(list(found.values()))
    print(f"outcomes of {len(found[many + ', no effects'])} episodes " + ("agree" if agree else "DIFFER"))
    solved = {name: sum(bool(result.success) for result in results) for name, results in found.items()}
    more = {"protocol": args.protocol, "policy": str(args.checkpoint or "scripted"), "solved": solved}
    counted = {name: len(results) for name, results in found.items()}
    document = report("rollout", settings, torch.device(args.device), "s per control step", episodes=counted, **more)
    print(json.dumps(document))
    return 0 if agree else 1


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--protocol", default="lift", help="as `videopolicy evaluate` takes it (default lift)")
    parser.add_argument("--tasks", default="0", help="names or indices, comma separated (default 0)")
    parser.add_argument("--episodes", type=int, default=2, help="of each task and turn (default 2)")
    parser.add_argument("--checkpoint", type=Path, help="a policy's (default: the simulator's scripted expert)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels of a side (default 64)")
    parser.add_argument("--max-steps", type=int, help="step limit, in place of the protocol's")
    parser.add_argument("--workers", type=int, default=2, help="where there are several (default 2)")
    parser.add_argument("--device", default="cpu", help="where a checkpoint's policy runs (default cpu)")
    add_turn_arguments(parser, minutes=30.0)
    return parser.parse_args(words)


def setting(
    name: str, engine: RolloutEngine, policy: Actor, protocol: Protocol, episodes: int, found: list[EpisodeResult]
) -> Setting:
    """A setting whose turn runs the next episodes of the protocol, and keeps their results."""
    count = episodes * len(protocol.simulator.tasks)
    engine.run(policy, protocol.episodes()[:count], progress=False)  # imports, building, first calls

    def turn() -> list[float]:
        began = time.monotonic()
        results = engine.run(policy, protocol.episodes()[len(found) : len(found) + count], progress=False)
        seconds = time.monotonic() - began
        found.extend(results)
        return [seconds / sum(result.steps for result in results)]

    return Setting(name, turn)


def outcomes_agree(found: Sequence[Sequence[EpisodeResult]]) -> bool:
    """Whether all settings had the same outcomes after the same number of steps, as far as all have come."""
    told = [[(result.key, result.success, result.steps) for result in results] for results in found]
    shortest = min(len(results) for results in told)
    return all(results[:shortest] == told[0][:shortest] for results in told)


if __name__ == "__main__":
    sys.exit(main())
