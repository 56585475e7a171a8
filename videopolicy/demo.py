"""`videopolicy demo`: the whole method in small, with the controls that say what its success rate means."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from datamodules import Preprocessing
from lightning_modules import VideoPolicy, load_policy
from lightning_modules.policy import build_stage
from networks import read_checkpoint
from simulators import EpisodeResult, Policy, ReplayPolicy, summarize
from videopolicy.evaluate import checkpoint_identity
from videopolicy.evaluation.live_table import success_table
from videopolicy.evaluation.protocol import stored_protocol
from videopolicy.evaluation.run import evaluate

EXPERIMENT = Path("experiments/lift.yaml")
WITHOUT_STAGE_1 = Path("experiments/ablations/without_stage1.yaml")
NUM_DEMOS = 60
NUM_EPISODES = 40
FIRST_SEED = 200_000  # neither demos (from 0) nor the rollouts during training (from 100,000) start there


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "--run-dir", type=Path, help="where everything is written (default runs/demo, or runs/demo_seed<seed>)"
    )
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--episodes", type=int, default=NUM_EPISODES, help="held-out episodes a policy")
    parser.add_argument("--override", nargs="*", default=[], help="further arguments of `lightning fit`")


def run(args: argparse.Namespace) -> int:
    """Run the demo; interrupted and started again it goes on where it stopped.

    Two pipelines share the cores, one thread each: the policy, and its controls.
    """
    console = Console(markup=False)
    start = time.monotonic()
    run_dir: Path = args.run_dir or Path(f"runs/demo_seed{args.seed}" if args.seed else "runs/demo")
    run_dir.mkdir(parents=True, exist_ok=True)
    demos = run_dir / "demos.hdf5"

    console.rule("1  collect demos with the scripted expert")
    _command("videopolicy.main", "collect", "--simulator", "robosuite", "--task", "Lift", "--episodes", str(NUM_DEMOS),
             "--workers", "2", "--image-size", "64", "--output", str(demos))  # fmt: skip

    console.rule("2  train: video stage, handoff, action stage")
    torch.set_num_threads(1)
    results: dict[str, list[EpisodeResult]] = {}
    fit = ("videopolicy.lightning_cli", "fit", "-c", str(EXPERIMENT))
    common = (f"--data.init_args.paths={demos}", f"--seed_everything={args.seed}", *args.override)
    with _Controls(run_dir, demos, args.episodes, (*fit, "-c", str(WITHOUT_STAGE_1)), common) as controls:
        console.print(f"the controls are trained and rolled out beside it; their output goes to {controls.log}")
        _command(*fit, "--run_dir", str(run_dir / "trained"), *common)
        console.rule(f"3  {args.episodes} held-out episodes for each policy")
        checkpoint = _checkpoint(run_dir / "trained")
        results["trained"] = _roll_out(
            load_policy(checkpoint), "checkpoint", checkpoint, run_dir, "trained", args.episodes, console
        )
        console.print("waiting for the controls" if controls.is_alive() else "the controls are done")
    results |= controls.results
    minutes = (time.monotonic() - start) / 60

    console.print(success_table({name: summarize(part) for name, part in results.items()}))
    console.print(f"videos: {run_dir}/rollouts/*/videos (executed above predicted), {run_dir}/trained/video/videos")
    console.print(f"dashboards: make tensorboard ARGS='--logdir {run_dir}'")
    numbers = {name: _count(part) for name, part in results.items()}
    print(json.dumps({**numbers, "minutes": round(minutes, 1)}))
    return 0


class _Controls(threading.Thread):
    """What the policy is compared with, trained and rolled out on the second core while the policy trains.

    (b) the same policy with stage 1 left out, (c) networks that were not trained at all, (d) blind replay of demos.
    """

    def __init__(self, run_dir: Path, demos: Path, episodes: int, fit: Sequence[str], common: Sequence[str]) -> None:
        super().__init__(name="controls")
        self.run_dir, self.demos, self.episodes = run_dir, demos, episodes
        self.command = (*fit, "--run_dir", str(run_dir / "without_stage1"), *common)
        self.log = run_dir / "without_stage1.log"
        self.results: dict[str, list[EpisodeResult]] = {}
        self.error: BaseException | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Train (b), then roll (b), (c) and (d) out."""
        try:
            with self.log.open("w") as stream:
                self._process = _start(*self.command, output=stream)
                if self._process.wait():
                    raise SystemExit(f"the control without stage 1 failed; its output is in {self.log}.")
            checkpoint = _checkpoint(self.run_dir / "without_stage1")
            makers: dict[str, Callable[[], Policy]] = {
                "without_stage1": lambda: load_policy(checkpoint),
                "untrained": lambda: untrained_policy(checkpoint),
                "replay": lambda: ReplayPolicy(demo_actions(self.demos)),
            }
            for name, make in makers.items():
                kind = "checkpoint" if name == "without_stage1" else name
                self.results[name] = _roll_out(make(), kind, checkpoint, self.run_dir, name, self.episodes)
        except BaseException as error:  # raised again where the main thread joins
            self.error = error

    def __enter__(self) -> _Controls:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._process is not None:
            self._process.terminate()
        self.join()
        if error is None and self.error is not None:
            raise self.error


def _checkpoint(run_dir: Path) -> Path:
    return run_dir / "action" / "checkpoints" / "last.ckpt"


def _roll_out(
    policy: Policy,
    kind: str,
    checkpoint: Path,
    run_dir: Path,
    name: str,
    num_episodes: int,
    console: Console | None = None,
) -> list[EpisodeResult]:
    trained_by = stored_protocol(read_checkpoint(checkpoint)["rollout"], "demo")
    protocol = replace(trained_by, episodes_per_task=num_episodes, first_seed=FIRST_SEED)
    identity = checkpoint_identity(checkpoint, kind)
    workers = 1 if console is None else 2
    return evaluate(policy, identity, protocol, run_dir / "rollouts" / name, workers, videos=2, console=console)


def untrained_policy(checkpoint: Path) -> VideoPolicy:
    """The networks of a checkpoint with freshly drawn adapter and action U-Net."""
    document = read_checkpoint(checkpoint)
    stage = build_stage(document["policy"], Preprocessing.from_dict(document["preprocessing"]))
    fixed = {k: v for k, v in document["state_dict"].items() if not k.startswith(("adapter.", "action_unet."))}
    own = stage.state_dict()
    stage.load_state_dict({**own, **fixed})
    return VideoPolicy(stage.eval())


def demo_actions(path: Path) -> list[npt.NDArray[Any]]:
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
