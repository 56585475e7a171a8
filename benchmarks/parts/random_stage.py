"""A stage of an experiment with random weights, and generated inputs for it: what the speed benchmarks run on."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.parts.alternation import Contender, alternate
from datamodules import Batch
from datamodules.latent_cache import Latents
from videopolicy.experiment.command_line import CommandLine
from videopolicy.profile import with_weights
from videopolicy.profiling.stage_cost import make_computable

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = {"small": "lift.yaml", "medium": "libero_object.yaml", "full": "robocasa.yaml"}
SHARED = {"noise_levels": "shared", "standardize_features": False}
# Widths and layers at which encoding takes the same share of a step as at the paper's settings (7.9 of 7.4 TFLOP).
SLIM = {"small": ([32, 32, 32, 32], 1), "medium": ([32, 64, 128, 128], 2)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which networks, and where."""
    parser.add_argument("--size", choices=tuple(EXPERIMENTS), default="small", help="lift, libero_object or robocasa")
    parser.add_argument("--experiment", type=Path, help="another experiment file in place of the size's")
    parser.add_argument("--overlay", action="append", default=[], metavar="FILE", help="laid over the experiment")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def build(args: argparse.Namespace, stage: str, slim: bool = False) -> Any:  # noqa: ANN401 - a stage
    """The experiment's stage with random weights, an action stage with shared noise levels.

    Args:
        args: From `add_arguments`.
        stage: `video` or `action`.
        slim: Put an autoencoder like Stable Video Diffusion's, but slim, in the place of one that costs nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        overlays = [write_slim(Path(folder) / "slim.yaml", args.size)] if slim and args.size in SLIM else []
        built = untrained(files_of(args, overlays), stage, SHARED if stage == "action" else {})
    for module in built.modules():  # layers that start at zero would hide what is in front of them
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and not weight.any():
            torch.nn.init.normal_(weight, std=0.02)
    built.log_dict = lambda *_, **__: None  # there is no Trainer
    return built


def untrained(files: Sequence[str], stage: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a stage
    """A stage before any training, which can be computed without data.

    Args:
        files: The experiment and what is laid over it.
        stage: `video` or `action`.
        arguments: Of the stage, in place of the experiment's.
    """
    torch.manual_seed(0)
    changes = [(f"model.init_args.{name}", value) for name, value in arguments.items()]
    built = with_weights(CommandLine("fit", list(files), changes, stage), stage)
    make_computable(built)
    return built


def files_of(args: argparse.Namespace, first: Sequence[Path] = ()) -> list[str]:
    """The experiment and what is laid over it: some files first, then those that were asked for."""
    file = args.experiment or ROOT / "experiments" / EXPERIMENTS[args.size]
    return [str(path) for path in (file, *first, *args.overlay)]


def write_slim(path: Path, size: str) -> Path:
    """An overlay with a slim autoencoder of 4 latent channels, and what must fit it."""
    widths, layers = SLIM[size]
    autoencoder = {"block_out_channels": widths, "layers_per_block": layers}
    video = {
        "autoencoder": {"class_path": "networks.SVDAutoencoder", "init_args": autoencoder},
        "preconditioning": {"class_path": "networks.EDMPreconditioning"},
        "unet": {"init_args": {"in_channels": 8, "out_channels": 4}},
    }
    path.write_text(yaml.safe_dump({"model": {"init_args": {"video": {"init_args": video}}}}))
    return path


@torch.no_grad()
def cached(stage: Any, batch: Batch) -> Batch:  # noqa: ANN401
    """The batch as the datamodule gives it with a latent cache: latents in float16, no frames.

    Raises:
        NetworkError: The autoencoder has nothing to cache.
    """
    video, frames = stage.video, batch.frames
    moments = video.autoencoder.moments(frames.flatten(0, 2)).unflatten(0, frames.shape[:3])
    current = torch.cat([frames[:, :1, 0], frames[:, :, 0]], dim=1)
    condition = video.autoencoder.encode_condition(current.flatten(0, 1)).unflatten(0, current.shape[:2])
    latents = Latents(moments.half(), condition.half(), video.text_encoder(batch.instructions))
    tensors = {name: getattr(batch, name) for name in ("actions", "action_is_pad", "frame_is_pad", "windows")}
    nothing = frames.new_zeros(len(batch), 0)
    return Batch(frames=nothing, **tensors, instructions=batch.instructions, latents=latents)


def weight_bytes(modules: Sequence[torch.nn.Module]) -> int:
    """Size of all parameters and buffers."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def matmul_flop_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Speed of one large matrix product, the most that the device can be expected to reach."""
    side, runs = (8192, 50) if device.type == "cuda" else (2048, 5)
    a = torch.randn(side, side, device=device).to(dtype)
    product = Contender("product", lambda: lambda _: torch.mm(a, a))
    alternate([product], device, turns=1, runs=runs, warm_up=2)
    return 2 * side**3 / min(product.seconds[0])
