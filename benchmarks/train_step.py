"""Seconds of an optimisation step: ours against the published order of work, with the same weights, inputs and noise.

    python benchmarks/train_step.py --size medium --device cpu
    python benchmarks/train_step.py --size medium --device cpu --stage action --choices
    python benchmarks/train_step.py --size full --device cuda --precision bf16-mixed

- published: every frame through the autoencoder's encoder in every step; stage 2 records the autograd graph of the
  frozen U-Net and runs all of it (the backward pass does not enter it; `walked` is how long it takes if it does);
  cross-attention in every layer; Adam as torch has it by default.
- exact: the same numbers within rounding, with our shortcuts.
- cached: the same with latents and text from a latent cache, kept in float16.
- features cached: stage 2 with independent noise levels, the video network's features from a cache.

Networks are an experiment's with random weights; small and medium have a slim autoencoder like Stable Video
Diffusion's, whose encoding is as large a part of the step as at full size (--no-slim leaves the experiment's, which
costs nothing and cannot be cached). The step is forward, backward and update; reading data is no part of it.
`--choices` tries every shortcut alone, and all but that one. `--profile` prints the operators that take the time.
The losses of all steps must agree, or the exit status is 1. The last line is JSON. Needs no demos or downloads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout too

from benchmarks.parts.alternation import (
    Contender,
    add_turn_arguments,
    alternate,
    circumstances,
    clock_name,
    count,
    failures,
    line_of,
    operators,
    ratio,
    ratio_in_words,
)
from benchmarks.parts.random_stage import add_arguments, build, matmul_flop_per_s
from benchmarks.parts.training_order import (
    BY_DEVICE,
    FEATURES,
    INDEPENDENT,
    MEANING,
    WALKED,
    Steps,
)
from networks import NetworkError
from videopolicy.profiling.stage_cost import acts, random_batch

# Largest relative difference of a step's loss. Half precision rounds to 4e-3; a cache keeps latents in float16.
TOLERANCE = {"exact": 1e-4, "cached": 1e-2, "half": 5e-2}


def main() -> int:
    """Measure one stage, or each in a process of its own."""
    args = parse_arguments()
    if args.stage:
        found = measure(args)
        print(json.dumps(found))
        return int(bool(found["disagreements"] or found["failures"]))
    found, status = {}, 0
    for stage in ("video", "action"):
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--stage", stage], stdout=subprocess.PIPE, text=True
        )
        lines = done.stdout.splitlines() or [""]
        print("\n".join(lines[:-1]), flush=True)
        readable = lines[-1].startswith("{")
        found[stage] = json.loads(lines[-1]) if readable else {"failure": f"ended with status {done.returncode}"}
        status = status or done.returncode
    headline = found["action"] if "ratio" in found["action"] else found["video"]
    kept = ("ours", "baseline", "ratio", "unit", "hardware", "commit", "date")
    print(json.dumps({"name": "train_step", **{key: headline.get(key) for key in kept}, "stages": found}))
    return status


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--stage", choices=("video", "action"), help="default: both, each with its own --minutes")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), help="default: bf16-mixed on a GPU")
    parser.add_argument("--batch-size", type=int, help="default: 4, the paper's on each of 8 GPUs")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn, after one to warm up (default 3)")
    parser.add_argument("--no-slim", action="store_true", help="keep the autoencoder of a small experiment")
    parser.add_argument("--no-cache", action="store_true", help="leave out what a cache serves")
    add_turn_arguments(parser, MEANING, minutes=3.0)
    args = parser.parse_args(words)
    args.precision = args.precision or ("bf16-mixed" if args.device == "cuda" else "32-true")
    args.batch_size = args.batch_size or 4
    return args


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is reported of one stage."""
    device = torch.device(args.device)
    stage = build(args, args.stage, slim=not args.no_slim).to(device)
    batch = random_batch(stage.data, args.batch_size, device)
    steps = Steps(stage, batch, half=args.precision != "32-true")
    deadline = time.monotonic() + 60 * args.minutes
    sides = main_sides(steps, cache=not args.no_cache)
    tried = choices(steps, args.choices, sides) if args.choices else {}
    every = [*sides.values(), *(c for pair in tried.values() for c in pair.values() if c not in sides.values())]
    there = [*stage.parameters(), *stage.buffers()]
    alternate(every, device, args.turns, args.steps, deadline=deadline)
    for side in sides.values():
        count(side, device, there)
        print(line_of(side, sides["published"]), flush=True)
    for name, pair in tried.items():
        words = ", ".join(f"{key} {ratio_in_words(one)}" for key, one in gains(sides, pair).items())
        print(f"{MEANING[name]}: {words}", flush=True)
    if args.profile:
        for side in (sides["published"], best_of(sides)):
            print(operators(side, device))
    return report(args, device, steps, sides, tried)


def main_sides(steps: Steps, cache: bool) -> dict[str, Contender]:
    """The orders of work that are always measured."""
    exact = steps.exact()
    orders: dict[str, frozenset[str]] = {"published": frozenset(), "exact": exact}
    if acts(steps.stage):
        orders["walked"] = frozenset({WALKED})
    if cache and steps.has_latents:
        orders["cached"] = exact | {"latent_cache"}
        if acts(steps.stage):
            orders["independent"] = exact | {"latent_cache", INDEPENDENT}
            orders["features cached"] = exact | {*FEATURES}
    return {name: steps.contender(name, on) for name, on in orders.items()}


def choices(steps: Steps, asked: str, sides: dict[str, Contender]) -> dict[str, dict[str, Contender]]:
    """For each shortcut the step with it alone, and with everything but it.

    Raises:
        NetworkError: There is no such shortcut.
    """
    best = steps.exact() | ({"latent_cache"} if "cached" in sides else frozenset())
    usable = [*sorted(best, key=list(MEANING).index), *BY_DEVICE]
    if not steps.checkpointing:
        usable.remove("no_checkpointing")
    names = usable if asked == "all" else asked.split(",")
    if wrong := [name for name in names if name not in usable]:
        raise NetworkError(f"--choices: {wrong} cannot be tried with this stage; choose among {', '.join(usable)}.")
    tried = {}
    for name in names:
        everything = steps.contender(f"all and {name}", best | {name}) if name not in best else None
        tried[name] = {
            "alone": steps.contender(f"{name} alone", frozenset({name})),
            "without": steps.contender(f"all but {name}", best - {name}) if name in best else best_of(sides),
            "with": everything or best_of(sides),
        }
    return tried


def best_of(sides: dict[str, Contender]) -> Contender:
    """All shortcuts that are always on."""
    return sides.get("cached") or sides["exact"]


def gains(sides: dict[str, Contender], pair: dict[str, Contender]) -> dict[str, Any]:
    """How many times faster alone, and on top of all others."""
    return {"alone": ratio(sides["published"], pair["alone"]), "on_top": ratio(pair["without"], pair["with"])}


# --- the report -------------------------------------------------------------------------------------------------------


def disagreements(sides: dict[str, Contender], half: bool) -> dict[str, float]:
    """Largest relative difference of the losses, of those orders of work for which it is too large."""
    return {
        name: found
        for name, (found, allowed) in differences(sides, half).items()
        if not found <= allowed  # NaN is no agreement
    }


def differences(sides: dict[str, Contender], half: bool) -> dict[str, tuple[float, float]]:
    """Largest relative difference of the losses, and how much it may be, of the orders of work that ran."""
    results = {name: side.results for name, side in sides.items() if side.results}
    found = {}
    for name in ("exact", "walked", "cached", "features cached"):
        base = "independent" if name == "features cached" else "published"
        if name in results and base in results:
            pairs = zip(results[name], results[base], strict=True)
            allowed = max(TOLERANCE["cached" if "cached" in name else "exact"], TOLERANCE["half"] * half)
            found[name] = (max(abs(a - b) / abs(b) for a, b in pairs), allowed)
    return found


def report(
    args: argparse.Namespace,
    device: torch.device,
    steps: Steps,
    sides: dict[str, Contender],
    tried: dict[str, dict[str, Contender]],
) -> dict[str, Any]:
    """The JSON line."""
    half = args.precision != "32-true"
    headline = best_of(sides)
    gained = ratio(sides["published"], headline)
    wrong = disagreements(sides, half)
    for name, difference in wrong.items():
        print(f"{name}: its losses differ from the published by {difference:.2g}", file=sys.stderr)
    return {
        "name": f"train_step {args.stage}",
        "ours": headline.median_s if headline.seconds else None,
        "baseline": sides["published"].median_s if sides["published"].seconds else None,
        "ratio": gained and gained["ratio"],
        "unit": "s",
        "clock": clock_name(device),
        "ours_is": headline.name,
        "stage": args.stage,
        "size": args.size,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "autoencoder": steps.stage.video.autoencoder.config,
        "sides": {name: side.to_dict() for name, side in sides.items()},
        "ratios": {name: ratio(sides["published"], side) for name, side in sides.items() if name != "published"},
        "choices": {name: gains(sides, pair) | {"failure": pair["alone"].failure} for name, pair in tried.items()},
        "losses": {name: side.results for name, side in sides.items()},
        "differences": {name: found for name, (found, _) in differences(sides, half).items()},
        "disagreements": wrong,
        "failures": failures([*sides.values(), *(one for pair in tried.values() for one in pair.values())]),
        "matmul_flop_per_s": matmul_flop_per_s(device, torch.bfloat16 if half else torch.float32),
        **circumstances(device),
    }


if __name__ == "__main__":
    sys.exit(main())
