"""Memory of training a stage, estimated on shapes. **Never checked on a GPU**: none was lent."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from files.errors import UserError
from lightning_modules import Stage
from networks.svd_unet import layers
from videopolicy.experiment.named_callbacks import NAMED_CALLBACKS
from videopolicy.profiling.counting import LiveBytes, autocast, gpu_norms
from videopolicy.profiling.flops import TrainingStep, look_at_features, random_batch

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
        """Read a stage's complete config (`complete_config`).

        Raises:
            UserError: The networks do not run in the precision.
        """
        trainer = config["trainer"]
        devices, strategy, given = trainer["devices"], trainer["strategy"], trainer["callbacks"] or []
        sharing = (strategy.get("init_args") or {}) if isinstance(strategy, Mapping) else {}
        paths = [str(entry["class_path"]) for entry in (given if isinstance(given, list) else [given])]
        named = [path for key, path in NAMED_CALLBACKS.items() if config[key] is not None]
        precision = SHORT.get(str(trainer["precision"]), str(trainer["precision"]))
        if precision not in ("32-true", *HALF):
            raise UserError(
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
class Memory:
    """Memory of one device in training, in bytes.

    Attributes:
        setting: How devices share the work.
        weights: All weights, before they are divided over devices.
        cut: Of them those of the networks that FSDP cuts into shares.
        unit: Those of the largest piece that FSDP gathers at once.
        learned: Those that are trained.
        optimizer: The optimizer's state, and the temporaries of its step (`optimizer_bytes`).
        step_by_batch: Activations and temporaries of a training step, by batch size, smallest first, two at least.
    """

    setting: Setting
    weights: int
    cut: int
    unit: int
    learned: int
    optimizer: tuple[int, int]
    step_by_batch: dict[int, int]

    @property
    def kept(self) -> dict[str, int]:
        """What is there all the time, by use; of what is cut, this device's share."""
        setting, shares = self.setting, self.setting.shares
        return {
            "weights, frozen ones included": self.weights - self._elsewhere,
            "gradients": self.learned // shares,
            "optimizer state": self.optimizer[0] // shares,
            "average of the weights": self.learned if "TrainableWeightAveraging" in setting.callbacks else 0,
            "DDP's copy of the gradients": self.learned if setting.uses_ddp else 0,
        }

    @property
    def passing(self) -> dict[str, int]:
        """What is there for a time, besides activations."""
        away, shares = self._elsewhere, self.setting.shares
        # one piece computes, the next one's weights come in, and the last one's gradients go out
        gathered = min(3 * self.unit, 2 * away) if self.setting.resharding else away + self.unit
        return {
            "temporaries of the optimizer's step": self.optimizer[1] // shares,
            "FSDP: other devices' weights in a step": gathered if shares > 1 else 0,
            "FSDP: the same in validation": away,
        }

    @property
    def _elsewhere(self) -> int:
        return self.cut - self.cut // self.setting.shares

    def total(self, batch_size: int) -> int:
        """The most at a batch size."""
        update, gathered, validating = self.passing.values()
        return sum(self.kept.values()) + max(update, validating, gathered + self.step(batch_size))

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
        """Windows a batch may have on a device, to `MOST_WINDOWS`; 0 if not even one fits."""
        return bisect_right(range(1, MOST_WINDOWS + 1), device_bytes, key=self.total)


def count_memory(stage: Stage, setting: Setting, optimizer: tuple[int, int]) -> Memory:
    """Count a stage as it stands inside `on_shapes`; `optimizer` is `optimizer_bytes` of what it trains."""
    learned = sum(math.prod(shape) for shape in trained_shapes(stage)) * FLOAT32_BYTES
    networks = stage.trained_modules()
    return Memory(
        setting,
        weights=_bytes(stage),
        cut=sum(_bytes(network) for network in networks),
        unit=max(_bytes(unit) for network in networks for unit in (layers(network) or [network])),
        learned=learned,
        optimizer=optimizer,
        step_by_batch={
            size: step_memory(stage, size, setting.half, learned, setting.caches_features) for size in BATCH_SIZES
        },
    )


def _bytes(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters()) * FLOAT32_BYTES


def step_memory(
    stage: Stage, batch_size: int, half: torch.dtype | None, gradient_bytes: int, caches_features: bool
) -> int:
    """Most bytes of activations and temporaries in a training step.

    Runs the step on shapes and follows every tensor's life. The gradients of the step before live until the backward
    begins, as in Lightning's loop.

    Args:
        stage: The stage.
        batch_size: Windows.
        half: Type of autocast's products, or None.
        gradient_bytes: Size of all gradients, which are not counted.
        caches_features: As with FeatureCache.
    """
    batch, step = random_batch(stage.data, batch_size), TrainingStep(stage)
    if caches_features:
        look_at_features(stage, batch)
    there = [*stage.parameters(), *stage.buffers()]
    with gpu_norms(stage, half), LiveBytes(there) as memory:
        with autocast(half):
            loss = step(batch)
        forward = memory.peak
        memory.restart_peak()
        torch.autograd.backward(loss)
        backward = memory.peak - gradient_bytes
    stage.zero_grad(set_to_none=True)
    return int(max(forward, backward))


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
