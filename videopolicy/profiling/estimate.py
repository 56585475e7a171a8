"""What a stage costs, computed from its experiment alone: parts, training, memory by use, the batch that fits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules import Stage
from networks.svd_unet import layers
from videopolicy.errors import CommandError
from videopolicy.experiment.named_callbacks import NAMED_CALLBACKS
from videopolicy.profiling.stage_cost import (
    PART_ORDER,
    Replan,
    Step,
    count_attending,
    count_replan,
    count_step,
    denoiser_calls,
    forward_by_part,
    on_shapes,
    part_of,
    passes,
    sampler_of,
    step_memory,
    video_sampler_of,
)

HALF = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
BATCH_SIZES = (1, 4, 16, 64)  # at which a step's memory is computed; past them it grows as between the last two
MOST_WINDOWS = 2**20  # no batch is larger
SHORT = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "None": "32-true"}  # Lightning's other names
FLOAT32_BYTES = 4  # of every weight, gradient and state, also under autocast


@dataclass(frozen=True)
class Setting:
    """What a stage's config says of how it is trained.

    Attributes:
        precision: The Trainer's.
        batch_size: Windows a device.
        num_devices: How many, as far as the config says.
        strategy: The Trainer's, without its module.
        callbacks: Class names.
        resharding: Whether FSDP gives a layer's weights back between forward and backward pass.
    """

    precision: str
    batch_size: int
    num_devices: int
    strategy: str
    callbacks: tuple[str, ...]
    resharding: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Setting:
        """Read a stage's complete config (`StageRun.document`).

        Raises:
            CommandError: The networks do not run in the precision.
        """
        trainer = config["trainer"]
        devices, strategy, given = trainer["devices"], trainer["strategy"], trainer["callbacks"] or []
        sharing = (strategy.get("init_args") or {}) if isinstance(strategy, Mapping) else {}
        paths = [str(entry["class_path"]) for entry in (given if isinstance(given, list) else [given])]
        named = [path for key, path in NAMED_CALLBACKS.items() if config[key] is not None]
        precision = SHORT.get(str(trainer["precision"]), str(trainer["precision"]))
        if precision not in ("32-true", *HALF):
            raise CommandError(
                f"trainer.precision is {precision}, in which the stages do not run: the denoiser's scalings are "
                f"float32. Choose one of 32-true, {', '.join(HALF)}."
            )
        return cls(
            precision=precision,
            batch_size=int(config["data"]["init_args"]["batch_size"]),
            num_devices=(devices if isinstance(devices, int) and devices > 0 else 1) * int(trainer["num_nodes"]),
            strategy=str(strategy["class_path"] if isinstance(strategy, Mapping) else strategy).rpartition(".")[2],
            callbacks=tuple(path.rpartition(".")[2] for path in (*paths, *named)),
            resharding=bool(sharing.get("reshard_after_forward", True)),
        )

    @property
    def half(self) -> torch.dtype | None:
        """Type of autocast's products; None without autocast."""
        return HALF.get(self.precision)

    @property
    def uses_ddp(self) -> bool:
        """Whether every device keeps a copy of everything and gradients are gathered in buckets."""
        return self.strategy.lower().startswith("ddp") or (self.strategy == "auto" and self.num_devices > 1)

    @property
    def shares(self) -> int:
        """Devices over which what is trained is cut (FSDP); 1 where each has all of it."""
        return self.num_devices if self.strategy == "ShardedStrategy" else 1

    @property
    def caches_features(self) -> bool:
        """Whether the video network runs once a window rather than once a step."""
        return "FeatureCache" in self.callbacks


@dataclass(frozen=True)
class Part:
    """One network of a stage.

    Attributes:
        parameters: Its weights.
        trainable: Those that the optimizer gets.
        weight_bytes: Memory of the weights.
        forward_flop: One forward for one sample.
        forward_of: What that forward is of.
    """

    parameters: int
    trainable: int
    weight_bytes: int
    forward_flop: int
    forward_of: str


@dataclass(frozen=True)
class Memory:
    """Memory of one device in training, in bytes.

    Attributes:
        weights: All weights, frozen ones included; of the trained ones this device's share.
        gradients: Of what is trained, this device's share.
        optimizer: The optimizer's state, this device's share.
        average: Copy of the trained weights that TrainableWeightAveraging keeps.
        buckets: DDP's own copy of the gradients.
        update: Temporaries of the optimizer's step on a GPU, when activations are gone.
        step_by_batch: Activations and temporaries of a training step, by batch size, smallest first, two at least.
        gathered: Under FSDP, most bytes of the other devices' weights, and gradients for them, in a training step.
        judging: Under FSDP, the same while the model is judged, when no activations are kept.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    buckets: int
    update: int
    step_by_batch: dict[int, int]
    gathered: int = 0
    judging: int = 0

    @property
    def kept(self) -> int:
        """What is there all the time."""
        return self.weights + self.gradients + self.optimizer + self.average + self.buckets

    def total(self, batch_size: int) -> int:
        """The most at a batch size."""
        return self.kept + max(self.update, self.judging, self.gathered + self.step(batch_size))

    def step(self, batch_size: int) -> int:
        """Activations and temporaries at any batch size: on the line between, or through, the two nearest known ones.

        They are the largest of several uses that grow with the batch or stay, so between two points this is no less
        than the truth.
        """
        sizes = list(self.step_by_batch)
        upper = next((index for index, size in enumerate(sizes) if size >= batch_size and index), len(sizes) - 1)
        low, high = sizes[upper - 1], sizes[upper]
        below, above = self.step_by_batch[low], self.step_by_batch[high]
        return below + (above - below) * (batch_size - low) // (high - low)

    def largest_batch(self, device_bytes: int) -> int:
        """Windows a batch may have on a device; 0 if not even one fits."""
        low, high = 0, 1
        while self.total(high) <= device_bytes and high < MOST_WINDOWS:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.total(middle) <= device_bytes else (low, middle)
        return low


@dataclass(frozen=True)
class Estimate:
    """What is known of a stage without running it.

    Attributes:
        setting: How it is trained.
        parts: By name, in the order in which a sample meets them.
        step: FLOPs of a training step at the experiment's batch size.
        memory: In training, as configured.
        checkpointing: Whether the U-Net computes its activations again in the backward pass; None where no gradient
            passes it.
        otherwise: Memory with gradient checkpointing the other way round, where one does.
        states_per_weight: Numbers that the optimizer keeps for each weight.
        replan: FLOPs of one replan.
        attending_flop: One forward of the video U-Net with attention to its one text token, as published.
    """

    setting: Setting
    parts: dict[str, Part]
    step: Step
    memory: Memory
    checkpointing: bool | None
    otherwise: Memory | None
    states_per_weight: float
    replan: Replan
    attending_flop: int


def estimate(stage: Stage, setting: Setting) -> Estimate:
    """Count a stage on shapes.

    Args:
        stage: On the meta device (`skeleton`); it is of no use afterwards.
        setting: How it is trained.
    """
    stage.adapt()
    stage.to("meta")
    trainable = trainable_names(stage)
    kept = optimizer_bytes(stage.optimizer, trained_shapes(stage))  # before shapes stand for tensors
    calls = denoiser_calls(sampler_of(stage))
    video_passes = passes(video_sampler_of(stage))
    with on_shapes(stage):
        forwards = forward_by_part(stage)
        parts = count_parts(stage, trainable, forwards)
        step = count_step(stage, setting.batch_size, setting.caches_features)
        memory, otherwise, checkpointing = count_memory(stage, setting, kept), None, None
        if not stage.video.is_frozen:
            checkpointing = stage.video.unet.gradient_checkpointing
            stage.video.unet.gradient_checkpointing = not checkpointing
            otherwise = count_memory(stage, setting, kept)
        flop_by_name = {name: part.forward_flop for name, part in parts.items()}
        attending = count_attending(stage)
        replan = count_replan(stage, flop_by_name, calls, video_passes, attending)
    states = memory.optimizer / memory.gradients
    return Estimate(setting, parts, step, memory, checkpointing, otherwise, states, replan, attending)


def count_parts(stage: Stage, trainable: set[str], forwards: Mapping[str, tuple[int, str]]) -> dict[str, Part]:
    """Weights and FLOPs of every part."""
    numel = {name: weight.numel() for name, weight in stage.named_parameters()}
    parts = {}
    for part in (name for name in PART_ORDER if name in forwards):
        names = [name for name in numel if part_of(name) == part]
        count, learned = sum(numel[name] for name in names), sum(numel[name] for name in names if name in trainable)
        parts[part] = Part(count, learned, count * FLOAT32_BYTES, *forwards[part])
    return parts


def count_memory(stage: Stage, setting: Setting, kept: tuple[int, int]) -> Memory:
    """Memory of training a stage, as it stands inside `on_shapes`; `kept` is `optimizer_bytes` of what it trains."""
    return Sizes.of(stage, setting).memory(setting, kept)


@dataclass(frozen=True)
class Sizes:
    """What training a stage takes, before it is divided over devices, in bytes.

    Attributes:
        weights: All weights.
        cut: Of them those of the networks that FSDP cuts into shares.
        unit: Those of the largest piece that FSDP gathers at once.
        learned: Those that are trained.
        step_by_batch: Activations and temporaries.
    """

    weights: int
    cut: int
    unit: int
    learned: int
    step_by_batch: dict[int, int]

    @classmethod
    def of(cls, stage: Stage, setting: Setting) -> Sizes:
        """Count a stage as it stands inside `on_shapes`."""
        learned = sum(math.prod(shape) for shape in trained_shapes(stage)) * FLOAT32_BYTES
        networks = stage.trained_modules()
        return cls(
            weights=_bytes(stage),
            cut=sum(_bytes(network) for network in networks),
            unit=max(_bytes(unit) for network in networks for unit in (layers(network) or [network])),
            learned=learned,
            step_by_batch={
                size: step_memory(stage, size, setting.half, learned, setting.caches_features) for size in BATCH_SIZES
            },
        )

    def memory(self, setting: Setting, kept: tuple[int, int]) -> Memory:
        """Of one device of a setting; `kept` are the optimizer's state and the temporaries of its step."""
        shares, (optimizer, update) = setting.shares, kept
        away = self.cut - self.cut // shares
        # one piece computes, the next one's weights come in, and the last one's gradients go out
        gathered = min(3 * self.unit, 2 * away) if setting.resharding else away + self.unit
        return Memory(
            weights=self.weights - away,
            gradients=self.learned // shares,
            optimizer=optimizer // shares,
            average=self.learned if "TrainableWeightAveraging" in setting.callbacks else 0,
            buckets=self.learned if setting.uses_ddp else 0,
            update=update // shares,
            step_by_batch=self.step_by_batch,
            gathered=gathered if shares > 1 else 0,
            judging=away,
        )


def _bytes(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters()) * FLOAT32_BYTES


def trainable_names(stage: Stage) -> set[str]:
    """Weights that the configured optimizer gets."""
    given = {id(weight) for group in stage.parameter_groups() for weight in group["params"]}
    return {name for name, weight in stage.named_parameters() if id(weight) in given}


def trained_shapes(stage: Stage) -> list[tuple[int, ...]]:
    """Shapes of the weights that the optimizer gets."""
    wanted = trainable_names(stage)
    return [tuple(weight.shape) for name, weight in stage.named_parameters() if name in wanted]


def optimizer_bytes(factory: Any, shapes: Iterable[tuple[int, ...]]) -> tuple[int, int]:  # noqa: ANN401 - Lightning's
    """What an optimizer keeps for weights of these shapes, and the temporaries of its step on a GPU.

    It makes a step on one weight of every shape, on the CPU. torch's optimizers step all weights at once on a GPU and
    hold one temporary for each, unless they are fused or told not to; Adafactor and others go weight by weight.
    """
    kept = update = 0
    for shape, count in Counter(shapes).items():
        weight = nn.Parameter(torch.ones(shape))
        weight.grad = torch.ones_like(weight)
        optimizer = factory([{"params": [weight]}])
        optimizer.step()
        values = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor) and v.ndim]
        kept += count * sum(value.numel() * value.element_size() for value in values)
        group, size = optimizer.param_groups[0], weight.numel() * weight.element_size()
        at_once = group.get("foreach", False) is not False and not group.get("fused") and values
        if at_once and not isinstance(optimizer, torch.optim.Adafactor):
            update += count * size
        else:
            update = max(update, size)
    return kept, update
