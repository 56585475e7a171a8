"""Seconds of a replan under several settings of one policy, by turns in one run.

    python benchmarks/replan.py --size small --device cpu
    python benchmarks/replan.py --size full --device cuda --precision bfloat16 --compile reduce-overhead

Settings, all of them a user's:

- film: the published procedure: video and actions denoised together (experiments/ablations/shared_levels.yaml) with
  guidance, the video decoded;
- shared: the same, with no video asked for;
- one_pass: independent noise levels without guidance (experiments/ablations/independent_noise.yaml): one pass of the
  video network as far as the last tap, then the steps of the action network;
- shared and one_pass again in half precision (`--precision`) and compiled (`--compile`).

A replan begins with pictures and ends with actions, as in a rollout, with a batch of one and the instruction known.
Networks have random weights. The last line is JSON. Needs no demos, simulator, weights or downloads.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout too

from benchmarks.parts.networks import ROOT, add_arguments, command_line, policy_request, random_policy
from benchmarks.parts.turns import Setting, add_turn_arguments, report, take_turns, time_runs
from networks.inference import CompileMode, Precision
from videopolicy.profiling.counting import flop

ABLATIONS = ROOT / "experiments" / "ablations"
LEVELS = {"shared": (ABLATIONS / "shared_levels.yaml", 2.0), "one_pass": (ABLATIONS / "independent_noise.yaml", 1.0)}


def main(words: Sequence[str] | None = None) -> int:
    """Time, count, and print."""
    args = parse_arguments(words)
    device, flops = torch.device(args.device), dict[str, int]()

    def setting(name: str, levels: str, film: bool = False, **prepared: Any) -> Setting:  # noqa: ANN401
        overlay, guidance = LEVELS[levels]
        sampler = {"num_steps": args.steps, "guidance": guidance}
        changes = [(f"model.init_args.sampler.init_args.{key}", value) for key, value in sampler.items()]
        line = command_line(args, "action", [overlay], changes)

        def turn() -> list[float]:
            policy = random_policy(line, device, **prepared)
            request = policy_request(policy.data, film)
            policy.act([request])  # knows the instruction from here on
            if name not in flops and "mode" not in prepared:
                flops[name] = flop(lambda: policy.act([request]))
            return time_runs(lambda: policy.act([request]), device, args.runs)

        return Setting(name, turn)

    settings = [setting("film", "shared", film=True), setting("shared", "shared"), setting("one_pass", "one_pass")]
    if args.precision != "float32":
        settings += [setting(f"{levels}, {args.precision}", levels, precision=args.precision) for levels in LEVELS]
    if args.compile is not None:
        fast = {"precision": args.precision, "mode": args.compile}
        settings += [setting(f"{levels}, {args.precision}, compiled", levels, **fast) for levels in LEVELS]
    take_turns(settings, device, args.turns, args.minutes)
    document = report("replan", settings, device, "s", flop=flops, size=args.size, steps=args.steps)
    print(json.dumps(document))
    return 0


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--steps", type=int, default=30, help="denoising steps (default 30)")
    parser.add_argument("--precision", choices=get_args(Precision), default="float32", help="compare this too")
    parser.add_argument("--compile", choices=get_args(CompileMode), help="compare compiled networks too")
    parser.add_argument("--runs", type=int, default=1, help="timed replans of a turn, after two to warm up (default 1)")
    add_turn_arguments(parser, minutes=8.0)
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
