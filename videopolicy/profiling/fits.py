"""Which ways to train a stage fit on which devices: whole weights or adapters, three optimizers, one device or many."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from lightning_modules import Stage, adam_8bit
from networks import LoRA
from videopolicy.profiling.flops import on_shapes
from videopolicy.profiling.memory import Memory, Setting, count_memory, optimizer_bytes, trained_shapes

LEAN = ("Adafactor", "8-bit Adam")
ADAPTERS = LoRA(whole=("conv_in", "attn2.to_v"))  # as experiments/ablations/lora.yaml has them
PLACEMENTS = {"1": (1, "auto"), "8, DDP": (8, "ddp"), "8, FSDP": (8, "ShardedStrategy")}


@dataclass(frozen=True)
class Way:
    """One way to train a stage: what gets gradients, its optimizer, its devices, and the memory of one of them."""

    trained: str
    optimizer: str
    devices: str
    memory: Memory


def ways_to_train(make: Callable[[], Stage], setting: Setting) -> list[Way]:
    """Every combination, with gradient checkpointing where the video U-Net is trained.

    Args:
        make: Makes the stage on the meta device, anew each time.
        setting: How the experiment trains it; its precision and callbacks count.
    """
    stage = make()
    kinds: dict[str, Stage] = {"as configured" if stage.video.is_frozen or stage.lora else "every weight": stage}
    if not stage.video.is_frozen and stage.lora is None:
        adapted = kinds[f"LoRA, rank {ADAPTERS.rank}"] = make()
        adapted.lora = ADAPTERS
    ways = []
    for trained, kind in kinds.items():
        kind.adapt()
        kind.to("meta")
        kind.video.unet.gradient_checkpointing = not kind.video.is_frozen
        kept = {name: optimizer_bytes(factory, trained_shapes(kind)) for name, factory in optimizers(kind).items()}
        with on_shapes(kind):
            memory = count_memory(kind, setting, (0, 0))
        for devices, (number, strategy) in PLACEMENTS.items():
            placed = replace(setting, num_devices=number, strategy=strategy)
            for name, state in kept.items():
                if name not in LEAN or placed.shares == 1:  # on shares these were not tried
                    ways.append(Way(trained, name, devices, replace(memory, setting=placed, optimizer=state)))
    return ways


def optimizers(stage: Stage) -> dict[str, Any]:
    """The stage's own, Adafactor, and 8-bit Adam where bitsandbytes is installed."""
    own = getattr(stage.optimizer, "func", stage.optimizer)
    name = {"adam_1e5": "Adam"}.get(own.__name__, own.__name__) if hasattr(own, "__name__") else "the experiment's"
    found: dict[str, Any] = {name: stage.optimizer, "Adafactor": torch.optim.Adafactor}
    if importlib.util.find_spec("bitsandbytes") is not None:
        found["8-bit Adam"] = adam_8bit
    return found
