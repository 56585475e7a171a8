"""`videopolicy demo`: the whole method in small, with the controls that say what its success rate means."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from rich.console import Console

from datamodules import Preprocessing
from lightning_modules import VideoPolicy, load_checkpoint, load_policy
from lightning_modules.policy import build_stage
from simulators import EpisodeResult, Policy, ReplayPolicy, SimulatorConfig, summarize
from videopolicy.evaluate import evaluate, table

HELP = "collect Lift demos, train both stages, and compare the policy with its controls"
EXPERIMENT = Path("experiments/lift.yaml")
WITHOUT_STAGE_1 = Path("experiments/ablations/without_stage1.yaml")
NUM_DEMOS = 60
NUM_EPISODES = 40
FIRST_SEED = 100_000  # demos start from seeds below
EXECUTE_STEPS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"), help="where everything is written")
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--episodes", type=int, default=NUM_EPISODES, help="held-out episodes a policy")
    parser.add_argument("--override", nargs="*", default=[], help="further arguments of `lightning fit`")


def run(args: argparse.Namespace) -> int:
    """Run the demo; interrupted and started again it goes on where it stopped.

    Two pipelines share the cores, one thread each: the policy itself, and the control without stage 1 followed by the
    rollouts of the other controls.
    """
    console = Console()
    start = time.monotonic()
    run_dir: Path = args.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    demos = run_dir / "demos.hdf5"

    console.rule("1  collect demos with the scripted expert")
    _command("videopolicy.main", "collect", "--simulator", "robosuite", "--task", "Lift", "--episodes", str(NUM_DEMOS),
             "--workers", "2", "--image-size", "64", "--output", str(demos))  # fmt: skip

    console.rule("2  train: video stage, handoff, action stage (and, beside it, the control without stage 1)")
    control_log = run_dir / "without_stage1.log"
    console.print(f"the control's output goes to {control_log}")
    trained, control = run_dir / "trained", run_dir / "without_stage1"
    fit = ("videopolicy.lightning_cli", "fit", "-c", str(EXPERIMENT))
    common = (f"--data.init_args.paths={demos}", f"--seed_everything={args.seed}", *args.override)
    with control_log.open("w") as stream:
        beside = _start(*fit, "-c", str(WITHOUT_STAGE_1), "--run_dir", str(control), *common, output=stream)
        try:
            _command(*fit, "--run_dir", str(trained), *common)
        except BaseException:
            beside.terminate()
            raise
        if beside.wait():
            raise SystemExit(f"the control without stage 1 failed; its output is in {control_log}.")

    console.rule(f"3  {args.episodes} held-out episodes for each policy")
    results = _roll_out(console, run_dir, demos, args.episodes)
    minutes = (time.monotonic() - start) / 60

    console.print(table({name: summarize(part) for name, part in results.items()}))
    console.print(f"videos: {run_dir}/rollouts/*/*.mp4 (executed above predicted), {trained}/video/ (stage 1)")
    console.print(f"dashboards: make tensorboard RUNS={run_dir}")
    numbers = {name: _count(part) for name, part in results.items()}
    print(json.dumps({**numbers, "minutes": round(minutes, 1)}))
    return 0


def _roll_out(console: Console, run_dir: Path, demos: Path, num_episodes: int) -> dict[str, list[EpisodeResult]]:
    checkpoints = {
        name: run_dir / name / "action" / "checkpoints" / "last.ckpt" for name in ("trained", "without_stage1")
    }
    makers: dict[str, Callable[[], Policy]] = {
        "trained": lambda: load_policy(checkpoints["trained"]),
        "without_stage1": lambda: load_policy(checkpoints["without_stage1"]),
        "untrained": lambda: untrained_policy(checkpoints["without_stage1"]),
        "replay": lambda: ReplayPolicy(demo_actions(demos)),
    }
    stored = load_checkpoint(checkpoints["trained"])["rollout"]
    protocol = {
        "simulator": SimulatorConfig(**stored["simulator"]),
        "num_episodes": num_episodes,
        "first_seed": FIRST_SEED,
        "execute_steps": EXECUTE_STEPS,
    }
    results = {}
    for name, make in makers.items():
        console.print(f"policy: {name}")
        output = run_dir / "rollouts" / f"{name}.jsonl"
        results[name] = evaluate(make(), protocol, output, workers=2, videos=2)
    return results


def untrained_policy(checkpoint: Path) -> VideoPolicy:
    """The networks of a checkpoint with freshly drawn adapter and action U-Net."""
    document = load_checkpoint(checkpoint)
    stage = build_stage(document["policy"], Preprocessing.from_dict(document["preprocessing"]))
    fixed = {k: v for k, v in document["state_dict"].items() if not k.startswith(("adapter.", "action_unet."))}
    own = stage.state_dict()
    stage.load_state_dict({**own, **fixed})
    return VideoPolicy(stage.eval())


def demo_actions(path: Path) -> list[np.ndarray]:
    """Action sequences (L, D) of all demos of a file."""
    with h5py.File(path) as file:
        return [np.asarray(demo["actions"]) for demo in file["data"].values()]


def _count(results: list[EpisodeResult]) -> dict[str, int]:
    counted = [result for result in results if result.success is not None]
    return {"successes": sum(bool(result.success) for result in counted), "episodes": len(counted)}


def _start(module: str, *arguments: str, output: object = None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # two processes, two cores
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, env=environment, stdout=output, stderr=output)  # type: ignore[call-overload, no-any-return]


def _command(module: str, *arguments: str) -> None:
    process = _start(module, *arguments)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
        raise SystemExit(
            f"`{module.rpartition('.')[2]} {' '.join(arguments)}` failed with exit code {code}; see above."
        )
