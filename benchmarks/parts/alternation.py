"""Several ways of doing one thing, timed by turns in one run, so that a busy machine slows all of them alike."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import torch
from torch import Tensor

from networks.counting import LiveBytes, flop
from videopolicy.profiling.stopwatch import hardware, wait_for
from videopolicy.versions import git_commit

OUT_OF_MEMORY = "out of memory"
Run = Callable[[int], Any]  # the number of the run within its turn -> what came out of it


def add_turn_arguments(parser: argparse.ArgumentParser, shortcuts: Iterable[str], minutes: float) -> None:
    """What is timed, and for how long.

    Args:
        parser: Gets the options.
        shortcuts: Names that `--choices` takes.
        minutes: Default of `--minutes`.
    """
    parser.add_argument("--turns", type=int, default=3, help="how often each order of work gets its turn (default 3)")
    parser.add_argument(
        "--choices",
        nargs="?",
        const="all",
        metavar="NAMES",
        help=f"each shortcut alone: all, or some of {', '.join(shortcuts)}, separated by commas",
    )
    parser.add_argument("--profile", action="store_true", help="print the operators of both by the time they take")
    parser.add_argument("--minutes", type=float, default=minutes, help=f"then no new turn begins (default {minutes:g})")


def circumstances(device: torch.device) -> dict[str, Any]:
    """Where, with what and when something was timed: the end of a JSON line."""
    return {
        "threads": torch.get_num_threads(),
        "hardware": hardware(device),
        "torch": torch.__version__,
        "commit": git_commit(),
        "date": date.today().isoformat(),
    }


@dataclass
class Contender:
    """One way of doing it.

    Args:
        name: What it is called.
        prepare: Called at the start of a turn, not timed; gives the run.
        elsewhere: Bytes on the device that belong to others, not counted as its memory.

    Attributes:
        seconds: Of every timed run, by turn.
        results: What the runs of the last turn gave.
        peak_bytes: Most memory, of tensors; None where it was not measured.
        flop: Of one run; None where it was not counted.
        failure: Why there are no more turns of it.
    """

    name: str
    prepare: Callable[[], Run]
    elsewhere: int = 0
    seconds: list[list[float]] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    peak_bytes: int | None = None
    flop: int | None = None
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
        counted = {} if self.flop is None else {"flop": self.flop, "flop_per_s": self.flop / self.median_s}
        failure = {} if self.failure is None else {"failure": self.failure}
        return {**times, "peak_bytes": self.peak_bytes, **counted, **failure}


def alternate(
    contenders: Sequence[Contender],
    device: torch.device,
    turns: int,
    runs: int,
    warm_up: int = 1,
    deadline: float = float("inf"),
) -> None:
    """Give each its turns, the order reversed every other time.

    One that fails or runs out of memory is left out from then on. After the deadline nothing new begins.

    Args:
        contenders: What is timed; the results are written into them.
        device: Where.
        turns: How many each gets.
        runs: Timed runs of a turn.
        warm_up: Runs before them.
        deadline: As `time.monotonic` tells the time.
    """
    for turn in range(turns):
        for contender in contenders if turn % 2 == 0 else reversed(contenders):
            if contender.failure is None and time.monotonic() < deadline:
                or_note_failure(contender, device, lambda c: take_turn(c, device, runs, warm_up))


def or_note_failure(contender: Contender, device: torch.device, do: Callable[[Contender], None]) -> None:
    """Do something with a contender; what goes wrong is said and noted, and keeps no other from its turn."""
    try:
        do(contender)
    except torch.OutOfMemoryError:
        contender.failure = OUT_OF_MEMORY
        print(f"{contender.name}: {OUT_OF_MEMORY}", flush=True)
    except Exception as error:  # a compiler's, say; `failures` tells of it and the exit status is not 0
        contender.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        traceback.print_exc()
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def failures(contenders: Iterable[Contender]) -> dict[str, str]:
    """What went wrong by name, running out of memory left out."""
    return {one.name: one.failure for one in contenders if one.failure not in (None, OUT_OF_MEMORY)}


def take_turn(contender: Contender, device: torch.device, runs: int, warm_up: int) -> None:
    """Prepare, warm up, and time the runs."""
    run, clock = contender.prepare(), clock_of(device)
    for number in range(warm_up):
        run(number)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds: list[float] = []
    contender.results = []
    for number in range(warm_up, warm_up + runs):
        wait_for(device)
        began = clock()
        contender.results.append(run(number))
        wait_for(device)
        seconds.append(clock() - began)
    contender.seconds.append(seconds)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) - contender.elsewhere
        contender.peak_bytes = max(peak, contender.peak_bytes or 0)


def clock_of(device: torch.device) -> Callable[[], float]:
    """Processor time where one thread of the processor does the work, which others on the machine change least."""
    return time.process_time if clock_name(device) == "processor time" else time.perf_counter


def clock_name(device: torch.device) -> str:
    """What is measured."""
    return "processor time" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall time"


def count(contender: Contender, device: torch.device, there: Iterable[Tensor]) -> None:
    """Count the FLOPs of a run, and without a GPU follow its tensors to find the most memory.

    Args:
        contender: What is counted; not compiled.
        device: Where.
        there: Tensors that are there before, weights among them; they are part of its memory.
    """
    tensors = list(there)

    def work(contender: Contender) -> None:
        if device.type != "cpu":
            run = contender.prepare()
            contender.flop = flop(lambda: run(0))
            return
        with LiveBytes(tensors) as live:
            run = contender.prepare()
            run(0)
            contender.flop = flop(lambda: run(1))  # now with what the first left behind, such as an optimizer's state
        contender.peak_bytes = live.peak + sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    if contender.failure is None:
        or_note_failure(contender, device, work)


def ratio(base: Contender, other: Contender) -> dict[str, Any] | None:
    """How many times faster the other is: of the medians, and the smallest and largest of single turns.

    None where one of the two has no times.
    """
    if not base.seconds or not other.seconds:
        return None
    pairs = zip(base.seconds, other.seconds, strict=False)  # one that failed later has fewer turns
    turns = [statistics.median(a) / statistics.median(b) for a, b in pairs]
    return {"ratio": base.median_s / other.median_s, "smallest": min(turns), "largest": max(turns)}


def ratio_in_words(found: dict[str, Any] | None) -> str:
    """With the extremes of single turns."""
    if found is None:
        return "not measured"
    return f"{found['ratio']:.2f} times ({found['smallest']:.2f} to {found['largest']:.2f})"


def line_of(side: Contender, base: Contender) -> str:
    """One order of work in a line."""
    if not side.seconds:
        return f"{side.name}: {side.failure or 'not run: time was up'}"
    found, several = side.to_dict(), ratio(base, side)
    text = f"{side.name:15} {found['median_s']:.3f} s ({found['fastest_s']:.3f} to {found['slowest_s']:.3f})"
    if several is not None:
        text += f", {ratio_in_words(several)}"
    if side.peak_bytes is not None:
        text += f", peak {side.peak_bytes / 1e9:.2f} GB"
    if side.flop is not None:
        text += f", {side.flop / 1e12:.4g} TFLOP at {found['flop_per_s'] / 1e12:.3g} TFLOP/s"
    return text


def operators(contender: Contender, device: torch.device, rows: int = 15) -> str:
    """Torch's profile of one run, by the time that each operator itself took."""
    from torch.profiler import ProfilerActivity, profile

    run = contender.prepare()
    run(0)
    gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=[ProfilerActivity.CPU, *gpu]) as found:
        run(1)
    column = "self_device_time_total" if gpu else "self_cpu_time_total"
    table: str = found.key_averages().table(sort_by=column, row_limit=rows, max_name_column_width=50)
    return f"{contender.name}\n{table}"
