"""Success against the cost of a replan: shared noise levels at several video steps, one pass at several action steps.

    python benchmarks/replan_curve.py --one-pass ONE.ckpt --shared SHARED.ckpt --protocol lift --episodes 20
    python benchmarks/replan_curve.py --one-pass ONE.ckpt --points one_pass_10,one_pass_5 --output runs/curve

Each point is a results directory of `videopolicy evaluate`, on the same seeds, so the same command goes on where it was
stopped, and more episodes or points may be added. Then a single replan is timed alone (`replan.json` beside the
results; its FLOPs are counted while it runs). Prints the table, draws curve.png and ends in one JSON line: TFLOP of a
one-pass replan against the published procedure (30 steps of everything with guidance, and a decoded film) on the same
networks. LIBERO-Object: `--protocol libero_object`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout too

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from lightning_modules import ActionStage, VideoPolicy
from networks import Sampler
from networks.counting import flop
from simulators import EpisodeSpec, Observation, PolicyRequest, summarize
from videopolicy import evaluate as evaluate_verb
from videopolicy.errors import CommandError
from videopolicy.evaluation.run import evaluate
from videopolicy.experiment.run_directory import write_atomically
from videopolicy.profiling.stage_cost import random_batch
from videopolicy.profiling.stopwatch import time_runs
from videopolicy.versions import git_commit

FEW_STEP_SOLVER = "DPMSolverMultistepScheduler"
POINTS: dict[str, list[str]] = {  # name -> options of `videopolicy evaluate`
    "one_pass_30": ["--action-steps", "30", "--guidance", "1"],
    "one_pass_10": ["--action-steps", "10", "--guidance", "1"],
    "one_pass_5": ["--action-steps", "5", "--guidance", "1"],
    "one_pass_5_dpm": ["--action-steps", "5", "--guidance", "1", "--action-scheduler", FEW_STEP_SOLVER],
    "shared_30": ["--video-steps", "30"],
    "shared_10": ["--video-steps", "10"],
    "shared_5": ["--video-steps", "5"],
    "shared_1": ["--video-steps", "1"],
}


@dataclass(frozen=True)
class Cost:
    """What a single replan takes, asked for alone.

    Args:
        seconds: Median on this machine.
        fastest_s: Shortest.
        slowest_s: Longest.
        flop: Matrix products, convolutions and attention, once the instruction is known.
        published_flop: The same of the published procedure on these networks.
    """

    seconds: float
    fastest_s: float
    slowest_s: float
    flop: int
    published_flop: int


@dataclass(frozen=True)
class Row:
    """One point, measured."""

    name: str
    successes: int
    episodes: int
    low: float
    high: float
    cost: Cost

    @property
    def kind(self) -> str:
        """`one_pass` or `shared`."""
        return "shared" if self.name.startswith("shared") else "one_pass"


def main(words: Sequence[str] | None = None) -> int:
    """Run the points that there are checkpoints for."""
    args = parse_arguments(words)
    console = Console()
    rows = [measure(args, name, console) for name in chosen_points(args)]
    console.print(table(rows))
    (args.output / "curve.png").write_bytes(draw(rows, args.protocol))
    console.print(f"curve: {args.output}/curve.png", soft_wrap=True)
    print(json.dumps(summary(args, rows)))
    return 0


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one-pass", type=Path, metavar="CKPT", help="trained with noise_levels: independent")
    parser.add_argument("--shared", type=Path, metavar="CKPT", help="trained with noise_levels: shared")
    parser.add_argument("--points", help=f"comma separated, of {', '.join(POINTS)} (default: all)")
    parser.add_argument("--shared-guidance", type=float, default=1.0, help="guidance of the shared points (default 1)")
    parser.add_argument("--protocol", default="lift", help="as `videopolicy evaluate` takes it (default lift)")
    parser.add_argument("--episodes", type=int, default=20, help="of each task (default 20)")
    parser.add_argument("--shared-episodes", type=int, help="the same at the shared points, which take longer")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes (default 2)")
    parser.add_argument("--seconds", type=float, default=3.0, help="timed seconds of replans a point (default 3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--hardware", default=f"{os.cpu_count()} cores of {platform.machine()}, {platform.system()}")
    parser.add_argument("--output", type=Path, default=Path("runs/replan_curve"), metavar="DIR")
    return parser.parse_args(words)


def chosen_points(args: argparse.Namespace) -> list[str]:
    """Points that were asked for, or all that the checkpoints allow.

    Raises:
        CommandError: A name is unknown, or its checkpoint is not given.
    """
    have = {"one_pass": args.one_pass is not None, "shared": args.shared is not None}
    possible = [name for name in POINTS if have["shared" if name.startswith("shared") else "one_pass"]]
    asked = possible if args.points is None else args.points.split(",")
    if not asked or (wrong := [name for name in asked if name not in possible]):
        raise CommandError(
            f"--points {args.points}: {wrong if asked else 'none'} cannot be run; with the checkpoints given there are "
            f"{possible}. Give --one-pass and --shared for the others."
        )
    return asked


def measure(args: argparse.Namespace, name: str, console: Console) -> Row:
    """Evaluate a point, or find it evaluated, and cost one replan."""
    shared = name.startswith("shared")
    checkpoint, folder = args.shared if shared else args.one_pass, args.output / name
    guidance = ["--guidance", str(args.shared_guidance)] if shared else []
    parser = argparse.ArgumentParser()
    evaluate_verb.add_arguments(parser)
    episodes = args.shared_episodes or args.episodes if shared else args.episodes
    words = ["--checkpoint", str(checkpoint), "--protocol", args.protocol, "--episodes", str(episodes)]
    policy, identity, protocol = evaluate_verb.prepare(
        parser.parse_args([*words, "--device", args.device, *POINTS[name], *guidance])
    )
    assert isinstance(policy, VideoPolicy), "a checkpoint was given"
    if (policy.stage.policy_config()["noise_levels"] == "shared") != shared:
        raise CommandError(f"{checkpoint}: was trained with other noise levels than point {name} needs; swap the two.")
    console.rule(name)
    results = evaluate(policy, identity, protocol, folder, args.workers, 0, args.device, console)
    total = summarize(results).total
    return Row(name, total.successes, total.episodes, total.low, total.high, cost(policy, folder, args))


def cost(policy: VideoPolicy, folder: Path, args: argparse.Namespace) -> Cost:
    """What one replan takes, from the folder if it was measured there on the same hardware."""
    kept = folder / "replan.json"
    if kept.is_file() and (document := json.loads(kept.read_text()))["hardware"] == args.hardware:
        return Cost(**document["cost"])
    data, stage = policy.stage.data, policy.stage
    assert isinstance(stage, ActionStage), "load_policy builds action stages"
    images = {name: np.full((data.image_size, data.image_size, 3), 128, np.uint8) for name in data.cameras}
    request = PolicyRequest(Observation(images, {}, "a task", 0), EpisodeSpec("cost", "none", 0), replan=0, seed=0)
    timing = time_runs(lambda: policy.act([request]), torch.device(args.device), args.seconds)
    numbers = (timing.median_s, timing.fastest_s, timing.slowest_s)
    found = Cost(*numbers, replan_flop(stage), published_flop(stage))
    write_atomically(kept, json.dumps({"hardware": args.hardware, "cost": asdict(found)}, indent=2) + "\n")
    return found


@torch.no_grad()
def replan_flop(stage: ActionStage, decode: bool = False) -> int:
    """FLOPs of one action chunk from pictures, once the instruction is known."""
    batch = random_batch(stage.data, 1, stage.device)

    def replan() -> None:
        latents = stage.sample(stage.conditioning(batch), [0])[1]
        if decode:
            assert latents is not None, "shared levels sample the film"
            stage.video.decode(latents)

    stage.conditioning(batch)  # remembers the instruction
    return flop(replan)


def published_flop(stage: ActionStage) -> int:
    """The published procedure on the stage's networks: 30 steps of film and actions, guidance, a decoded film."""
    kept = stage.noise_levels, stage.sampler
    first, last = stage.sampler.sigma_max, stage.sampler.sigma_min
    stage.noise_levels, stage.sampler = "shared", Sampler(30, first, last, guidance=2.0)
    try:
        return replan_flop(stage, decode=True)
    finally:
        stage.noise_levels, stage.sampler = kept


# --- what is shown ----------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> Table:
    """One line a point."""
    shown = Table(title="Success against the cost of a replan")
    for column in ("point", "solved", "Wilson 95 %", "s per replan", "TFLOP", "published / this"):
        shown.add_column(column, justify="left" if column == "point" else "right", no_wrap=True)
    for row in rows:
        interval, ratio = f"{row.low:.2f} to {row.high:.2f}", row.cost.published_flop / row.cost.flop
        numbers = (f"{row.cost.seconds:.3f}", f"{row.cost.flop / 1e12:.5f}", f"{ratio:.1f}")
        shown.add_row(row.name, f"{row.successes}/{row.episodes}", interval, *numbers)
    return shown


def summary(args: argparse.Namespace, rows: Sequence[Row]) -> dict[str, Any]:
    """The JSON line: the one-pass point with the fewest FLOPs among those that solve most, against the published."""
    best = min(rows, key=lambda row: (row.kind == "shared", -row.successes / max(row.episodes, 1), row.cost.flop))
    return {
        "name": f"replan_curve {args.protocol}: {best.name}",
        "ours": best.cost.flop / 1e12,
        "baseline": best.cost.published_flop / 1e12,
        "ratio": round(best.cost.published_flop / best.cost.flop, 1),
        "unit": "TFLOP per replan",
        "hardware": args.hardware,
        "commit": git_commit(),
        "date": date.today().isoformat(),
        "points": [asdict(row) for row in rows],
    }


def draw(rows: Sequence[Row], protocol: str) -> bytes:
    """Success with its interval over seconds per replan, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for kind, colour, mark in (("one_pass", "tab:blue", "o"), ("shared", "tab:orange", "s")):
        points = sorted((row for row in rows if row.kind == kind and row.episodes), key=lambda row: row.cost.seconds)
        rates = [row.successes / row.episodes for row in points]
        bars = [
            [rate - row.low for rate, row in zip(rates, points, strict=True)],
            [row.high - rate for rate, row in zip(rates, points, strict=True)],
        ]
        places = [row.cost.seconds for row in points]
        if points:
            axes.errorbar(places, rates, bars, label=kind.replace("_", " "), color=colour, marker=mark, capsize=3)
        for row, place, rate in zip(points, places, rates, strict=True):
            label = row.name.removeprefix(f"{kind}_").replace("_", " ")
            axes.annotate(label, (place, rate), xytext=(5, 6), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.08)
    axes.set_xlabel("seconds per replan (numbers: steps)")
    axes.set_ylabel("success rate, 95 % Wilson interval")
    axes.set_title(f"{protocol}: success against the cost of a replan", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
