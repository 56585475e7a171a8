"""Seconds of a replan: ours against the published order of work, with the same networks, pictures and noise.

    python benchmarks/replan.py --size small --device cpu
    python benchmarks/replan.py --size full --device cuda --dtype bfloat16 --compile reduce-overhead

- published: 30 steps; the conditional and the unconditional pass one after the other; cross-attention in every layer,
  embeddings of time, ids and text in every step; the film decoded; float32.
- exact: the same numbers within rounding, with our shortcuts, in the type of --dtype.
- one pass: independent noise levels, no guidance: one pass of the video network as far as the last tap, then 30 steps
  of the action network.

Networks are an experiment's with random weights. Joint denoising needs the whole video network in each pass. The last
line is JSON. Needs no demos, simulator, weights or downloads.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a bare checkout too

from networks import Conditioning, Sampler, seeded_noise  # noqa: E402 - after the path
from networks.counting import flop  # noqa: E402
from networks.inference import prepare_for_inference  # noqa: E402

EXPERIMENTS = {"small": "lift.yaml", "medium": "libero_object.yaml", "full": "robocasa.yaml"}
SHARED = {"noise_levels": "shared", "standardize_features": False}


def main() -> int:
    """Time the three and print them."""
    args = parse_arguments()
    device = torch.device(args.device)
    stage = build(args.size, args.experiment, args.overlay).to(device).eval()
    stage.sampler = Sampler(args.steps, guidance=2.0)
    print(json.dumps(measure(stage, args, device)))
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=tuple(EXPERIMENTS), default="small")
    parser.add_argument("--experiment", type=Path, help="another experiment file in place of the size's")
    parser.add_argument("--overlay", action="append", default=[], metavar="FILE", help="laid over the experiment")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--compile", choices=("default", "reduce-overhead", "max-autotune"))
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--steps", type=int, default=30, help="denoising steps (default 30)")
    parser.add_argument("--seconds", type=float, default=20.0, help="timed runs of each go on for so long (default 20)")
    return parser.parse_args()


def build(size: str, experiment: Path | None, overlays: list[str]) -> Any:  # noqa: ANN401 - an action stage
    """The experiment's action stage with random weights and shared noise levels."""
    from videopolicy.experiment.command_line import CommandLine
    from videopolicy.profile import with_weights
    from videopolicy.profiling.stage_cost import make_computable

    file = experiment or ROOT / "experiments" / EXPERIMENTS[size]
    torch.manual_seed(0)
    changes = [(f"model.init_args.{name}", value) for name, value in SHARED.items()]
    stage = with_weights(CommandLine("fit", [str(file), *overlays], changes, "action"), "action")
    make_computable(stage)
    for module in stage.modules():  # layers that start at zero would hide what is in front of them
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and not weight.any():
            torch.nn.init.normal_(weight, std=0.02)
    return stage


# --- the three --------------------------------------------------------------------------------------------------------


def measure(stage: Any, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:  # noqa: ANN401
    """Everything that is reported."""
    from videopolicy.profiling.stopwatch import hardware, time_runs
    from videopolicy.versions import git_commit

    published_actions = published(stage)
    published_flop = flop(lambda: published(stage))
    base = time_runs(lambda: published(stage), device, args.seconds)
    prepare_for_inference(stage.network, args.dtype, args.channels_last, args.compile)
    difference = (exact(stage) - published_actions).abs().max() / published_actions.abs().max()
    times = {"exact": time_runs(lambda: exact(stage), device, args.seconds)}
    times["one_pass"] = time_runs(lambda: one_pass(stage), device, args.seconds)
    peak = matmul_flop_per_s(device, getattr(torch, "float32" if device.type == "cpu" else "bfloat16"))
    flops = {"exact": flop(lambda: exact(stage)), "one_pass": flop(lambda: one_pass(stage))} if not args.compile else {}
    return {
        "name": "replan",
        "ours": times["exact"].median_s,
        "baseline": base.median_s,
        "ratio": base.median_s / times["exact"].median_s,
        "unit": "s",
        "one_pass": times["one_pass"].median_s,
        "one_pass_ratio": base.median_s / times["one_pass"].median_s,
        "largest_relative_difference": difference.item(),
        "runs": {name: time.to_dict() for name, time in {"published": base, **times}.items()},
        "flop": {"published": published_flop, **flops},
        "flop_per_s": {"published": published_flop / base.median_s}
        | {name: count / times[name].median_s for name, count in flops.items()},
        "matmul_flop_per_s": peak,
        "size": args.size,
        "steps": args.steps,
        "dtype": args.dtype,
        "compile": args.compile,
        "channels_last": args.channels_last,
        "hardware": hardware(device),
        "commit": git_commit(),
        "date": date.today().isoformat(),
    }


def conditions(stage: Any) -> Conditioning:  # noqa: ANN401
    """Conditions from one fixed picture a camera."""
    data = stage.data
    size = (1, data.num_views, 3, data.image_size, data.image_size)
    pictures = torch.rand(size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    given: Conditioning = stage.video.condition(pictures.to(stage.device), ["lift the cube"], seeds=[0])
    return given


@torch.inference_mode()
def published(stage: Any) -> Tensor:  # noqa: ANN401
    """The published order of work."""
    network, video, sampler = stage.network, stage.video, stage.sampler
    video.unet.attend_always(True)
    given = conditions(stage)
    without = given.unconditional()
    film = seeded_noise(video.latent_shape(stage.data.image_size), [0], stage.device)
    chunk = seeded_noise((stage.data.action_horizon, stage.data.action_dim), [1], stage.device)

    def denoise(noisy: tuple[Tensor, ...], sigma: Tensor) -> tuple[Tensor, ...]:
        conditional, unconditional = (network.denoise(*noisy, sigma, case) for case in (given, without))
        pairs = zip(conditional, unconditional, strict=True)
        return tuple(b + sampler.guidance * (a - b) for a, b in pairs)

    level = sampler.first_level(film)
    start = (
        video.preconditioning.pure_noise(film, level, given.anchor),
        network.action_preconditioning.pure_noise(chunk, level),
    )
    latents, actions = sampler.sample(denoise, start)
    video.decode(latents)
    video.unet.attend_always(False)
    return actions


@torch.inference_mode()
def exact(stage: Any) -> Tensor:  # noqa: ANN401
    """What a rollout of a shared-level policy runs."""
    actions: Tensor = stage.sample_jointly(conditions(stage), [0])[0]
    return actions


@torch.inference_mode()
def one_pass(stage: Any) -> Tensor:  # noqa: ANN401
    """What a rollout of an independent-level policy runs."""
    shared = stage.sampler
    stage.sampler = Sampler(shared.num_steps, sigma_max=20.0, sigma_min=0.02, guidance=1.0)
    try:
        actions: Tensor = stage.sample_independently(conditions(stage), [0])
    finally:
        stage.sampler = shared
    return actions


def matmul_flop_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Speed of one large matrix product, the most that the device can be expected to reach."""
    from videopolicy.profiling.stopwatch import time_runs

    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / time_runs(lambda: a @ a, device, 2.0).fastest_s


if __name__ == "__main__":
    sys.exit(main())
