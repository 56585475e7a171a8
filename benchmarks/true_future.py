"""Whether a perfect video would help on given demos: actions read off the current pictures, and with the true future.

    python benchmarks/true_future.py -c experiments/metaworld_small.yaml --action-demos 1,3

A video network can give its action head at most the true future. So before training one: a small convolutional
network is fitted to the windows of the demos that have actions, once with the current picture of every camera and once
with the experiment's future frames besides (their differences to the current one), and its error on held-out demos is
compared. The network, its steps and its numbers are the same for both: without a future the differences are zero. The
error is the share of the variance of the held-out demos' normalised actions that stays unexplained; where the
true future hardly lowers it, a predicted one cannot help either. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout too

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from datamodules import Batch, DemoDataModule, WindowDataset
from videopolicy.evaluation.tables import terminal_table
from videopolicy.experiment.command_line import add_overrides, parse
from videopolicy.experiment.stage_run import StageRun

WIDTHS = (32, 64, 128, 128)
SHIFT = 4  # pixels that pictures are shifted by in training, to every side
WITH = {"current picture": 0.0, "true future": 1.0}  # factor on what differs in the future


def network(channels: int, numbers: int) -> nn.Sequential:
    """Pictures (B, channels, H, W) to (B, numbers)."""
    layers: list[nn.Module] = []
    for before, width in zip((channels, *WIDTHS), WIDTHS, strict=False):
        for inputs, stride in ((before, 2), (width, 1)):
            layers += [nn.Conv2d(inputs, width, 3, stride, 1), nn.GroupNorm(8, width), nn.SiLU()]
    head = (nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * WIDTHS[-1], 256), nn.SiLU(), nn.Linear(256, numbers))
    return nn.Sequential(*layers, *head)


def windows(dataset: WindowDataset, most: int) -> Batch:
    """At most so many windows, evenly over all demos, in one batch."""
    step = max(1, -(-len(dataset) // most))
    chosen = Subset(dataset, range(0, len(dataset), step))
    whole: Batch = next(iter(DataLoader(chosen, batch_size=len(chosen), collate_fn=Batch.collate)))
    return whole


def pictures(frames: Tensor, factor: float) -> Tensor:
    """Frames (B, V, T, 3, H, W) to (B, V * T * 3, H, W): the current one, and what differs from it in the others."""
    current = frames[:, :, :1]
    return torch.cat([current, factor * (frames[:, :, 1:] - current)], dim=2).flatten(1, 3)


def squared_error(found: Tensor, batch: Batch) -> Tensor:
    """Mean over the steps within the demo and the numbers of an action."""
    return (found - batch.actions).square()[~batch.action_is_pad].mean()


def unexplained(
    train: Batch, held_out: Batch, to_float: Callable[[Tensor], Tensor], factor: float, steps: int, seed: int
) -> float:
    """Fit a network to `train`; the share of the variance of the held-out actions that it leaves unexplained."""
    torch.manual_seed(seed)
    shape = train.actions.shape[1:]
    model = network(train.frames.shape[1:4].numel(), shape.numel())
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    shift = v2.RandomCrop(train.frames.shape[-2:], padding=SHIFT, padding_mode="edge")
    for _ in track(range(steps), f"seed {seed}", console=Console(stderr=True), transient=True):
        batch = pick(train, torch.randint(len(train), (64,)))
        loss = squared_error(model(shift(pictures(to_float(batch.frames), factor))).unflatten(1, shape), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        parts = [model(pictures(to_float(frames), factor)) for frames in held_out.frames.split(64)]
        error = squared_error(torch.cat(parts).unflatten(1, shape), held_out)
        mean = held_out.actions[~held_out.action_is_pad].mean(dim=0)
        return float(error / squared_error(mean, held_out))


def pick(batch: Batch, indices: Tensor) -> Batch:
    """Some windows of a batch: what is fitted here of them."""
    parts = (batch.frames[indices], batch.actions[indices], batch.action_is_pad[indices])
    return Batch(*parts, [batch.instructions[index] for index in indices], batch.windows[indices])


def data_of(config: Sequence[str], overrides: Sequence[str]) -> DemoDataModule:
    """The data module of an experiment's last stage, set up, every frame of a window read."""
    line = parse(["fit", *(word for path in config for word in ("-c", path)), *overrides])
    experiment = line.experiment()
    data: Any = StageRun(line.stage_config(experiment, line.stages(experiment)[-1])).data_alone()
    data.setup()
    return data  # type: ignore[no-any-return]


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", action="append", required=True, metavar="FILE", help="an experiment")
    parser.add_argument("--action-demos", default="1,3", help="numbers of demos a task (default 1,3)")
    parser.add_argument("--seeds", default="0,1,2", help="of the demos' draw and the network (default 0,1,2)")
    parser.add_argument("--steps", type=int, default=250, help="training steps (default 250)")
    parser.add_argument("--windows", type=int, default=4000, help="at most so many windows a set (default 4000)")
    add_overrides(parser, "--data.frame_stride 4")
    args = parser.parse_args(argv)
    rows = []
    for k in map(int, args.action_demos.split(",")):
        for seed in map(int, args.seeds.split(",")):
            data = data_of(args.config, [f"--data.action_demos={k}", f"--data.demo_seed={seed}", *args.overrides])
            train, held_out = (windows(part, args.windows) for part in (data.train_set, data.val_set))
            to_float = data.preprocessing.to_float
            found = {
                name: unexplained(train, held_out, to_float, factor, args.steps, seed) for name, factor in WITH.items()
            }
            rows.append({"action_demos": k, "seed": seed, **{name: round(value, 4) for name, value in found.items()}})
    header = ("action demos", "seed", *WITH, "ratio")
    now, future = WITH
    cells = []
    for row in rows:
        numbers = (row[now], row[future], row[future] / row[now])
        cells.append([str(row["action_demos"]), str(row["seed"]), *(f"{number:.2f}" for number in numbers)])
    Console().print(terminal_table("Unexplained share of held-out actions", header, cells))
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
