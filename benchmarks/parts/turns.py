"""Several settings of one thing, measured by turns in one run, so that a busy machine slows all of them alike."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import torch

from videopolicy.hardware import hardware, wait_for
from videopolicy.versions import git_commit

OUT_OF_MEMORY = "out of memory"


@dataclass
class Setting:
    """One of the settings that are compared.

    Args:
        name: What it is called.
        turn: Prepares and measures: seconds of every run of one turn, preparation and warm-up left out.

    Attributes:
        seconds: What it gave, by turn.
        peak_bytes: Most memory of tensors on a GPU; None on a CPU.
        failure: Why there are no more turns of it.
    """

    name: str
    turn: Callable[[], list[float]]
    seconds: list[list[float]] = field(default_factory=list)
    peak_bytes: int | None = None
    failure: str | None = None

    @property
    def median_s(self) -> float:
        """Over all turns."""
        return statistics.median(second for turn in self.seconds for second in turn)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        if not self.seconds:
            return {"failure": self.failure or "not run: time was up"}
        every = [second for turn in self.seconds for second in turn]
        times = {"median_s": self.median_s, "fastest_s": min(every), "slowest_s": max(every), "num_runs": len(every)}
        return {**times, "peak_bytes": self.peak_bytes, "failure": self.failure}


def add_turn_arguments(parser: argparse.ArgumentParser, minutes: float) -> None:
    """How often, and for how long."""
    parser.add_argument("--turns", type=int, default=6, help="turns of each setting (default 6, a 97 %% interval)")
    parser.add_argument("--minutes", type=float, default=minutes, help=f"then no new turn begins (default {minutes:g})")


def take_turns(settings: Sequence[Setting], device: torch.device, turns: int, minutes: float = float("inf")) -> None:
    """Give each setting its turns, the order reversed every other time.

    One that runs out of memory is left out from then on. When the minutes are over nothing new begins.
    """
    deadline = time.monotonic() + 60 * minutes
    for number in range(turns):
        for setting in settings if number % 2 == 0 else reversed(settings):
            if setting.failure is not None or time.monotonic() >= deadline:
                continue
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            try:
                setting.seconds.append(setting.turn())
            except torch.OutOfMemoryError:
                setting.failure = OUT_OF_MEMORY
            if device.type == "cuda":
                setting.peak_bytes = max(setting.peak_bytes or 0, torch.cuda.max_memory_allocated(device))


def time_runs(run: Callable[[], Any], device: torch.device, runs: int) -> list[float]:
    """Seconds of each run, after one to warm up."""
    run()
    seconds = []
    for _ in range(runs):
        began = now(device)
        run()
        seconds.append(now(device) - began)
    return seconds


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given.

    Processor time where one thread of the processor does the work, which others on the machine change least.
    """
    wait_for(device)
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def ratio(base: Setting, other: Setting) -> dict[str, float] | None:
    """How many times faster the other is: median over the turns, and the smallest and largest of single turns.

    The two ends are an interval of the median at 1 - 2^(1 - turns), 97 % for six. None where one has no times.
    """
    pairs = zip(base.seconds, other.seconds, strict=False)  # one that failed later has fewer turns
    turns = [statistics.median(a) / statistics.median(b) for a, b in pairs]
    return {"ratio": statistics.median(turns), "low": min(turns), "high": max(turns)} if turns else None


def report(
    name: str, settings: Sequence[Setting], device: torch.device, unit: str = "s", **more: object
) -> dict[str, Any]:
    """Print a line a setting, compared with the first, and give the document of the JSON line.

    Args:
        name: Of the benchmark.
        settings: The first is the baseline; the headline is the fastest of the others.
        device: Where it ran.
        unit: Of the seconds, for instance per replan.
        more: Whatever else the document holds.
    """
    base, *others = settings
    ratios = {setting.name: ratio(base, setting) for setting in others}
    for setting in settings:
        print(_line(setting, ratios.get(setting.name)), flush=True)
    best = min((one for one in others if one.seconds), key=lambda one: one.median_s, default=None)
    gained = None if best is None else ratios[best.name]
    return {
        "name": name,
        "ours": best and best.median_s,
        "baseline": base.median_s if base.seconds else None,
        "ratio": gained and gained["ratio"],
        "unit": unit,
        "ours_is": best and best.name,
        "baseline_is": base.name,
        "settings": {setting.name: setting.to_dict() for setting in settings},
        "ratios": ratios,
        **more,
        "threads": torch.get_num_threads(),
        "hardware": hardware(device),
        "torch": torch.__version__,
        "commit": git_commit(),
        "date": date.today().isoformat(),
    }


def _line(setting: Setting, gained: dict[str, float] | None) -> str:
    if not setting.seconds:
        return f"{setting.name}: {setting.failure or 'not run: time was up'}"
    found = setting.to_dict()
    text = f"{setting.name:24} {found['median_s']:.4g} s ({found['fastest_s']:.4g} to {found['slowest_s']:.4g})"
    if gained is not None:
        text += f", {gained['ratio']:.2f} times faster ({gained['low']:.2f} to {gained['high']:.2f})"
    return text + ("" if setting.peak_bytes is None else f", peak {setting.peak_bytes / 1e9:.2f} GB")
