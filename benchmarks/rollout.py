"""Episodes an hour: our engine against a serial loop that draws every step and decodes the film of every replan.

    python benchmarks/rollout.py --protocol lift
    python benchmarks/rollout.py --protocol libero_object --tasks 0,4 --image-size 128 --episodes 4
    python benchmarks/rollout.py --protocol lift --checkpoint runs/lift/action/checkpoints/last.ckpt

The baseline is `parts/plain_rollout.py`. Both run the same episodes by turns, in one run, with

- scripted: the expert on both sides, which costs nothing: the engine alone. Ours draws the pictures that a policy would
  look at, those of every replan. Outcomes and steps have to agree.
- same: one network with the same sampling on both sides, one pass of the video network a replan; the baseline has the
  film sampled and decoded as well.
- one_pass: ours as before; the baseline replans as published: film and actions together in `--steps` steps with
  guidance, attention to the one token, the film decoded, a batch of one.

A policy is not the same in differently drawn pictures, so with a network episodes may differ in length; the ratio is
then that of control steps an hour, and episodes an hour are those of our length. Without `--checkpoint` the network is
the experiment's with random weights. Start-up (imports, building) is timed apart. Then: where the time of an episode
goes, what leaving out repeated physics and unseen geoms gains (states and pictures have to be equal), and what drawing
costs. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a bare checkout too

import torch  # noqa: E402 - after the path
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.parts.drawing import compare_drawing, gains, shares, side_by_side  # noqa: E402
from benchmarks.parts.plain_rollout import SerialLoop  # noqa: E402
from benchmarks.parts.random_stage import untrained  # noqa: E402
from lightning_modules import VideoPolicy, load_policy  # noqa: E402
from networks import Sampler  # noqa: E402
from rollouts import EpisodeResult, Policy, RolloutEngine, ScriptedPolicy  # noqa: E402
from simulators import EpisodeSpec  # noqa: E402
from videopolicy.evaluation.protocol import Protocol, find_protocol, read_protocol  # noqa: E402
from videopolicy.profiling.stopwatch import hardware  # noqa: E402
from videopolicy.versions import git_commit  # noqa: E402

EXPERIMENTS = {"robosuite": "lift.yaml", "libero": "libero_object.yaml"}
SIDES = ("ours", "baseline")
CONTESTS = ("scripted", "same", "one_pass")
PARTS = (*CONTESTS, "shares", "gains", "drawing")


class SeeingExpert(ScriptedPolicy):
    """The scripted expert, with a picture of every camera at every replan, as a policy needs them."""

    needs_images = True


@dataclass
class Contest:
    """One policy in both loops, over all rounds."""

    name: str
    results: dict[str, list[EpisodeResult]] = field(default_factory=lambda: {side: [] for side in SIDES})
    seconds: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def per_hour(self, side: str) -> float:
        """Episodes an hour; the baseline's at our mean length where lengths differ."""
        steps = self.steps(side)
        length = self.steps("ours") / len(self.results["ours"])
        return 3600 * steps / length / sum(self.seconds[side])

    def steps(self, side: str) -> int:
        """Control steps of all episodes."""
        return sum(result.steps for result in self.results[side])

    @property
    def agrees(self) -> bool:
        """The same outcomes after the same number of steps."""
        ours, theirs = ([(r.key, r.success, r.steps) for r in self.results[side]] for side in SIDES)
        return ours == theirs

    def to_dict(self) -> dict[str, Any]:
        """For the JSON line."""
        rounds = zip(self.seconds["ours"], self.seconds["baseline"], strict=True)
        return {
            "ours": round(self.per_hour("ours"), 1),
            "baseline": round(self.per_hour("baseline"), 1),
            "ratio": round(self.per_hour("ours") / self.per_hour("baseline"), 2),
            "seconds_baseline_to_ours_by_round": [round(theirs / ours, 2) for ours, theirs in rounds],
            "outcomes_agree": self.agrees,
            "episodes": len(self.results["ours"]),
            "solved": {side: sum(bool(r.success) for r in self.results[side]) for side in SIDES},
            "steps": {side: self.steps(side) for side in SIDES},
            "policy_share": {side: self._policy_share(side) for side in SIDES},
        }

    def _policy_share(self, side: str) -> float:
        thinking = sum(result.policy_s for result in self.results[side])
        return round(thinking / sum(self.seconds[side]), 3)


def main(words: Sequence[str] | None = None) -> int:
    """Run both loops by turns, then take ours apart, and print the table."""
    args = parse_arguments(words)
    protocol = chosen_protocol(args)
    console = Console(markup=False)
    documents, extra = run_contests(protocol, args, console) if set(CONTESTS) & set(args.parts) else ({}, {})
    config, spec = protocol.simulator, protocol.episodes()[0]
    if "shares" in args.parts:
        extra["seconds_of_an_episode"] = shares(config, spec, protocol.execute_steps)
    if "gains" in args.parts:
        extra["processor_seconds"] = gains(config, spec)
    if "drawing" in args.parts:
        extra["drawing"], pictures = compare_drawing(config, spec)
        if args.pictures:
            args.pictures.write_bytes(side_by_side(pictures))
    if documents:
        console.print(table(documents))
    print(json.dumps(summary(args, documents, extra)))
    return 0 if documents.get("scripted", {}).get("outcomes_agree", True) else 1


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--protocol", default="lift", help="lift, libero_object, or a file of either simulator")
    parser.add_argument("--tasks", default="0", help="names or indices, comma separated (default 0)")
    parser.add_argument("--episodes", type=int, default=4, help="of each task and round (default 4)")
    parser.add_argument("--network-episodes", type=int, default=2, help="the same with a network (default 2)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each loop (default 2)")
    parser.add_argument("--parts", default=",".join(PARTS), type=lambda text: text.split(","), help="of " + str(PARTS))
    parser.add_argument("--checkpoint", type=Path, help="of an action stage with independent noise levels")
    parser.add_argument("--image-size", type=int, default=64, help="without a checkpoint (default 64)")
    parser.add_argument("--execute-steps", type=int, help="actions executed a replan, in place of the protocol's")
    parser.add_argument("--max-steps", type=int, help="step limit, in place of the protocol's")
    parser.add_argument("--overlay", action="append", default=[], metavar="FILE", help="laid over the experiment")
    parser.add_argument("--steps", type=int, default=30, help="denoising steps of the published replan (default 30)")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes of ours (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of ours (default 1)")
    parser.add_argument(
        "--baseline-threads", type=int, default=os.cpu_count() or 1, help="torch threads of the baseline (default: all)"
    )
    parser.add_argument("--pictures", type=Path, metavar="PNG", help="standard and cheap drawing side by side")
    return parser.parse_args(words)


def chosen_protocol(args: argparse.Namespace) -> Protocol:
    """The protocol with its tasks named and enough episodes for every round."""
    protocol = read_protocol(find_protocol(args.protocol), args.image_size)
    cheap = replace(protocol.simulator, shadows=False, reflections=False, multisampling=0)
    config = replace(cheap, max_steps=args.max_steps or protocol.simulator.max_steps)
    episodes = args.rounds * max(args.episodes, args.network_episodes)
    return replace(protocol, simulator=config, episodes_per_task=episodes).with_tasks(args.tasks)


def warm_up(engine: RolloutEngine, loop: SerialLoop, protocol: Protocol) -> dict[str, float]:
    """Seconds until each loop has run its first episodes: imports, building, pictures."""
    seeds = range(10_000_000, 10_000_000 + engine.pool.num_workers)
    first = protocol.simulator.tasks[0]
    episodes = [
        EpisodeSpec(protocol.simulator.suite, first, seed, 0 if _recorded(protocol) else None) for seed in seeds
    ]
    began = time.monotonic()
    engine.run(SeeingExpert(), episodes, progress=False)
    ours = time.monotonic()
    loop.run(ScriptedPolicy(), episodes[:1])
    return {"ours": round(ours - began, 2), "baseline": round(time.monotonic() - ours, 2)}


def _recorded(protocol: Protocol) -> bool:
    return bool(protocol.simulator.num_init_states)


# --- the two, by turns ------------------------------------------------------------------------------------------------


def run_contests(
    protocol: Protocol, args: argparse.Namespace, console: Console
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Every policy in both loops: policy -> figures, and the loops' start-up."""
    documents = {}
    with RolloutEngine(protocol.simulator, args.workers, args.execute_steps or protocol.execute_steps) as engine:
        loop = SerialLoop(protocol.simulator, engine.execute_steps)
        start = warm_up(engine, loop, protocol)
        for part in [part for part in CONTESTS if part in args.parts]:
            contest = compete(part, engine, loop, protocol, args)
            documents[part] = contest.to_dict()
            console.print(f"{part}: {json.dumps(documents[part])}", soft_wrap=True, highlight=False)
            if part == "scripted":
                said = "agree" if contest.agrees else "DIFFER"
                episodes = len(contest.results["ours"])
                console.print(f"outcomes and steps of {episodes} scripted episodes {said}", highlight=False)
        loop.close()
    return documents, {"start_s": start}


def compete(
    part: str, engine: RolloutEngine, loop: SerialLoop, protocol: Protocol, args: argparse.Namespace
) -> Contest:
    """Every round both loops run the same new episodes; who begins changes from round to round."""
    contest = Contest(part)
    count = (args.episodes if part == "scripted" else args.network_episodes) * len(protocol.simulator.tasks)
    policies = {side: the_policy(part, side, args) for side in SIDES}
    engine.run(policies["ours"], protocol.episodes()[:1], progress=False)  # first calls of a network are slow
    for turn in range(args.rounds):
        episodes = protocol.episodes()[turn * count : (turn + 1) * count]
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            torch.set_num_threads(args.threads if side == "ours" else args.baseline_threads)
            began = time.monotonic()
            if side == "ours":
                results = engine.run(policies[side], episodes, progress=False)
            else:
                results = loop.run(policies[side], episodes)
            contest.seconds[side].append(time.monotonic() - began)
            contest.results[side] += results
    return contest


def the_policy(part: str, side: str, args: argparse.Namespace) -> Policy:
    """What acts in one of the loops."""
    if part == "scripted":
        return SeeingExpert()
    policy = load_policy(args.checkpoint) if args.checkpoint else random_policy(args)
    stage: Any = policy.stage
    if part == "one_pass" and side == "baseline":
        stage.noise_levels, stage.sampler = "shared", Sampler(args.steps, guidance=2.0)
        stage.video.unet.attend_always(True)
    return policy


def random_policy(args: argparse.Namespace) -> VideoPolicy:
    """The experiment's policy before any training, with one pass of the video network a replan."""
    name = read_protocol(find_protocol(args.protocol)).simulator.name
    files = [str(ROOT / "experiments" / EXPERIMENTS[name]), *args.overlay]
    stage = untrained(files, "action", {"standardize_features": False, "noise_levels": "independent"})
    return VideoPolicy(stage.eval())


# --- what is shown ----------------------------------------------------------------------------------------------------


def table(documents: dict[str, dict[str, Any]]) -> Table:
    """One line a policy."""
    shown = Table(title="Episodes an hour")
    for column in ("policy", "ours", "serial loop", "ratio", "by round", "policy's share"):
        shown.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    for name, row in documents.items():
        by_round = " ".join(str(ratio) for ratio in row["seconds_baseline_to_ours_by_round"])
        share = " / ".join(f"{row['policy_share'][side]:.0%}" for side in SIDES)
        shown.add_row(name, f"{row['ours']:.0f}", f"{row['baseline']:.0f}", f"{row['ratio']:.1f}", by_round, share)
    return shown


def summary(args: argparse.Namespace, documents: dict[str, dict[str, Any]], extra: dict[str, Any]) -> dict[str, Any]:
    """The JSON line; its first numbers are those of the engine alone, where that was run."""
    first = next(iter(documents.values()), {"ours": None, "baseline": None, "ratio": None})
    return {
        "name": f"rollout {args.protocol}",
        **{key: first[key] for key in ("ours", "baseline", "ratio")},
        "unit": "episodes per hour",
        "hardware": hardware(torch.device("cpu")),
        "commit": git_commit(),
        "date": date.today().isoformat(),
        "workers": args.workers,
        "threads": args.threads,
        "baseline_threads": args.baseline_threads,
        "checkpoint": bool(args.checkpoint),
        "policies": documents,
        **extra,
    }


if __name__ == "__main__":
    sys.exit(main())
