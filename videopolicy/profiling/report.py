"""What a stage costs, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_modules import Stage
from videopolicy.profiling.counting import COUNTED
from videopolicy.profiling.fits import Way
from videopolicy.profiling.flops import (
    Part,
    Replan,
    Step,
    count_parts,
    count_replan,
    count_step,
    denoiser_calls,
    on_shapes,
    passes,
    sampler_of,
    video_sampler_of,
)
from videopolicy.profiling.memory import Memory, Setting, count_memory, optimizer_bytes, trainable_names, trained_shapes

DEVICES_GB = (24, 40, 80, 141)
UNCHECKED = (
    "Memory is estimated and was never checked on a GPU: the step was run on shapes and every tensor's life followed; "
    "a GPU's context (about 0.5 GB), its workspaces and fragmentation come on top."
)


@dataclass(frozen=True)
class Estimate:
    """What is known of a stage without running it.

    Attributes:
        setting: How it is trained.
        parts: By name, in the order in which a sample meets them.
        step: FLOPs of a training step at the experiment's batch size.
        memory: In training.
        replan: FLOPs of one replan.
    """

    setting: Setting
    parts: dict[str, Part]
    step: Step
    memory: Memory
    replan: Replan


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
    calls, video_passes = denoiser_calls(sampler_of(stage)), passes(video_sampler_of(stage))
    with on_shapes(stage):
        parts = count_parts(stage, trainable)
        step = count_step(stage, setting.batch_size, setting.caches_features)
        memory = count_memory(stage, setting, kept)
        replan = count_replan(stage, {name: part.forward_flop for name, part in parts.items()}, calls, video_passes)
    return Estimate(setting, parts, step, memory, replan)


def print_stage(console: Console, stage: str, counted: Estimate) -> None:
    """Print everything that is known of a stage."""
    setting = counted.setting
    per_device = "" if setting.num_devices == 1 else f" on each of {setting.num_devices} devices"
    console.rule(f"{stage} stage: {setting.precision}, batch of {setting.batch_size}{per_device}", align="left")
    for table in (parts_table(counted), work_table(counted), memory_table(counted)):
        console.print(table)
        console.print()
    for note in (COUNTED, UNCHECKED):
        console.print(note, style="dim")
    console.print()


def parts_table(counted: Estimate) -> Table:
    """Weights and one forward of every part."""
    rows = [
        (name, f"{p.parameters:,}", f"{p.trainable:,}", gb(p.weight_bytes), tflop(p.forward_flop), p.forward_of)
        for name, p in counted.parts.items()
    ]
    parts = counted.parts.values()
    weights, trained = sum(part.parameters for part in parts), sum(part.trainable for part in parts)
    rows.append(("all", f"{weights:,}", f"{trained:,}", gb(sum(part.weight_bytes for part in parts)), "", ""))
    return _table("Parts", ("part", "parameters", "trained", "weights, GB", "one forward, TFLOP", "of"), rows)


def work_table(counted: Estimate) -> Table:
    """FLOPs of a training step and of a replan."""
    step, replan = counted.step, counted.replan
    what = "replan" if "action U-Net" in replan.by_part else "predicted video"
    halves = " x 2 for guidance" if replan.guidance else ""
    rows = {f"training step, forward: {name}": count for name, count in step.by_part.items()}
    rows |= {"training step, forward": step.forward, "training step, backward": step.backward}
    rows["training step"] = step.forward + step.backward
    if step.cached:
        rows["features of these windows, computed once before training"] = step.cached
    rows |= {f"{what}: {name}": count for name, count in replan.by_part.items()}
    rows[f"{what} ({replan.steps} steps{halves})"] = sum(replan.by_part.values())
    rows["the same by the published procedure"] = replan.published
    rows["its video as pictures, where wanted"] = replan.video
    return _table("Work", ("of", "TFLOP"), [(name, tflop(count)) for name, count in rows.items()])


def memory_table(counted: Estimate) -> Table:
    """Training memory by use, and the largest batch of some devices."""
    memory, size = counted.memory, counted.setting.batch_size
    rows = [(use, gb(taken)) for use, taken in (memory.kept | memory.passing).items()]
    for batch, used in memory.step_by_batch.items():
        rows.append((f"activations and temporaries of a step, batch of {batch}", gb(used)))
    rows.append((f"most at once, batch of {size}", gb(memory.total(size))))
    for device in DEVICES_GB:
        rows.append((f"largest batch on {device} GB", _largest(memory, device)))
    return _table("Training memory of one device, estimated", ("use", "GB"), rows)


def ways_table(ways: Sequence[Way], batch_size: int) -> Table:
    """What fits where, by what is trained and how."""
    columns = ("trained", "optimizer", "devices", "kept, GB", f"at a batch of {batch_size}, GB")
    rows = []
    for way in ways:
        needed = (gb(sum(way.memory.kept.values())), gb(way.memory.total(batch_size)))
        largest = (_largest(way.memory, size) for size in DEVICES_GB)
        rows.append((way.trained, way.optimizer, way.devices, *needed, *largest))
    title = "What fits: the largest batch of a device, estimated, never checked on a GPU"
    return _table(title, (*columns, *(f"{size} GB" for size in DEVICES_GB)), rows)


def ways_document(ways: Sequence[Way], batch_size: int) -> list[dict[str, Any]]:
    """The same as plain values."""
    named = ("trained", "optimizer", "devices")
    return [{key: getattr(w, key) for key in named} | memory_document(w.memory, batch_size) for w in ways]


def stage_document(counted: Estimate) -> dict[str, Any]:
    """An estimate as plain values; a key's ending is its unit."""
    step, replan = counted.step, counted.replan
    return {
        "setting": asdict(counted.setting) | {"callbacks": list(counted.setting.callbacks)},
        "parts": {name: asdict(part) for name, part in counted.parts.items()},
        "training_step": {
            "forward_flop_by_part": step.by_part,
            "forward_flop": step.forward,
            "backward_flop": step.backward,
            "cached_flop": step.cached,
        },
        "replan": {
            "flop_by_part": replan.by_part,
            "flop": sum(replan.by_part.values()),
            "published_flop": replan.published,
            "video_flop": replan.video,
            "denoiser_calls": replan.steps,
            "guidance": replan.guidance,
        },
        "memory": {"as configured": memory_document(counted.memory, counted.setting.batch_size)},
    }


def memory_document(memory: Memory, batch_size: int) -> dict[str, Any]:
    """Memory as plain values."""
    return {
        "bytes_by_use": memory.kept | memory.passing,
        "step_bytes_by_batch": {str(size): value for size, value in memory.step_by_batch.items()},
        "total_bytes": memory.total(batch_size),
        "largest_batch": {f"{size}_GB": memory.largest_batch(size * 10**9) for size in DEVICES_GB},
    }


def tflop(count: int) -> str:
    """Four digits, also where a part is small."""
    return f"{count / 1e12:,.1f}" if count >= 10**14 else f"{count / 1e12:.4g}"


def gb(size: int) -> str:
    """Gigabytes (10^9 bytes)."""
    return f"{size / 1e9:.2f}" if size >= 10**7 else f"{size / 1e9:.3g}"


def _largest(memory: Memory, device_gb: int) -> str:
    batch = memory.largest_batch(device_gb * 10**9)
    return f"{batch:,}" if batch else "none"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        justify = "left" if column == "of" or not number else "right"
        table.add_column(column, style=None if number else "cyan", justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    return table
