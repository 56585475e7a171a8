"""The resource report of a stage, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from videopolicy.profiling.counting import COUNTED
from videopolicy.profiling.estimate import Estimate, Memory
from videopolicy.profiling.fits import Way
from videopolicy.profiling.stage_timing import Measured

DEVICES_GB = (24, 40, 80, 141)
ATTENDING = "video U-Net as published, with attention to the one text token"
MEMORY_ROWS = {
    "weights": "weights, frozen ones included",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "average": "average of the weights",
    "buckets": "DDP's copy of the gradients",
    "update": "temporaries of the optimizer's step",
    "gathered": "FSDP: other devices' weights in a step",
    "judging": "FSDP: the same in validation",
}


def print_stage(console: Console, stage: str, counted: Estimate, measured: Mapping[str, Measured]) -> None:
    """Print everything that is known of a stage."""
    setting = counted.setting
    per_device = "" if setting.num_devices == 1 else f" on each of {setting.num_devices} devices"
    console.rule(f"{stage} stage: {setting.precision}, batch of {setting.batch_size}{per_device}", align="left")
    for table in (parts_table(counted), work_table(counted), memory_table(counted), fits_table(counted)):
        console.print(table)
        console.print()
    if measured:
        console.print(measured_table(measured))
        console.print()
    console.print(COUNTED, style="dim")
    console.print(
        "Memory: the step was run on shapes and every tensor's life followed; a GPU's context (about 0.5 GB), its "
        "workspaces and fragmentation come on top.",
        style="dim",
    )
    console.print()


def parts_table(counted: Estimate) -> Table:
    """Weights and one forward of every part."""
    table = _table("Parts", "part", "parameters", "trained", "weights, GB", "one forward, TFLOP", "of")
    for name, part in counted.parts.items():
        table.add_row(
            name,
            f"{part.parameters:,}",
            f"{part.trainable:,}",
            gb(part.weight_bytes),
            tflop(part.forward_flop),
            part.forward_of,
        )
    table.add_row(ATTENDING, "", "", "", tflop(counted.attending_flop), "the same")
    parts = counted.parts.values()
    sums = (sum(part.parameters for part in parts), sum(part.trainable for part in parts))
    table.add_row("all", *(f"{value:,}" for value in sums), gb(sum(part.weight_bytes for part in parts)), "", "")
    return table


def work_table(counted: Estimate) -> Table:
    """FLOPs of a training step and of a replan."""
    step, replan = counted.step, counted.replan
    table = _table("Work", "of", "TFLOP")
    for name, count in step.by_part.items():
        table.add_row(f"training step, forward: {name}", tflop(count))
    table.add_row("training step, forward", tflop(step.forward))
    table.add_row("training step, backward", tflop(step.backward))
    table.add_row("training step", tflop(step.forward + step.backward))
    if step.cached:
        table.add_row("features of these windows, computed once before training", tflop(step.cached))
    what = "replan" if "action U-Net" in replan.by_part else "predicted video"
    halves = " x 2 for guidance" if replan.guidance else ""
    for name, count in replan.by_part.items():
        table.add_row(f"{what}: {name}", tflop(count))
    table.add_row(f"{what} ({replan.steps} steps{halves})", tflop(sum(replan.by_part.values())))
    table.add_row("the same by the published procedure", tflop(replan.published))
    table.add_row("its video as pictures, where wanted", tflop(replan.video))
    return table


def memory_table(counted: Estimate) -> Table:
    """Training memory by use."""
    table = _table("Training memory of one device, GB", "use", *_memories(counted))
    memories = _memories(counted).values()
    for field, name in MEMORY_ROWS.items():
        table.add_row(name, *(gb(getattr(memory, field)) for memory in memories))
    for batch in counted.memory.step_by_batch:
        name = f"activations and temporaries of a step, batch of {batch}"
        table.add_row(name, *(gb(memory.step_by_batch[batch]) for memory in memories))
    size = counted.setting.batch_size
    table.add_row(f"most at once, batch of {size}", *(gb(memory.total(size)) for memory in memories))
    return table


def fits_table(counted: Estimate) -> Table:
    """The largest batch of some devices."""
    table = _table("Largest batch of one device, by this estimate", "device", *_memories(counted))
    for size in DEVICES_GB:
        batches = [memory.largest_batch(size * 10**9) for memory in _memories(counted).values()]
        table.add_row(f"{size} GB", *(f"{batch:,}" if batch else "does not fit" for batch in batches))
    return table


def ways_table(ways: Sequence[Way], batch_size: int) -> Table:
    """What fits where, by what is trained and how."""
    table = _table(
        "What fits: the largest batch of a device, by estimate",
        "trained",
        "optimizer",
        "devices",
        "kept, GB",
        f"most at once, batch of {batch_size}, GB",
        *(f"{size} GB" for size in DEVICES_GB),
    )
    for way in ways:
        batches = [way.memory.largest_batch(size * 10**9) for size in DEVICES_GB]
        needed = (gb(way.memory.kept), gb(way.memory.total(batch_size)))
        table.add_row(way.trained, way.optimizer, way.devices, *needed, *(f"{b:,}" if b else "none" for b in batches))
    return table


def ways_document(ways: Sequence[Way], batch_size: int) -> list[dict[str, Any]]:
    """The same as plain values."""
    return [
        {
            "trained": way.trained,
            "optimizer": way.optimizer,
            "devices": way.devices,
            **_memory_document(way.memory, batch_size),
        }
        for way in ways
    ]


def measured_table(measured: Mapping[str, Measured]) -> Table:
    """Seconds on this machine."""
    table = _table("Measured here", "what", "median, s", "fastest to slowest, s", "runs", "TFLOP/s", "peak memory, GB")
    for name, entry in measured.items():
        timing = entry.timing
        table.add_row(
            f"{name.replace('_', ' ')} ({entry.precision})",
            f"{timing.median_s:.3g}",
            f"{timing.fastest_s:.3g} to {timing.slowest_s:.3g}",
            str(timing.num_runs),
            f"{entry.flop_per_s / 1e12:.3g}",
            ", ".join(f"{value / 1e9:.2f} {key.removesuffix('_bytes')}" for key, value in entry.peak.items()),
        )
    return table


def stage_document(counted: Estimate, measured: Mapping[str, Measured]) -> dict[str, Any]:
    """The same as plain values; a key's ending is its unit."""
    size = counted.setting.batch_size
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
        "published_unet_forward_flop": counted.attending_flop,
        "optimizer_states_per_weight": counted.states_per_weight,
        "gradient_checkpointing": counted.checkpointing,
        "memory": {name: _memory_document(memory, size) for name, memory in _memories(counted).items()},
        "measured": {
            name: {
                **entry.timing.to_dict(),
                "flop": entry.flop,
                "flop_per_s": entry.flop_per_s,
                "precision": entry.precision,
                "peak": entry.peak,
            }
            for name, entry in measured.items()
        },
    }


def _memory_document(memory: Memory, batch_size: int) -> dict[str, Any]:
    return {
        **{f"{name}_bytes": getattr(memory, name) for name in MEMORY_ROWS},
        "step_bytes_by_batch": {str(size): value for size, value in memory.step_by_batch.items()},
        "total_bytes": memory.total(batch_size),
        "largest_batch": {f"{size}_GB": memory.largest_batch(size * 10**9) for size in DEVICES_GB},
    }


def _memories(counted: Estimate) -> dict[str, Memory]:
    """As configured, and the other way round where gradient checkpointing makes a difference."""
    if counted.otherwise is None:
        return {"as configured": counted.memory}
    names = {True: "with gradient checkpointing", False: "without gradient checkpointing"}
    configured = bool(counted.checkpointing)
    return {f"{names[configured]} (configured)": counted.memory, names[not configured]: counted.otherwise}


def tflop(count: int) -> str:
    """Four digits, also where a part is small."""
    return f"{count / 1e12:,.1f}" if count >= 10**14 else f"{count / 1e12:.4g}"


def gb(size: int) -> str:
    """Gigabytes (10^9 bytes)."""
    return f"{size / 1e9:.2f}" if size >= 10**7 else f"{size / 1e9:.3g}"


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first, style="cyan")
    for column in columns:
        table.add_column(column, justify="left" if column == "of" else "right")
    return table
