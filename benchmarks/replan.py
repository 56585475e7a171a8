"""Seconds of a replan: ours against the published order of work, with the same networks, pictures and noise.

    python benchmarks/replan.py --size small --device cpu
    python benchmarks/replan.py --size small --device cpu --choices
    python benchmarks/replan.py --size full --device cuda

- published: 30 steps; the conditional and the unconditional pass one after the other; cross-attention in every layer,
  embeddings of time, ids and text in every step; the film decoded. On a GPU under autocast to --dtype, as its authors
  run it in half precision; on a CPU in float32.
- exact: the same numbers within rounding, with our shortcuts and weights in --dtype.
- one pass: independent noise levels, no guidance: one pass of the video network as far as the last tap, then 30 steps
  of the action network.
- with --compile (on a GPU by default), the last two compiled, after all that needs no compiler.

That published and exact give the same actions is checked in float32 before anything is timed; if they do not, the exit
status is 1. `--choices` tries every shortcut alone, and all but that one. `--profile` prints the operators that take
the time. What runs out of memory or time is reported, and the rest goes on. Networks are an experiment's with random
weights. Joint denoising needs the whole video network in each pass. The last line is JSON. Needs no demos, simulator,
weights or downloads.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout too

from benchmarks.parts.alternation import (
    OUT_OF_MEMORY,
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
from benchmarks.parts.replan_order import ALL, BY_DEVICE, MEANING, Replans, exact, one_pass, replan
from networks import NetworkError, Sampler

CHECKED_STEPS = 3  # of the float32 comparison
TOLERANCE = 1e-3  # from sigma 700 on, relative to the largest action


def main() -> int:
    """Check, time, and print."""
    args = parse_arguments()
    device = torch.device(args.device)
    stage = build(args, "action", slim=args.slim).to(device)
    stage.sampler = Sampler(args.steps, guidance=2.0)
    found = measure(stage, args, device)
    print(json.dumps(found))
    return int(bool(found["failures"]) or not found["float32_difference"] <= TOLERANCE)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    dtypes = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=dtypes, help="default: bfloat16 on a GPU, float32 on a CPU")
    modes = ("none", "default", "reduce-overhead", "max-autotune")
    parser.add_argument("--compile", choices=modes, help="default: reduce-overhead on a GPU, none on a CPU")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--slim", action="store_true", help="a slim SVD-like autoencoder instead of a free one")
    parser.add_argument("--steps", type=int, default=30, help="denoising steps (default 30)")
    parser.add_argument("--runs", type=int, default=1, help="timed replans of a turn, after one to warm up (default 1)")
    add_turn_arguments(parser, MEANING, minutes=8.0)
    args = parser.parse_args(words)
    on_gpu = args.device.startswith("cuda")
    args.dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
    args.compile = args.compile or ("reduce-overhead" if on_gpu else "none")
    return args


# --- what is measured -------------------------------------------------------------------------------------------------


def measure(stage: Any, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:  # noqa: ANN401
    """Everything that is reported."""
    names, deadline = chosen(args.choices), time.monotonic() + 60 * args.minutes
    half = getattr(torch, args.dtype) if device.type == "cuda" and args.dtype != "float32" else None
    replans = Replans(stage, half)
    difference = float32_difference(stage)
    print(
        f"largest difference in float32 after {CHECKED_STEPS} steps: {difference:.2g} of the largest action", flush=True
    )
    ours = replans.copy(args.dtype, args.channels_last)
    sides = {"published": replans.published(), **prepared(ours, "")}
    set_memory_apart(sides, replans.size_of(stage), replans.size_of(ours))
    alternate(list(sides.values()), device, args.turns, args.runs, deadline=deadline)
    gains = {name: ratio(sides["published"], side) for name, side in sides.items() if name != "published"}
    there = {name: stage if name == "published" else ours for name in sides}
    for name, side in sides.items():
        count(side, device, [*there[name].parameters(), *there[name].buffers()])
        print(line_of(side, sides["published"]), flush=True)
    if args.compile != "none":
        fast = replans.copy(args.dtype, args.channels_last, args.compile)
        compiled = prepared(fast, " compiled")
        for name, side in compiled.items():
            side.elsewhere, side.flop = replans.size_of(stage) + replans.size_of(ours), sides[name.split()[0]].flop
        again = replans.published("published, beside compiled")
        alternate([again, *compiled.values()], device, args.turns, args.runs, warm_up=2, deadline=deadline)
        for name, side in compiled.items():
            gains[name] = ratio(again, side)
            print(line_of(side, again), flush=True)
        sides |= compiled
    tried = try_choices(replans, names, args, device, deadline)
    if args.profile:
        for name in ("published", "exact"):
            print(operators(sides[name], device))
    return report(args, device, sides, gains, tried, difference)


def float32_difference(stage: Any) -> float:  # noqa: ANN401
    """Of the actions of published and exact, relative to the largest; without TF32."""
    sampler, tf32 = stage.sampler, torch.backends.cudnn.allow_tf32
    stage.sampler = Sampler(min(CHECKED_STEPS, sampler.num_steps), guidance=sampler.guidance)
    torch.backends.cudnn.allow_tf32 = False
    try:
        published, ours = replan(stage, frozenset(), nullcontext()), exact(stage)
    finally:
        stage.sampler, torch.backends.cudnn.allow_tf32 = sampler, tf32
    return ((ours - published).abs().max() / published.abs().max()).item()


def prepared(stage: Any, suffix: str) -> dict[str, Contender]:  # noqa: ANN401
    """The two ways of ours, as a rollout calls them."""
    calls: dict[str, Callable[[Any], Tensor]] = {"exact": exact, "one_pass": one_pass}
    return {
        f"{name}{suffix}": Contender(f"{name}{suffix}", lambda call=call: lambda _: call(stage))
        for name, call in calls.items()
    }


def set_memory_apart(sides: dict[str, Contender], published: int, ours: int) -> None:
    """Each is charged with its own networks only, though those of both are on the device."""
    for name, side in sides.items():
        side.elsewhere = ours if name == "published" else published


def chosen(asked: str | None) -> list[str]:
    """Names of the shortcuts to try.

    Raises:
        NetworkError: There is no such shortcut.
    """
    names = list(MEANING) if asked == "all" else asked.split(",") if asked else []
    if wrong := [name for name in names if name not in MEANING]:
        raise NetworkError(f"--choices: {wrong} cannot be tried; choose among {', '.join(MEANING)}.")
    return names


def try_choices(
    replans: Replans, names: Sequence[str], args: argparse.Namespace, device: torch.device, deadline: float
) -> dict[str, dict[str, Any]]:
    """Gain of each shortcut alone, and on top of the others."""
    tried = {}
    for name in names:
        group = by_device(replans, name, args) if name in BY_DEVICE else by_order(replans, name)
        alternate(list(group.values()), device, args.turns, args.runs, deadline=deadline)
        found = {"alone": ratio(group["base"], group["alone"]), "on_top": ratio(group["without"], group["with"])}
        words = ", ".join(f"{key} {ratio_in_words(one)}" for key, one in found.items())
        print(f"{MEANING[name]}: {words}", flush=True)
        tried[name] = found | {"failures": {key: side.failure for key, side in group.items() if side.failure}}
    return tried


def by_order(replans: Replans, name: str) -> dict[str, Contender]:
    """A shortcut that is a matter of order."""
    orders = {"base": frozenset[str](), "alone": frozenset({name}), "without": ALL - {name}, "with": ALL}
    return {key: replans.published(f"{name} {key}", on) for key, on in orders.items()}


def by_device(replans: Replans, name: str, args: argparse.Namespace) -> dict[str, Contender]:
    """A choice that is a matter of the device: on top of our order of work, and alone on the published one."""
    mode = ("default" if args.compile == "none" else args.compile) if name == "compile" else None
    precision = name if name in ("bfloat16", "float16") else "float32"
    changed = Replans(replans.copy(precision, name == "channels_last", mode), None)
    plain = Replans(replans.stage, None)
    sides = {"base": (plain, frozenset[str]()), "alone": (changed, frozenset[str]())}
    sides |= {"without": (plain, ALL), "with": (changed, ALL)}
    return {key: which.published(f"{name} {key}", on) for key, (which, on) in sides.items()}


def report(
    args: argparse.Namespace,
    device: torch.device,
    sides: dict[str, Contender],
    gains: dict[str, dict[str, Any] | None],
    tried: dict[str, dict[str, Any]],
    difference: float,
) -> dict[str, Any]:
    """The JSON line."""
    base = sides["published"]
    ours = min((side for name, side in sides.items() if "exact" in name and side.seconds), key=_median, default=None)
    gained = None if ours is None else gains[ours.name]
    once = min((side.median_s for name, side in sides.items() if "one_pass" in name and side.seconds), default=None)
    actions = {name: side.results[-1] for name, side in sides.items() if side.results}
    return {
        "name": "replan",
        "ours": None if ours is None else ours.median_s,
        "baseline": base.median_s if base.seconds else None,
        "ratio": gained and gained["ratio"],
        "peak_ratio": base.peak_bytes / ours.peak_bytes if ours and ours.peak_bytes and base.peak_bytes else None,
        "unit": "s",
        "clock": clock_name(device),
        "ours_is": ours and ours.name,
        "one_pass": once,
        "one_pass_ratio": max((g["ratio"] for name, g in gains.items() if g and "one_pass" in name), default=None),
        "float32_difference": difference,
        "difference_as_timed": largest_difference(actions),
        "sides": {name: side.to_dict() for name, side in sides.items()},
        "ratios": gains,
        "choices": tried,
        "failures": failures(sides.values())
        | {name: text for one in tried.values() for name, text in one["failures"].items() if text != OUT_OF_MEMORY},
        "matmul_flop_per_s": matmul_flop_per_s(device, getattr(torch, args.dtype)),
        "size": args.size,
        "steps": args.steps,
        "dtype": args.dtype,
        "compile": args.compile,
        "channels_last": args.channels_last,
        **circumstances(device),
    }


def largest_difference(actions: dict[str, Tensor]) -> dict[str, float]:
    """Of the actions that were timed, from the published, relative to the largest; in half precision not small."""
    base = actions.get("published")
    return {
        name: ((found.float() - base.float()).abs().max() / base.abs().max()).item()
        for name, found in actions.items()
        if base is not None and name.startswith("exact")
    }


def _median(side: Contender) -> float:
    return side.median_s


if __name__ == "__main__":
    sys.exit(main())
