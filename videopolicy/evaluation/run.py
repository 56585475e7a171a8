"""One run of an evaluation: a policy, a protocol and a results directory that keeps what earlier runs found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from callbacks.clips import side_by_side, write_clip
from callbacks.demo_differences import WORDS, unseen_words, words_warning
from policies import Policy
from rollouts import EpisodeResult, RolloutEngine
from rollouts.worker_process import ask_once
from videopolicy.evaluation.live_table import LiveTable
from videopolicy.evaluation.prepared import Prepared
from videopolicy.evaluation.protocol import Protocol
from videopolicy.evaluation.request import EvaluationRequest
from videopolicy.evaluation.results_directory import ResultsDirectory, open_directory
from videopolicy.evaluation.threads import policy_threads
from videopolicy.hardware import hardware
from videopolicy.versions import describe_environment

PACKAGES = ("torch", "lightning", "diffusers", "transformers", "open_clip_torch", "numpy", "videopolicy")
FRAME_STRIDE = 4  # steps between recorded frames of a policy that has no video horizon of its own


def evaluate(
    prepared: Prepared, request: EvaluationRequest, output: Path, console: Console | None = None
) -> list[EpisodeResult]:
    """Run a protocol's episodes into a results directory, leaving out those that are there.

    Args:
        prepared: Policy and protocol.
        request: Of which workers, threads, device and number of videos are read.
        output: The results directory.
        console: Where progress is shown; None shows none.

    Returns:
        One result for each of the protocol's episodes.
    """
    policy, protocol = prepared.policy, prepared.protocol
    episodes = protocol.episodes()
    with (
        policy_threads(request.threads, request.workers, request.device),
        open_directory(output, prepared.identity, protocol.to_dict(), versions(protocol, request.device)) as directory,
    ):
        say = partial(console.print, markup=False, soft_wrap=True) if console is not None else print
        for note in directory.notes:
            say(note)
        known = directory.results()
        if there := sum(spec.key in known and known[spec.key].success is not None for spec in episodes):
            say(f"{there} of {len(episodes)} episodes are already in {output}")
        stride = policy.data.frame_stride if isinstance(policy, Policy) else FRAME_STRIDE
        engine = RolloutEngine(
            protocol.simulator,
            num_workers=request.workers,
            execute_steps=protocol.execute_steps,
            timeout_s=protocol.timeout_s,
            record_episodes=request.videos,
            record_stride=stride,
        )
        with engine, LiveTable(console or Console(quiet=True), episodes, known.values()) as table:
            this_run = _Run(directory, table, request.workers)
            plain = console is not None and not console.is_terminal
            results = engine.run(policy, episodes, known, progress=plain, on_result=this_run.keep)
        note_words(directory.document["protocol"], protocol, list(directory.results().values()))
        directory.write_summary(this_run.record())
    return results


def say_warnings(protocol: Protocol, console: Console) -> None:
    """Say before the first episode what the rates will have to be read with."""
    for warning in protocol.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)


def exit_status(results: Sequence[EpisodeResult], say: Callable[[str], None]) -> int:
    """0, or 1 with a sentence if every episode ended in an error."""
    if any(result.success is not None for result in results):
        return 0
    first = next((result.error for result in results if result.error), None)
    reason = (first or "no reason given").strip().splitlines()[0]
    say(f"none of the {len(results)} episodes could be run ({reason}); mend this, the same command tries again")
    return 1


class _Run:
    """What one run adds to its directory."""

    def __init__(self, directory: ResultsDirectory, table: LiveTable, workers: int) -> None:
        self.directory = directory
        self.table = table
        self.workers = workers
        self.episodes = 0
        self.started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._start = time.monotonic()

    def keep(self, result: EpisodeResult) -> None:
        """The video first: once its line is written, an episode does not run again."""
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


def note_words(document: dict[str, Any], protocol: Protocol, results: Sequence[EpisodeResult]) -> None:
    """Warn of words that training never saw and that no adapter told beforehand; they stand in the results.

    Args:
        document: The directory's protocol, whose warnings grow.
        protocol: This run's.
        results: With the words that the policy was given.
    """
    told = any(warning.startswith(WORDS) for warning in document["warnings"])
    if protocol.origin is None or told or protocol.simulator.variation.get("instruction"):
        return
    words: dict[str, list[str]] = {}
    for result in results:
        if result.instruction:
            words.setdefault(result.task, []).append(result.instruction)
    if unseen := unseen_words(protocol.origin, list(words), words):
        document["warnings"].append(words_warning(unseen, len(words)))


def versions(protocol: Protocol, device: str) -> dict[str, Any]:
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
        "simulator": protocol.survey.packages if protocol.survey else ask_once(protocol.simulator, "versions"),
    }
