"""Success against the cost of a replan: shared noise levels at several video steps, one pass at several action steps.

    python benchmarks/replan_curve.py --one-pass ONE.ckpt --shared SHARED.ckpt --protocol lift --episodes 20
    python benchmarks/replan_curve.py --one-pass ONE.ckpt --partial PARTIAL.ckpt --protocol lift --episodes 20
    python benchmarks/replan_curve.py --one-pass ONE.ckpt --protocol libero_object --tasks 0,1 --output runs/curve

Each point is a results directory of `videopolicy evaluate`, on the same seeds, so the same command goes on where it was
stopped, and more episodes or points may be added. Then single replans of all points are counted and, by turns, timed
alone; `published` among them is the published procedure (30 steps of everything with guidance, and a decoded film) on
the same networks. Prints the table, draws curve.png and ends in one JSON line: TFLOP of a one-pass replan against the
published procedure.
"""

from __future__ import annotations

import argparse
import json
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

from benchmarks.parts.alternation import Contender, Run, alternate
from benchmarks.parts.curve import Cost, Row, draw, holds_reference, kind_of, table
from lightning_modules import ActionStage, VideoPolicy
from networks import Sampler
from networks.counting import flop
from rollouts import summarize
from simulators import EpisodeSpec, Observation, PolicyRequest
from videopolicy import evaluate as evaluate_verb
from videopolicy.errors import CommandError
from videopolicy.evaluation.run import evaluate
from videopolicy.profiling.stage_cost import random_batch
from videopolicy.profiling.stopwatch import hardware
from videopolicy.versions import git_commit

FEW_STEP_SOLVER = "DPMSolverMultistepScheduler"
POINTS: dict[str, list[str]] = {  # name -> options of `videopolicy evaluate`
    "one_pass_30": ["--action-steps", "30", "--guidance", "1"],
    "one_pass_10": ["--action-steps", "10", "--guidance", "1"],
    "one_pass_5": ["--action-steps", "5", "--guidance", "1"],
    "one_pass_5_dpm": ["--action-steps", "5", "--guidance", "1", "--action-scheduler", FEW_STEP_SOLVER],
    "one_pass_3_dpm": ["--action-steps", "3", "--guidance", "1", "--action-scheduler", FEW_STEP_SOLVER],
    "partial_10": ["--action-steps", "10", "--guidance", "1"],
    "partial_5": ["--action-steps", "5", "--guidance", "1"],
    "shared_30": ["--video-steps", "30"],
    "shared_10": ["--video-steps", "10"],
    "shared_5": ["--video-steps", "5"],
    "shared_1": ["--video-steps", "1"],
}


@dataclass(frozen=True)
class Replan:
    """One way of deciding a chunk of actions.

    Args:
        policy: Whose networks; ways may share it, `choose` makes it this one's.
        shared: Whether film and actions are denoised together.
        sampler: How.
        film: Whether the film is decoded too.
    """

    policy: VideoPolicy
    shared: bool
    sampler: Sampler
    film: bool = False

    @property
    def stage(self) -> ActionStage:
        """The policy's stage."""
        assert isinstance(self.policy.stage, ActionStage), "load_policy builds action stages"
        return self.policy.stage

    def choose(self) -> None:
        """Have the policy replan in this way."""
        self.stage.noise_levels = "shared" if self.shared else "independent"
        self.stage.sampler = self.sampler

    def prepare(self) -> Run:
        """A replan of one episode, from its pictures on."""
        self.choose()
        data = self.stage.data
        images = {name: np.full((data.image_size, data.image_size, 3), 128, np.uint8) for name in data.cameras}
        seen = Observation(images, {}, "a task", 0)
        request = PolicyRequest(seen, EpisodeSpec("cost", "none", 0), replan=0, seed=0, want_prediction=self.film)
        return lambda _: self.policy.act([request])

    @torch.no_grad()
    def flop(self) -> int:
        """FLOPs of one chunk from pictures, once the instruction is known."""
        self.choose()
        stage = self.stage
        batch = random_batch(stage.data, 1, stage.device)

        def replan() -> None:
            latents = stage.sample(stage.conditioning(batch), [0], [0] if self.film else ())[1]
            if self.film:
                assert latents is not None, "shared levels sample the film"
                stage.video.decode(latents)

        stage.conditioning(batch)  # remembers the instruction
        return flop(replan)

    def published(self) -> Replan:
        """30 steps of film and actions, guidance, a decoded film, on the same networks."""
        sampler = Sampler(30, self.sampler.sigma_max, self.sampler.sigma_min, guidance=2.0)
        return Replan(self.policy, shared=True, sampler=sampler, film=True)


def kind_of_stage(stage: ActionStage) -> str:
    """Of `KINDS`, by how the stage was trained."""
    if stage.noise_levels == "shared":
        return "shared"
    return "partial" if stage.video_steps else "one_pass"


def main(words: Sequence[str] | None = None) -> int:
    """Run the points that there are checkpoints for."""
    args = parse_arguments(words)
    console = Console(markup=False)
    if not console.is_terminal:
        console.width = 110  # a file has room for the whole table
    names = chosen_points(args)
    replans: dict[str, Replan] = {}
    outcomes = {}
    for name in names:
        replans[name], outcomes[name] = measure(args, name, replans, console)
    costs = replan_costs(replans | {"published": replans[names[-1]].published()}, args)
    published = costs.pop("published")
    rows = [Row(name, *outcomes[name], costs[name]) for name in names]
    console.print(table(rows, published))
    (args.output / "curve.png").write_bytes(draw(rows, published, args.protocol))
    console.print(f"curve: {args.output}/curve.png", soft_wrap=True)
    print(json.dumps(summary(args, rows, published)))
    return 0


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one-pass", type=Path, metavar="CKPT", help="trained with noise_levels: independent")
    parser.add_argument("--partial", type=Path, metavar="CKPT", help="the same, with video_steps before the pass")
    parser.add_argument("--shared", type=Path, metavar="CKPT", help="trained with noise_levels: shared")
    parser.add_argument("--points", help=f"comma separated, of {', '.join(POINTS)} (default: all)")
    parser.add_argument("--shared-guidance", type=float, default=1.0, help="guidance of the shared points (default 1)")
    parser.add_argument("--protocol", default="lift", help="as `videopolicy evaluate` takes it (default lift)")
    parser.add_argument("--tasks", help="of the protocol: names or indices, comma separated (default: all)")
    parser.add_argument("--episodes", type=int, default=20, help="of each task (default 20)")
    parser.add_argument("--shared-episodes", type=int, help="the same at the shared points, which take longer")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes (default 2)")
    parser.add_argument("--first-seed", type=int, help="seed of every task's first episode (default: the protocol's)")
    parser.add_argument("--videos", type=int, default=0, help="film the first so many episodes of a point (default 0)")
    parser.add_argument("--turns", type=int, default=5, help="timed replans a point, by turns (default 5)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("runs/replan_curve"), metavar="DIR")
    return parser.parse_args(words)


def chosen_points(args: argparse.Namespace) -> list[str]:
    """Points that were asked for, or all that the checkpoints allow.

    Raises:
        CommandError: A name is unknown, or its checkpoint is not given.
    """
    possible = [name for name in POINTS if checkpoint_of(args, name) is not None]
    asked = possible if args.points is None else args.points.split(",")
    if not asked or (wrong := [name for name in asked if name not in possible]):
        raise CommandError(
            f"--points {args.points}: {wrong if asked else 'none'} cannot be run; with the checkpoints given there are "
            f"{possible}. Give --one-pass, --partial and --shared for the others."
        )
    return asked


def checkpoint_of(args: argparse.Namespace, name: str) -> Path | None:
    """What was given for points of this kind."""
    given: Path | None = getattr(args, kind_of(name))
    return given


def measure(
    args: argparse.Namespace, name: str, before: dict[str, Replan], console: Console
) -> tuple[Replan, tuple[int, int, float, float]]:
    """Evaluate a point, or find it evaluated.

    Args:
        args: The command line.
        name: The point.
        before: Points that are done; those of the same checkpoint share its networks.
        console: Where progress is shown.

    Returns:
        How it replans; solved episodes, episodes, and the ends of the interval.
    """
    kind = kind_of(name)
    policy, identity, protocol = evaluate_verb.prepare(evaluate_arguments(args, name))
    assert isinstance(policy, VideoPolicy), "a checkpoint was given"
    assert isinstance(policy.stage, ActionStage), "load_policy builds action stages"
    if (found_kind := kind_of_stage(policy.stage)) != kind:
        option = found_kind.replace("_", "-")
        raise CommandError(
            f"{checkpoint_of(args, name)}: was trained for other points than {name}; give it as --{option}."
        )
    console.rule(name)
    results = evaluate(policy, identity, protocol, args.output / name, args.workers, args.videos, args.device, console)
    total = summarize(results).total
    networks = next((other.policy for key, other in before.items() if kind_of(key) == kind), policy)
    found = Replan(networks, kind == "shared", policy.stage.sampler)
    return found, (total.successes, total.episodes, total.low, total.high)


def evaluate_arguments(args: argparse.Namespace, name: str) -> argparse.Namespace:
    """The point as a command line of `videopolicy evaluate`."""
    shared = kind_of(name) == "shared"
    episodes = args.shared_episodes or args.episodes if shared else args.episodes
    words = ["--checkpoint", str(checkpoint_of(args, name)), "--protocol", args.protocol]
    words += ["--episodes", str(episodes), "--device", args.device, *POINTS[name]]
    words += ["--guidance", str(args.shared_guidance)] if shared else []
    words += [] if args.tasks is None else ["--tasks", args.tasks]
    words += [] if args.first_seed is None else ["--first-seed", str(args.first_seed)]
    parser = argparse.ArgumentParser()
    evaluate_verb.add_arguments(parser)
    return parser.parse_args(words)


def replan_costs(replans: dict[str, Replan], args: argparse.Namespace) -> dict[str, Cost]:
    """Count each, which also warms up, then time them by turns: a busy machine slows all of them alike."""
    counted = {name: replan.flop() for name, replan in replans.items()}
    contenders = [Contender(name, replan.prepare) for name, replan in replans.items()]
    alternate(contenders, torch.device(args.device), args.turns, runs=1, warm_up=0)
    costs = {}
    for contender in contenders:
        if contender.failure:
            raise CommandError(f"a replan of {contender.name}: {contender.failure}; leave the point out with --points.")
        seconds = [second for turn in contender.seconds for second in turn]
        costs[contender.name] = Cost(contender.median_s, min(seconds), max(seconds), counted[contender.name])
    return costs


def summary(args: argparse.Namespace, rows: Sequence[Row], published: Cost) -> dict[str, Any]:
    """The JSON line: the one-pass point with the fewest FLOPs among those that solve most, against the published."""
    best = min(rows, key=lambda row: (row.kind != "one_pass", -row.rate, row.cost.flop))
    return {
        "name": f"replan_curve {args.protocol}: {best.name}",
        "ours": best.cost.flop / 1e12,
        "baseline": published.flop / 1e12,
        "ratio": round(published.flop / best.cost.flop, 1),
        "unit": "TFLOP per replan",
        "hardware": hardware(torch.device(args.device)),
        "commit": git_commit(),
        "date": date.today().isoformat(),
        "holds_reference": holds_reference(best, rows),
        "published": asdict(published),
        "points": [asdict(row) | {"holds_reference": holds_reference(row, rows)} for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
