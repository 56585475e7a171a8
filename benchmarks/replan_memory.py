"""Memory of a replan by estimate: ours in half precision against the published order of work.

    python benchmarks/replan_memory.py --size full

Runs nothing: the networks are shapes without data, and the life of every tensor is followed through one pass of each
kind, which takes the most that a replan ever takes. A GPU's context, workspaces and fragmentation come on top; so
`replan.py` measures it where there is a GPU. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout too

from benchmarks.parts.random_stage import add_arguments, files_of, weight_bytes
from networks.counting import LiveBytes, gpu_norms
from networks.inference import prepare_for_inference
from videopolicy.experiment.skeleton import skeleton
from videopolicy.profiling.stage_cost import on_shapes, random_batch
from videopolicy.versions import git_commit


def main() -> int:
    """Print the passes and the two sums."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args()
    print(json.dumps(measure(args)))
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is reported; bytes."""
    published = passes(args, half=False)
    ours = passes(args, half=True)
    for side, name in ((published, "published, float32 weights under autocast"), (ours, "ours, bfloat16 weights")):
        print(f"{name}: " + ", ".join(f"{part} {size / 1e9:.2f} GB" for part, size in side.items()), flush=True)
    baseline, exact = (
        side["weights"] + max(size for part, size in side.items() if part != "weights") for side in (published, ours)
    )
    return {
        "name": "replan_memory",
        "ours": exact,
        "baseline": baseline,
        "ratio": baseline / exact,
        "unit": "bytes, by estimate",
        "published": published,
        "exact": ours,
        "size": args.size,
        "hardware": "any: computed on shapes",
        "commit": git_commit(),
        "date": date.today().isoformat(),
    }


def passes(args: argparse.Namespace, half: bool) -> dict[str, int]:
    """Bytes of the weights, and of activations and temporaries of each kind of pass, in one order of work."""
    stage: Any = skeleton(files_of(args), "action")
    if half:
        prepare_for_inference(stage.network, "bfloat16")
    autocast: AbstractContextManager[Any] = nullcontext() if half else torch.autocast("cpu", torch.bfloat16)
    with on_shapes(stage), torch.no_grad():
        video, batch, level = stage.eval().video, random_batch(stage.data, 1), torch.ones(1)
        video.unet.attend_always(not half)
        film = torch.randn(1, *video.latent_shape(stage.data.image_size))
        given = video.condition(batch.frames[:, :, 0], batch.instructions)
        found = {"conditions": most(stage, lambda: video.condition(batch.frames[:, :, 0], batch.instructions))}
        if half:
            both = given.with_unconditional()
            constants = video.constants(both).at(video.level_embedding(level))
            doubled = [torch.cat([x] * 2) for x in (film, batch.actions, level)]
            found["pass"] = most(stage, lambda: stage.network.denoise(*doubled, both, constants))
        else:
            with autocast, gpu_norms(stage, torch.bfloat16):
                found["pass"] = most(stage, lambda: stage.network.denoise(film, batch.actions, level, given))
            found["decode"] = most(stage, lambda: video.decode(film))
        return found | {"weights": weight_bytes([stage])}


def most(stage: Any, run: Callable[[], Any]) -> int:  # noqa: ANN401
    """Most bytes at once, beyond the weights."""
    with LiveBytes([*stage.parameters(), *stage.buffers()]) as live:
        run()
    return live.peak


if __name__ == "__main__":
    sys.exit(main())
