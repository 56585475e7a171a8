"""Counting a stage on shapes alone: FLOPs of its parts, of a training step and of a replan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datamodules import Batch, Preprocessing
from lightning_modules import PolicyStage, Stage
from lightning_modules.policy_stage import PREFIX
from networks import Sampler
from policies.video_inputs import conditioning_of
from videopolicy.experiment.skeleton import make_computable
from videopolicy.profiling.counting import flop, flop_by_part, without_data

U_NET, ADAPTER, ACTION, TEXT = "video network", "adapter", "action U-Net", "text tower"
ENCODE, CONDITION, DECODE = "autoencoder: encode", "autoencoder: conditions", "autoencoder: decode"
PART_ORDER = (TEXT, ENCODE, CONDITION, U_NET, ADAPTER, ACTION, DECODE)
PART_OF_PREFIX = {
    "video.unet.": U_NET,
    "video.text_encoder.": TEXT,
    "video.autoencoder.condition_encoder.": CONDITION,
    "video.autoencoder.vae.decoder.": DECODE,
    "video.autoencoder.": ENCODE,
    "adapter.": ADAPTER,
    "action_unet.": ACTION,
}
MODULES_OF_PART = {
    ENCODE: ["stage.video.autoencoder", "stage.policy.video.autoencoder"],
    U_NET: ["stage.video.unet", "stage.policy.video.unet"],
    ADAPTER: ["stage.policy.adapter"],
    ACTION: ["stage.policy.action_unet"],
}
INSTRUCTION = "pick the mug from the counter and place it in the sink"


@dataclass(frozen=True)
class Part:
    """One network of a stage.

    Attributes:
        parameters: Its weights.
        trainable: Those that the optimizer gets.
        weight_bytes: Memory of the weights, float32.
        forward_flop: One forward for one sample.
        forward_of: What that forward is of.
    """

    parameters: int
    trainable: int
    weight_bytes: int
    forward_flop: int
    forward_of: str


@dataclass(frozen=True)
class Step:
    """FLOPs of one training step of one device.

    Attributes:
        by_part: Forward FLOPs.
        forward: All of the forward, encoding included.
        backward: The backward, with what gradient checkpointing computes again.
        cached: What FeatureCache computed before training, once a window, for as many windows.
    """

    by_part: dict[str, int]
    forward: int
    backward: int
    cached: int


@dataclass(frozen=True)
class Replan:
    """FLOPs of one decision: an action chunk, or in a stage that does not act a predicted video.

    Attributes:
        by_part: What deciding needs, once the instruction is known.
        video: What it adds when the predicted video is wanted as pictures.
        steps: Calls of the denoiser.
        guidance: Whether each of them computes the unconditional half too.
        published: The same by the published procedure: video and actions denoised together in every pass.
    """

    by_part: dict[str, int]
    video: int
    steps: int
    guidance: bool
    published: int


def random_batch(data: Preprocessing, size: int, device: torch.device | str = "cpu") -> Batch:
    """A batch of noise in the layout of an experiment's data, as a training step receives it."""
    frames = torch.rand(size, data.num_views, data.num_frames, 3, data.image_size, data.image_size, device=device)
    return Batch(
        frames=frames * 2 - 1,
        actions=torch.rand(size, data.action_horizon, data.action_dim, device=device) * 2 - 1,
        action_is_pad=torch.zeros(size, data.action_horizon, dtype=torch.bool, device=device),
        instructions=[INSTRUCTION] * size,
        windows=torch.arange(size, device=device),
    )


@contextmanager
def on_shapes(stage: Stage) -> Iterator[None]:
    """Inside, a stage from the meta device computes on shapes, as in training."""
    with without_data(stage):
        stage._device = torch.device("cpu")  # Lightning follows `to` only, which shapes cannot go through
        make_computable(stage)
        stage.video.text_encoder([INSTRUCTION])  # remembered from here on, as in a run
        stage.train()
        yield


def sampler_of(stage: Any) -> Sampler:  # noqa: ANN401 - a policy's, or the video stage's
    """What samples actions, or in a stage that does not act videos."""
    sampler: Sampler = (stage.policy if acts(stage) else stage).sampler
    return sampler


def video_sampler_of(stage: Any) -> Sampler:  # noqa: ANN401 - as `sampler_of`
    """What samples the videos that are looked at."""
    sampler: Sampler = stage.policy.video_sampler if acts(stage) else stage.sampler
    return sampler


def acts(stage: Stage) -> bool:
    """Whether a stage has an action head."""
    return isinstance(stage, PolicyStage)


# --- parts ------------------------------------------------------------------------------------------------------------


def count_parts(stage: Stage, trainable: set[str]) -> dict[str, Part]:
    """Weights and FLOPs of every part, in the order in which a sample meets them.

    Args:
        stage: On shapes.
        trainable: Names of the weights that the optimizer gets.
    """
    numel, parts = {name: weight.numel() for name, weight in stage.named_parameters()}, {}
    for part, (cost, of) in sorted(forward_by_part(stage).items(), key=lambda item: PART_ORDER.index(item[0])):
        names = [name for name in numel if part_of(name) == part]
        count, learned = sum(numel[name] for name in names), sum(numel[name] for name in names if name in trainable)
        parts[part] = Part(count, learned, 4 * count, cost, of)
    return parts


def part_of(name: str) -> str:
    """The part that a weight of a stage belongs to, by the weight's name."""
    return next(part for prefix, part in PART_OF_PREFIX.items() if name.removeprefix(PREFIX).startswith(prefix))


@torch.no_grad()
def forward_by_part(stage: Any) -> dict[str, tuple[int, str]]:  # noqa: ANN401 - its network is an action stage's alone
    """FLOPs of one forward of every part for one sample, and what that forward is of."""
    video, data, batch, level = stage.video, stage.data, random_batch(stage.data, 1), torch.ones(1)
    current = batch.frames[:, :, 0]
    latents, conditioning = video.encode(batch.frames), video.condition(current, batch.instructions)
    rows, size = video.num_rows, "x".join(str(side) for side in latents.shape[-2:])
    counted = {
        TEXT: (flop(lambda: video.text_encoder.embed(batch.instructions)), "1 instruction"),
        ENCODE: (flop(lambda: video.encode(batch.frames)), f"{rows} pictures of {data.image_size} px"),
        CONDITION: (flop(lambda: video.condition(current, batch.instructions)), f"{1 + video.num_views} pictures"),
        U_NET: (flop(lambda: video.denoise(latents, level, conditioning)), f"{rows} rows of {size}"),
        DECODE: (flop(lambda: video.decode(latents)), f"{rows} pictures"),
    }
    if acts(stage):
        network = stage.policy.joint
        features, emb = video.features(latents, level, conditioning, network.taps)
        cond = network.adapt(features, emb)
        maps = f"{len(features)} maps of {video.num_views} x {video.num_frames} frames"
        counted[ADAPTER] = (flop(lambda: network.adapt(features, emb)), maps)
        chunk = f"{data.action_horizon} x {data.action_dim} numbers"
        counted[ACTION] = (flop(lambda: network.action_unet(batch.actions, emb, cond)), chunk)
    return counted


# --- a training step --------------------------------------------------------------------------------------------------


class TrainingStep(nn.Module):
    """A stage's training step as a forward pass: what its loss is."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, batch: Batch) -> Tensor:
        """The loss that the step gives to the optimizer."""
        loss = self.stage.training_step(batch, 0)
        assert isinstance(loss, Tensor), "every stage returns its loss alone"
        return loss


def count_step(stage: Stage, batch_size: int, caches_features: bool) -> Step:
    """FLOPs of one training step, by running it on shapes."""
    batch, step, losses = random_batch(stage.data, batch_size), TrainingStep(stage), list[Tensor]()
    cached = look_at_features(stage, batch) if caches_features else 0
    forward, by_part = flop_by_part(lambda: losses.append(step(batch)), MODULES_OF_PART)
    backward = flop(losses[0].backward)
    stage.zero_grad(set_to_none=True)
    return Step({name: count for name, count in by_part.items() if count}, forward, backward, cached)


@torch.no_grad()
def look_at_features(stage: Any, batch: Batch) -> int:  # noqa: ANN401 - an action stage's
    """Let a batch hold its features as with FeatureCache; returns what they cost."""

    def compute() -> None:
        conditioning = conditioning_of(stage.policy.video, batch, None)
        batch.features = stage.policy.features_of_noise(conditioning)[0]

    return flop(compute)


# --- a replan ---------------------------------------------------------------------------------------------------------


def denoiser_calls(sampler: Sampler) -> int:
    """How often a sampler calls the denoiser; more than its steps for some schedulers."""
    calls: list[int] = []

    def denoise(noisy: tuple[Tensor, ...], sigma: Tensor) -> tuple[Tensor, ...]:
        calls.append(1)
        return noisy

    sampler.sample(denoise, (torch.zeros(1, 1),))
    return len(calls)


def passes(sampler: Sampler) -> int:
    """Network passes of one sample; guidance needs two a call."""
    return denoiser_calls(sampler) * (1 if sampler.guidance == 1.0 else 2)


def count_replan(stage: Any, forward: Mapping[str, int], calls: int, video_passes: int) -> Replan:  # noqa: ANN401
    """FLOPs of one replan.

    Args:
        stage: On shapes; its samplers are an action stage's alone.
        forward: FLOPs of one forward by part.
        calls: `denoiser_calls` of the stage's sampler.
        video_passes: `passes` of what samples its videos, which independent levels do not get on the way.
    """
    guidance = sampler_of(stage).guidance != 1.0
    both = calls * (1 + guidance)
    every = {name: both * forward[name] for name in (U_NET, ADAPTER, ACTION) if name in forward}
    used, video = {CONDITION: forward[CONDITION]} | every, forward[DECODE]
    published = sum(used.values())
    if acts(stage) and not stage.policy.needs_future_frames:
        used |= {U_NET: (1 + guidance) * count_look(stage), ADAPTER: (1 + guidance) * forward[ADAPTER]}
        video += video_passes * forward[U_NET]
    return Replan({name: count for name, count in used.items() if count}, video, calls, guidance, published)


@torch.no_grad()
def count_look(stage: Any) -> int:  # noqa: ANN401 - as above
    """FLOPs of one look at pure noise, as far as the last tap."""
    conditioning = conditioning_of(stage.policy.video, random_batch(stage.data, 1), None)
    return flop(lambda: stage.policy.features_of_noise(conditioning))
