"""Seconds of an optimisation step under several settings of an experiment, by turns in one run.

    python benchmarks/train_step.py --size small --device cpu
    python benchmarks/train_step.py --size medium --device cpu --stage video --overlay benchmarks/parts/slim.yaml
    python benchmarks/train_step.py --size full --device cuda --with experiments/ablations/bf16.yaml

Settings, all of them a user's:

- frames: the experiment, every frame encoded in every step;
- latents: the same with latents and text as `videopolicy cache` keeps them, where the autoencoder has a posterior;
- features: the same with the video network's features as `FeatureCache` keeps them, where the stage is trained so;
- one for each `--with FILE`, laid over the experiment, on frames.

A step is forward, backward and update in a real Trainer with the experiment's precision, from the same random weights
in every turn; reading data is no part of it. The last line is JSON. Needs no demos, weights or downloads.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout too

from benchmarks.parts.networks import add_arguments, command_line
from benchmarks.parts.turns import Setting, add_turn_arguments, now, report, take_turns
from datamodules import Batch
from datamodules.cached_windows import Latents
from lightning_modules import Stage
from videopolicy.experiment.command_line import CommandLine
from videopolicy.experiment.skeleton import complete_config, random_stage
from videopolicy.profiling.flops import random_batch


def main(words: Sequence[str] | None = None) -> int:
    """Measure one stage after the other."""
    args = parse_arguments(words)
    warnings.filterwarnings("ignore", module="lightning")  # of a Trainer without loggers and checkpoints
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    found = {stage: measure(args, stage) for stage in ([args.stage] if args.stage else ["video", "action"])}
    headline = list(found.values())[-1]
    print(json.dumps(headline if args.stage else {**headline, "name": "train_step", "stages": found}))
    return 0


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--stage", choices=("video", "action"), help="default: both")
    parser.add_argument("--with", dest="others", action="append", default=[], metavar="FILE", help="compare this too")
    parser.add_argument("--batch-size", type=int, default=4, help="default 4, the paper's on each of 8 GPUs")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn, after one to warm up (default 3)")
    add_turn_arguments(parser, minutes=6.0)
    return parser.parse_args(words)


def measure(args: argparse.Namespace, stage: str) -> dict[str, Any]:
    """Everything that is reported of one stage."""
    device, losses = torch.device(args.device), dict[str, list[float]]()

    def setting(name: str, line: CommandLine, inputs: str = "frames") -> Setting:
        trainer = complete_config(line, stage)["trainer"]

        def turn() -> list[float]:
            times = StepTimes(device)
            model = random_stage(line, stage).to(device)
            train(model, batch_of(model, inputs, args.batch_size), times, args.steps, trainer)
            losses[name] = times.losses
            return times.seconds[1:]

        return Setting(name, turn)

    plain = command_line(args, stage)
    settings = [setting(inputs, plain, inputs) for inputs in possible_inputs(plain, stage)]
    settings += [setting(Path(file).stem, command_line(args, stage, [file])) for file in args.others]
    take_turns(settings, device, args.turns, args.minutes)
    print(f"{stage} stage, {args.size}, batch of {args.batch_size}")
    more = {"stage": stage, "size": args.size, "batch_size": args.batch_size, "losses": losses}
    return report(f"train_step {stage}", settings, device, **more)


def possible_inputs(line: CommandLine, stage: str) -> list[str]:
    """What the stage's step may begin with."""
    model = random_stage(line, stage)
    inputs = ["frames"]
    if model.video.autoencoder.has_posterior:
        inputs.append("latents")
    if complete_config(line, stage)["features"] is not None:
        inputs.append("features")
    return inputs


def batch_of(stage: Any, inputs: str, size: int) -> Batch:  # noqa: ANN401 - features are an action stage's
    """A generated batch, from which a step begins with these inputs."""
    batch = random_batch(stage.data, size, stage.device)
    if inputs == "latents":
        return with_latents(stage, batch)
    if inputs == "features":
        batch.features = [feature.half() for feature in stage.policy.batch_features(batch)[0]]
    return batch


def train(stage: Stage, batch: Batch, times: StepTimes, steps: int, settings: Mapping[str, Any]) -> None:
    """A step to warm up and some more, always on the same batch, with what the experiment says of the Trainer."""
    trainer = Trainer(
        accelerator="gpu" if times.device.type == "cuda" else "cpu",
        devices=1,
        precision=settings["precision"],
        gradient_clip_val=settings["gradient_clip_val"],
        max_steps=1 + steps,
        callbacks=[times],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    batches: Any = [batch] * (1 + steps)
    trainer.fit(stage, DataLoader(batches, batch_size=None, collate_fn=lambda found: found))


@torch.no_grad()
def with_latents(stage: Stage, batch: Batch) -> Batch:
    """The batch as the datamodule gives it with a latent cache: latents in float16, no frames."""
    video, frames = stage.video, batch.frames
    moments = video.autoencoder.moments(frames.flatten(0, 2)).unflatten(0, frames.shape[:3])
    current = torch.cat([frames[:, :1, 0], frames[:, :, 0]], dim=1)
    condition = video.autoencoder.encode_condition(current.flatten(0, 1)).unflatten(0, current.shape[:2])
    batch.latents = Latents(moments.half(), condition.half(), video.text_encoder(batch.instructions))
    batch.frames = frames.new_zeros(len(batch), 0)
    return batch


class StepTimes(Callback):
    """Time every training step of a Trainer, from the batch on the device to the optimizer's update.

    Attributes:
        seconds: One entry a batch, the first one included, which warms up.
        losses: The loss of every batch.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Start the clock."""
        torch.manual_seed(1000 + batch_idx)  # noise is then the same in every setting
        self._start = now(self.device)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Stop the clock."""
        self.seconds.append(now(self.device) - self._start)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.losses.append(float(loss) if isinstance(loss, Tensor) else float("nan"))


if __name__ == "__main__":
    sys.exit(main())
