"""Optimisation steps of the paper's networks at full size, through the real Trainer, on generated demos.

    python benchmarks/full_size_steps.py --stage action --device cpu --batch-size 1 --steps 1
    python benchmarks/full_size_steps.py --device cuda --search

Builds experiments/robocasa.yaml as `lightning fit` does, with random weights in place of the downloads, and demos in
RoboCasa's layout (three 256 px cameras, 12-dim actions) in a temporary folder. Prints seconds per step and peak memory;
the last line is the result as JSON. `--search` doubles the batch until memory or --minutes run out, each try in a
process of its own; --batch-size is where it begins. A stage that does not fit does not keep the other from running.
Needs no network, simulator, demos or weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a bare checkout too
NEEDED = ("torch", "torchvision", "lightning", "jsonargparse", "omegaconf", "diffusers", "transformers", "open_clip")
NEEDED += ("safetensors", "h5py", "numpy", "tensorboard", "torchmetrics", "imageio", "PIL", "rich", "yaml")
OUT_OF_MEMORY = 3  # exit status of a try that did not fit
OUT_OF_MEMORY_TEXT = "out of memory"


def main() -> int:
    """Measure one batch size, or search the largest."""
    args = parse_arguments()
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"full_size_steps: this machine lacks {', '.join(missing)}; pip install -e . brings them.")
        return 2
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        print("full_size_steps: this machine has no CUDA device; give --device cpu.")
        return 2
    if args.stage and not args.search:
        return measure(args, args.stage)
    ends = time.monotonic() + 60 * args.minutes
    found = {}
    for stage in [args.stage] if args.stage else ["video", "action"]:
        found[stage] = search(args, stage, ends) if args.search else one_try(args, stage, args.batch_size)[1]
    print(json.dumps({"name": "full_size_batch" if args.search else "full_size_steps", "stages": found}))
    return int(any(one.get("failure", OUT_OF_MEMORY_TEXT) != OUT_OF_MEMORY_TEXT for one in found.values()))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--stage", choices=("video", "action"), help="one stage only (default: both, one after the other)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--precision", help="the Trainer's (default: bf16-mixed on a GPU, 32-true on a CPU)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10, help="optimisation steps; the first one warms up (default 10)")
    parser.add_argument("--search", action="store_true", help="double the batch until memory runs out")
    parser.add_argument("--minutes", type=float, default=9.0, help="then the search begins no new try (default 9)")
    parser.add_argument(
        "--max-images", type=int, help="most images in one pass of the encoder (default: the experiment's)"
    )
    parser.add_argument("--overlay", action="append", default=[], metavar="FILE", help="laid over robocasa.yaml")
    args = parser.parse_args()
    args.precision = args.precision or ("bf16-mixed" if args.device == "cuda" else "32-true")
    return args


# --- one batch size ---------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, stage: str) -> int:
    """Run the steps and print the result; `OUT_OF_MEMORY` if they did not fit."""
    import torch

    from videopolicy.experiment.command_line import CommandLine
    from videopolicy.experiment.skeleton import without_weights
    from videopolicy.experiment.stage_cli import StageCLI
    from videopolicy.profiling.stopwatch import StepTimes

    with tempfile.TemporaryDirectory() as folder:
        demos = write_demos(Path(folder) / "demos" / "CloseDrawer.hdf5", windows=args.batch_size * (args.steps + 1))
        began = time.perf_counter()
        files = [str(ROOT / "experiments" / "robocasa.yaml"), *args.overlay]
        line = CommandLine("fit", files, overrides(args, demos), stage, str(Path(folder) / "run"))
        cli = StageCLI("fit", without_weights(line.stage_config(line.experiment(), stage)))
        print(f"{stage} stage: built in {time.perf_counter() - began:.0f} s", flush=True)
        times = StepTimes()
        guard = [frozen_guard()] if stage == "action" else []
        cli.trainer.callbacks = [times, *guard]  # neither checkpoints of several GB nor rollouts
        try:
            cli.execute(None)
        except torch.OutOfMemoryError:
            print(f"{stage} stage, batch {args.batch_size}: out of memory")
            return OUT_OF_MEMORY
        print(json.dumps(result(args, stage, cli, times)))
    return 0


def overrides(args: argparse.Namespace, demos: Path) -> list[tuple[str, Any]]:
    """What differs from the experiment: demos, devices, and that only steps are wanted."""
    chunk = [("model.init_args.video.init_args.autoencoder.init_args.max_images", args.max_images)]
    return [
        *(chunk if args.max_images else []),
        ("data.init_args.paths", str(demos)),
        ("data.init_args.batch_size", args.batch_size),
        ("data.init_args.val_fraction", 0.0),
        ("data.init_args.num_workers", 0),
        ("trainer.accelerator", "gpu" if args.device == "cuda" else "cpu"),
        ("trainer.devices", 1),
        ("trainer.strategy", "auto"),
        ("trainer.precision", args.precision),
        ("trainer.max_steps", args.steps),
        ("trainer.val_check_interval", None),
        ("trainer.limit_val_batches", 0),
        ("trainer.logger", False),
        ("trainer.enable_progress_bar", False),
        ("trainer.enable_model_summary", False),
        ("trainer.callbacks", []),
    ]


def write_demos(path: Path, windows: int) -> Path:
    """Noise in RoboCasa's layout: as many steps in all as windows are wanted, 50 a demo."""
    import numpy as np

    from datamodules.writer import Demo, RobomimicWriter

    rng = np.random.default_rng(0)
    cameras = ("robot0_eye_in_hand", "robot0_agentview_left", "robot0_agentview_right")
    with RobomimicWriter(path, "CloseDrawer") as writer:
        for number in range(-(-windows // 50)):
            coarse = rng.integers(0, 256, (50, len(cameras), 32, 32, 3), dtype=np.uint8)
            fine = coarse.repeat(8, axis=2).repeat(8, axis=3)
            images = {camera: fine[:, view] for view, camera in enumerate(cameras)}
            episode = {"layout_id": 1, "style_id": 1, "lang": "close the drawer"}
            actions = rng.uniform(-1, 1, (50, 12))
            writer.add(Demo(actions, images, attrs={"ep_meta": json.dumps(episode), "number": str(number)}))
    return path


def frozen_guard() -> Any:  # noqa: ANN401 - a class that needs Lightning, which may be missing
    """The handoff's own proof that stage 2 leaves the U-Net alone, for a U-Net that no handoff brought."""
    from callbacks import CheckpointHandoff
    from callbacks.handoff import handoff_state, state_sha256
    from lightning_modules import ActionStage

    class FrozenAsBuilt(CheckpointHandoff):
        def load_into(self, stage: ActionStage) -> None:
            stage.video.freeze()
            self._sha256 = state_sha256(handoff_state(stage.video))
            print(f"frozen video network: SHA-256 {self._sha256}", flush=True)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401 - Lightning's
            super().on_train_end(trainer, pl_module)  # raises if a bit has changed
            print(f"after the last step: SHA-256 {state_sha256(handoff_state(pl_module.video))}", flush=True)

    return FrozenAsBuilt("")


def result(args: argparse.Namespace, stage: str, cli: Any, times: Any) -> dict[str, Any]:  # noqa: ANN401
    """What was measured, for the JSON line."""
    import torch

    from videopolicy.profiling.stopwatch import Timing, hardware, peak_bytes
    from videopolicy.versions import git_commit

    device = cli.trainer.strategy.root_device
    later = times.seconds[1:]
    return {
        "name": "full_size_steps",
        "stage": stage,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "gradient_checkpointing": cli.model.video.unet.gradient_checkpointing,
        "max_images": args.max_images,
        "optimizer_steps": cli.trainer.global_step,
        "first_step_s": times.seconds[0],
        "later_steps_s": Timing.of(later).to_dict() if later else None,
        "losses": times.losses,
        "peak": peak_bytes(device),
        "hardware": hardware(device),
        "torch": torch.__version__,
        "commit": git_commit(),
        "date": date.today().isoformat(),
    }


# --- the largest batch ------------------------------------------------------------------------------------------------


def search(args: argparse.Namespace, stage: str, ends: float) -> dict[str, Any]:
    """Double the batch until a try runs out of memory, or the time is up as `time.monotonic` tells it.

    Returns:
        The largest batch that fitted, the smallest that did not (None if time was up first), and the one that takes
        least time a sample.
    """
    tries: list[dict[str, Any]] = []
    size, too_large = args.batch_size, None
    while too_large is None and (time.monotonic() < ends or not tries):
        status, found = one_try(args, stage, size)
        if status == OUT_OF_MEMORY:
            too_large = size
            break
        if status:
            raise RuntimeError(f"{stage} stage, batch {size}: {found['failure']}; what it said stands above")
        tries.append(found)
        size *= 2
    fitting = [one["batch_size"] for one in tries]
    best = min(tries, key=lambda one: one["later_steps_s"]["median_s"] / one["batch_size"], default=None)
    summary = {"name": "full_size_batch", "stage": stage, "largest_batch": max(fitting, default=0)}
    summary |= {"too_large": too_large, "fastest_per_sample": best and best["batch_size"], "tries": tries}
    print(json.dumps(summary | {"precision": args.precision}))
    return summary


def one_try(args: argparse.Namespace, stage: str, batch_size: int) -> tuple[int, dict[str, Any]]:
    """Steps at one batch size in a process of their own: its status, and what it measured or why it did not."""
    done = subprocess.run(command(args, stage, batch_size), stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return 0, found
    reason = OUT_OF_MEMORY_TEXT if done.returncode == OUT_OF_MEMORY else f"ended with status {done.returncode}"
    return done.returncode, {"failure": reason}


def command(args: argparse.Namespace, stage: str, batch_size: int) -> list[str]:
    """This script for one stage and batch size."""
    options = [("--stage", stage), ("--device", args.device), ("--precision", args.precision)]
    options += [("--batch-size", batch_size), ("--steps", args.steps)]
    options += [("--max-images", args.max_images)] if args.max_images else []
    options += [("--overlay", path) for path in args.overlay]
    return [sys.executable, __file__, *(str(word) for pair in options for word in pair)]


if __name__ == "__main__":
    sys.exit(main())
