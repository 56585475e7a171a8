"""The device that something runs on: chosen, named and waited for."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from files.errors import UserError


def chosen_device(name: str | None) -> torch.device:
    """The device asked for, or a GPU, or the CPU.

    Raises:
        UserError: There is no such device.
    """
    has_gpu = torch.cuda.is_available()
    device: torch.device | None
    try:
        device = torch.device(name or ("cuda" if has_gpu else "cpu"))
    except RuntimeError:
        device = None
    there = "cpu and cuda" if has_gpu else "cpu only"
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cuda" and not has_gpu):
        raise UserError(f"--device {name}: not on this machine, which has {there}.")
    return device


def wait_for(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def hardware(device: torch.device) -> str:
    """The device in words, for a report."""
    if device.type == "cuda":
        gb = torch.cuda.get_device_properties(device).total_memory / 1e9
        return f"{torch.cuda.get_device_name(device)}, {gb:.0f} GB"
    return f"{processor()}, {torch.get_num_threads()} threads"


def processor() -> str:
    """Name of the processor."""
    table = Path("/proc/cpuinfo")
    names = [line for line in table.read_text().splitlines() if line.startswith("model name")] if table.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
