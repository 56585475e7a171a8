"""One run of an evaluation: a policy, a protocol and a results directory that keeps what earlier runs found."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from callbacks.clips import side_by_side, write_clip
from lightning_modules import VideoPolicy
from simulators import EpisodeResult, Policy, RolloutEngine, SimulatorConfig
from simulators.worker_process import ask_once
from videopolicy.evaluation.live_table import LiveTable
from videopolicy.evaluation.protocol import Protocol
from videopolicy.evaluation.results_directory import ResultsDirectory, open_directory, write_protocol_document
from videopolicy.evaluation.summary_files import now, write_summary
from videopolicy.evaluation.threads import policy_threads
from videopolicy.profiling.stopwatch import hardware
from videopolicy.versions import describe_environment

PACKAGES = ("torch", "lightning", "diffusers", "transformers", "open_clip_torch", "numpy", "videopolicy")
FRAME_STRIDE = 4  # steps between filmed frames of a policy that has no video horizon of its own


def evaluate(
    policy: Policy,
    identity: Mapping[str, Any],
    protocol: Protocol,
    output: Path,
    workers: int,
    videos: int = 0,
    device: str = "cpu",
    console: Console | None = None,
    threads: int | None = None,
) -> list[EpisodeResult]:
    """Run a protocol's episodes into a results directory, leaving out those that are there.

    Args:
        policy: Anything with `act`.
        identity: What names it in ``protocol.json``: ``kind``, ``sha256`` and so on.
        protocol: With its tasks named.
        output: The results directory.
        workers: Simulator processes.
        videos: Episodes to film, of the first.
        device: Where the policy runs, for the record.
        console: Where progress is shown; None shows none.
        threads: Torch threads of the policy; None has them chosen (`policy_threads`).

    Returns:
        One result for each of the protocol's episodes.
    """
    episodes = protocol.episodes()
    with policy_threads(threads, workers, device), open_directory(output, identity, protocol.to_dict()) as directory:
        say = console.print if console is not None else print
        if directory.repaired:
            say(f"{output}/results.jsonl: a kill had cut its last line; the line was removed, its episode runs again")
        known = directory.results()
        if there := sum(spec.key in known and known[spec.key].success is not None for spec in episodes):
            say(f"{there} of {len(episodes)} episodes are already in {output}")
        write_protocol_document(directory, versions(protocol.simulator, device))
        stride = policy.stage.data.frame_stride if isinstance(policy, VideoPolicy) else FRAME_STRIDE
        engine = RolloutEngine(
            protocol.simulator,
            num_workers=workers,
            execute_steps=protocol.execute_steps,
            record_episodes=videos,
            record_stride=stride,
        )
        with engine, LiveTable(console or Console(quiet=True), episodes, known.values()) as table:
            this_run = _Run(directory, table, workers)
            plain = console is not None and not console.is_terminal
            results = engine.run(policy, episodes, known, progress=plain, on_result=this_run.keep)
        write_summary(output, directory.document, list(directory.results().values()), this_run.record())
    return results


class _Run:
    """What one run adds to its directory."""

    def __init__(self, directory: ResultsDirectory, table: LiveTable, workers: int) -> None:
        self.directory = directory
        self.table = table
        self.workers = workers
        self.episodes = 0
        self.started = now()
        self._start = time.monotonic()

    def keep(self, result: EpisodeResult) -> None:
        """Film first: once its line is written, an episode does not run again."""
        if result.recording is not None:
            write_clip(self.directory.video(result), side_by_side(result.recording))
            result.recording = None  # pictures of a whole protocol do not fit into memory
        self.directory.append(result)
        self.table.add(result)
        self.episodes += 1

    def record(self) -> dict[str, Any]:
        """When it began, how long it took, and what it ran."""
        seconds = round(time.monotonic() - self._start, 1)
        return {"started": self.started, "seconds": seconds, "episodes": self.episodes, "workers": self.workers}


def versions(simulator: SimulatorConfig, device: str) -> dict[str, Any]:
    """What else a repetition needs to know: packages of both sides, commit, hardware."""
    environment = describe_environment()
    own = {name: version for name, version in environment["packages"].items() if name in PACKAGES}
    return {
        "python": environment["python"],
        "platform": environment["platform"],
        "git_commit": environment["git_commit"],
        "cpu_count": environment["cpu_count"],
        "device": device,
        "device_name": hardware(torch.device(device)),
        "packages": own,
        "simulator": ask_once(simulator, "versions"),
    }
