"""Success against the cost of a replan: shared noise levels at several video steps, one pass at several action steps.

    python benchmarks/replan_curve.py --one-pass ONE.ckpt --shared SHARED.ckpt --protocol lift --episodes 20
    python benchmarks/replan_curve.py --one-pass ONE.ckpt --partial PARTIAL.ckpt --protocol lift --episodes 20

Each point is a results directory of `videopolicy evaluate`, on the same seeds, so the same command goes on where it was
stopped, and more episodes or points may be added. Then single replans of all points are counted and, by turns, timed
alone; with --shared, `published` among them is the published procedure (30 steps of everything with guidance, and a
decoded film). Prints the table, draws curve.png and ends in one JSON line. What follows `--` goes to every
`videopolicy evaluate`, for instance -- --tasks 0,1 --first-seed 200025.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout too

import torch
from rich.console import Console

from benchmarks.parts.curve import Cost, Row, draw, holds_reference, kind_of, table
from benchmarks.parts.networks import policy_request
from benchmarks.parts.turns import Setting, take_turns, time_runs
from files.errors import UserError
from policies import SharedLevels, VideoPolicy, load_policy
from rollouts.statistics import TaskSummary
from videopolicy.evaluation.prepared import prepare
from videopolicy.evaluation.request import EvaluationRequest
from videopolicy.evaluation.results_directory import read_evaluation
from videopolicy.evaluation.run import evaluate, say_warnings
from videopolicy.evaluation.sampling_overrides import SamplingOverrides
from videopolicy.hardware import hardware
from videopolicy.profiling.counting import flop
from videopolicy.versions import git_commit

DPM = "DPMSolverMultistepScheduler"
POINTS = {
    "one_pass_30": SamplingOverrides(action_steps=30, guidance=1.0),
    "one_pass_10": SamplingOverrides(action_steps=10, guidance=1.0),
    "one_pass_5": SamplingOverrides(action_steps=5, guidance=1.0),
    "one_pass_5_dpm": SamplingOverrides(action_steps=5, guidance=1.0, action_scheduler=DPM),
    "one_pass_3_dpm": SamplingOverrides(action_steps=3, guidance=1.0, action_scheduler=DPM),
    "partial_10": SamplingOverrides(action_steps=10, guidance=1.0),
    "partial_5": SamplingOverrides(action_steps=5, guidance=1.0),
    "shared_30": SamplingOverrides(video_steps=30, guidance=1.0),
    "shared_10": SamplingOverrides(video_steps=10, guidance=1.0),
    "shared_5": SamplingOverrides(video_steps=5, guidance=1.0),
    "shared_1": SamplingOverrides(video_steps=1, guidance=1.0),
}
PUBLISHED = SamplingOverrides(video_steps=30, guidance=2.0)


def main(words: Sequence[str] | None = None) -> int:
    """Run the points that there are checkpoints for."""
    args = parse_arguments(words)
    console = Console(markup=False)
    if not console.is_terminal:
        console.width = 110  # a file has room for the whole table
    names = chosen_points(args)
    costs = replan_costs(args, names)  # refuses a checkpoint of another kind before anything is evaluated
    totals = [evaluated(args, name, console) for name in names]
    published = costs.get("published")
    rows = [
        Row(name, total.successes, total.episodes, total.low, total.high, costs[name])
        for name, total in zip(names, totals, strict=True)
    ]
    console.print(table(rows, published))
    (args.output / "curve.png").write_bytes(draw(rows, published, args.protocol))
    console.print(f"curve: {args.output}/curve.png", soft_wrap=True)
    print(json.dumps(summary(args, rows, published)))
    return 0


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one-pass", type=Path, metavar="CKPT", help="trained with independent noise levels")
    parser.add_argument("--partial", type=Path, metavar="CKPT", help="the same, with video steps before the pass")
    parser.add_argument("--shared", type=Path, metavar="CKPT", help="trained with shared noise levels")
    parser.add_argument("--points", help=f"comma separated, of {', '.join(POINTS)} (default: all)")
    parser.add_argument("--protocol", default="lift", help="as `videopolicy evaluate` takes it (default lift)")
    parser.add_argument("--episodes", type=int, default=20, help="of each task (default 20)")
    parser.add_argument("--turns", type=int, default=6, help="timed replans a point, by turns (default 6)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("runs/replan_curve"), metavar="DIR")
    parser.add_argument("rest", nargs="*", metavar="-- OPTIONS", help="after --: of `videopolicy evaluate`")
    return parser.parse_args(words)


def chosen_points(args: argparse.Namespace) -> list[str]:
    """Points that were asked for, or all that the checkpoints allow.

    Raises:
        UserError: A name is unknown, or its checkpoint is not given.
    """
    possible = [name for name in POINTS if getattr(args, kind_of(name)) is not None]
    asked = possible if args.points is None else args.points.split(",")
    if not asked or (wrong := [name for name in asked if name not in possible]):
        raise UserError(
            f"--points {args.points}: {wrong if asked else 'none'} cannot be run; with the checkpoints given there are "
            f"{possible}. Give --one-pass, --partial and --shared for the others."
        )
    return asked


def evaluated(args: argparse.Namespace, name: str, console: Console) -> TaskSummary:
    """All episodes of a point; what is there already is not run again."""
    request = replace(
        EvaluationRequest.parse(args.rest),
        checkpoint=getattr(args, kind_of(name)),
        protocol=args.protocol,
        episodes=args.episodes,
        device=args.device,
        output=args.output / name,
        **POINTS[name].given(),
    )
    console.rule(name)
    prepared = prepare(request)
    say_warnings(prepared.protocol, console)
    evaluate(prepared, request, args.output / name, console)
    return read_evaluation(args.output / name).summary.total


def policy_of(args: argparse.Namespace, name: str, sampling: SamplingOverrides) -> VideoPolicy:
    """The policy of a point.

    Raises:
        UserError: Its checkpoint was trained for other points.
    """
    checkpoint, kind = getattr(args, kind_of(name)), kind_of(name)
    policy = load_policy(checkpoint, args.device)
    if not isinstance(policy, VideoPolicy):
        raise UserError(f"{checkpoint}: holds a {type(policy).__name__}; the curve is of a VideoPolicy.")
    if (found := kind_of_policy(policy)) != kind:
        option = found.replace("_", "-")
        raise UserError(f"{checkpoint}: was trained for other points than {name}; give it as --{option}.")
    sampling.apply(policy)
    return policy


def kind_of_policy(policy: VideoPolicy) -> str:
    """Of `KINDS`, by how the policy was trained."""
    if isinstance(policy.features, SharedLevels):
        return "shared"
    return "partial" if len(policy.feature_levels()) > 1 else "one_pass"


def replan_costs(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Cost]:
    """Count each, then time them by turns: a busy machine slows all of them alike."""
    device, flops = torch.device(args.device), dict[str, int]()

    def setting(name: str, point: str, sampling: SamplingOverrides, film: bool = False) -> Setting:
        def turn() -> list[float]:
            policy = policy_of(args, point, sampling)
            request = policy_request(policy.data, film)
            policy.act([request])  # knows the instruction from here on
            if name not in flops:
                flops[name] = flop(lambda: policy.act([request]))
            return time_runs(lambda: policy.act([request]), device, runs=1)

        return Setting(name, turn)

    settings = [setting(name, name, POINTS[name]) for name in names]
    if args.shared is not None:
        settings.append(setting("published", "shared_30", PUBLISHED, film=True))
    take_turns(settings, device, args.turns)
    if failed := next((one for one in settings if one.failure), None):
        raise UserError(f"a replan of {failed.name}: {failed.failure}; leave the point out with --points.")
    found = {one.name: one.to_dict() for one in settings}
    return {name: Cost(d["median_s"], d["fastest_s"], d["slowest_s"], flops[name]) for name, d in found.items()}


def summary(args: argparse.Namespace, rows: Sequence[Row], published: Cost | None) -> dict[str, Any]:
    """The JSON line: the one-pass point with the fewest FLOPs among those that solve most, against the published."""
    best = min(rows, key=lambda row: (row.kind != "one_pass", -row.rate, row.cost.flop))
    return {
        "name": f"replan_curve {args.protocol}: {best.name}",
        "ours": best.cost.flop / 1e12,
        "baseline": published and published.flop / 1e12,
        "ratio": published and round(published.flop / best.cost.flop, 1),
        "unit": "TFLOP per replan",
        "hardware": hardware(torch.device(args.device)),
        "commit": git_commit(),
        "date": date.today().isoformat(),
        "holds_reference": holds_reference(best, rows),
        "published": published and asdict(published),
        "points": [asdict(row) | {"holds_reference": holds_reference(row, rows)} for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
