"""The directory of one evaluation, written and read here: protocol, results, videos and the summary of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from files.errors import UserError
from files.locks import HeldError, hold_folder
from files.writing import write_text
from rollouts import EpisodeResult, ResultsFile, Summary, summarize
from videopolicy.evaluation.identity import UNKNOWN_RELEASES, differing_keys, fingerprint, releases_of
from videopolicy.evaluation.summary_files import to_csv, to_dict, to_markdown

FORMAT = 1
PROTOCOL, RESULTS, SUMMARY, VIDEOS = "protocol.json", "results.jsonl", "results.json", "videos"


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """An evaluation as it lies on disk, finished or not.

    Args:
        path: Its directory, or a file of results alone, as a training's rollouts leave it.
        results: By the protocol's order of tasks, then by seed.
        document: Content of ``protocol.json``; empty where there is none.
        summary_file: Content of ``results.json``; empty where there is none.
    """

    path: Path
    results: list[EpisodeResult]
    document: dict[str, Any] = field(default_factory=dict)
    summary_file: dict[str, Any] = field(default_factory=dict)

    @property
    def policy(self) -> dict[str, Any]:
        """What names the policy: ``kind``, ``path``, ``sha256`` and so on."""
        return dict(self.document.get("policy", {}))

    @property
    def protocol(self) -> dict[str, Any]:
        """`Protocol.to_dict`."""
        return dict(self.document.get("protocol", {}))

    @property
    def variation(self) -> dict[str, float]:
        """Kind of variation -> level; empty is the standard."""
        return self.protocol.get("simulator", {}).get("variation") or {}

    @cached_property
    def summary(self) -> Summary:
        """Success rates with 95 % Wilson intervals."""
        return summarize(self.results, self.protocol.get("groups"))

    @property
    def last_written(self) -> float:
        """When the last episode was added, in seconds since 1970."""
        file = self.path / RESULTS if self.path.is_dir() else self.path
        return (file if file.is_file() else self.path).stat().st_mtime

    def video(self, result: EpisodeResult) -> Path | None:
        """The video of an episode, if it was recorded."""
        name = f"{result.task}_seed{result.seed}.mp4"
        folder = self.path if self.path.is_dir() else self.path.parent
        places = [folder / VIDEOS / name]
        if self.path.is_file():  # a training's step_0001000_Lift_seed7.mp4; an older `evaluate` made a folder
            places += [folder / f"{self.path.stem}_{name}", folder / self.path.stem / name]
        return next((path for path in places if path.is_file()), None)


def is_evaluation(path: Path) -> bool:
    """Whether a path is something that `read_evaluation` reads."""
    if path.is_dir():
        return (path / PROTOCOL).is_file() or (path / RESULTS).is_file()
    return path.suffix == ".jsonl" and path.is_file()


def read_evaluation(path: Path) -> Evaluation:
    """Read a results directory, or a file of results with the ``protocol.json`` beside it, if there is one.

    Raises:
        SimulatorError: A line is not an episode's result.
        UserError: ``protocol.json`` or ``results.json`` is damaged.
    """
    folder = path if path.is_dir() else path.parent
    document = _read_protocol(folder)
    results = list(ResultsFile(path / RESULTS if path.is_dir() else path).load().values())
    return Evaluation(path, in_order(results, document), document, read_json(folder / SUMMARY))


def in_order(results: Sequence[EpisodeResult], document: Mapping[str, Any]) -> list[EpisodeResult]:
    """Results as the protocol has its tasks, then by seed, not as they ended."""
    tasks = document.get("protocol", {}).get("simulator", {}).get("tasks", [])
    rank = {task: index for index, task in enumerate(tasks)}
    return sorted(results, key=lambda result: (rank.get(result.task, len(tasks)), result.seed))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping; empty if there is no such file.

    Raises:
        UserError: It is not JSON, or not a mapping.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is damaged, no JSON ({error}); move it away, or give another --output.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged, a {type(content).__name__} and no mapping; move it away.")
    return content


def _read_protocol(folder: Path) -> dict[str, Any]:
    document = read_json(folder / PROTOCOL)
    protocol = document.get("protocol", {})
    if document and not (isinstance(protocol, dict) and isinstance(protocol.get("simulator"), dict)):
        raise UserError(f"{folder / PROTOCOL}: is damaged, without protocol.simulator; give another --output.")
    return document


# --- writing ----------------------------------------------------------------------------------------------------------


class ResultsDirectory:
    """A directory that a run adds results to, made by `open_directory`, which holds its lock.

    Args:
        path: The directory.
        document: Content of ``protocol.json`` for this run.
        notes: What the user should hear about the state that it was found in.
    """

    def __init__(self, path: Path, document: dict[str, Any], notes: Sequence[str]) -> None:
        self.path = path
        self.document = document
        self.notes = notes
        self._file = ResultsFile(path / RESULTS)

    def results(self) -> dict[str, EpisodeResult]:
        """Episode key -> its latest result."""
        return self._file.load()

    def append(self, result: EpisodeResult) -> None:
        """Keep a new result, marked with the fingerprint."""
        result.fingerprint = self.document["fingerprint"]
        self._file.append(result)

    def video(self, result: EpisodeResult) -> Path:
        """Where the video of an episode belongs."""
        return self.path / VIDEOS / f"{result.task}_seed{result.seed}.mp4"

    def write_summary(self, this_run: Mapping[str, Any]) -> dict[str, Any]:
        """Write ``results.json``, ``results.md`` and ``results.csv`` of every episode in the directory.

        Args:
            this_run: ``started`` (ISO time), ``seconds``, ``episodes`` and ``workers`` of the run that has just ended;
                kept beside those of earlier runs if it ran anything.

        Returns:
            Content of ``results.json``.
        """
        results = in_order(list(self.results().values()), self.document)
        summary = summarize(results, self.document["protocol"].get("groups"))
        try:
            runs = list(read_json(self.path / SUMMARY).get("runs", []))
        except UserError:  # written over now
            runs = []
        if this_run["episodes"] or not runs:
            runs.append(dict(this_run))
        content = to_dict(summary, self.document, runs)
        write_text(self.path / SUMMARY, json.dumps(content, indent=2, allow_nan=False) + "\n")
        write_text(self.path / "results.md", to_markdown(summary, self.document, content["date"]))
        write_text(self.path / "results.csv", to_csv(results))
        return content


@contextmanager
def open_directory(
    path: Path, policy: Mapping[str, Any], protocol: Mapping[str, Any], versions: Mapping[str, Any] | None = None
) -> Iterator[ResultsDirectory]:
    """Take hold of a directory for a run and write its ``protocol.json``; what other runs left in it is kept.

    Args:
        path: The directory; made if it is not there.
        policy: ``kind``, and whatever else says which policy it is.
        protocol: `Protocol.to_dict`.
        versions: What this run runs on; ``simulator`` holds the packages of the worker's interpreter.

    Raises:
        UserError: Another run is writing there, it cannot be written, or it holds results of another policy,
            protocol or simulator release.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"--output {path}: is a file; results go into a directory now, so give another name.")
    document: dict[str, Any] = {"format": FORMAT, "policy": dict(policy), "protocol": dict(protocol)}
    document["versions"] = dict(versions or {})
    notes: list[str] = []
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = hold_folder(path, notes.append)
    except HeldError as error:
        raise UserError(
            f"{path}: another run ({error.holder}) is writing results there; wait until it has ended, or give another "
            "--output."
        ) from error
    except OSError as error:
        raise UserError(
            f"--output {path}: cannot be made or written ({error.strerror}); choose another place."
        ) from error
    try:
        notes += _require_same(path, document)
        document["fingerprint"] = fingerprint(document)
        results = ResultsFile(path / RESULTS)
        if results.repair():
            notes.append(f"{results.path}: a kill had cut its last line; the line was removed, its episode runs again")
        write_text(path / PROTOCOL, json.dumps(document, indent=2) + "\n")
        yield ResultsDirectory(path, document, notes)
    finally:
        lock.release()


def _require_same(path: Path, document: dict[str, Any]) -> list[str]:
    """Refuse another policy's or protocol's directory; take over what it has, and return what is assumed of it."""
    earlier = _read_protocol(path)
    if not earlier:
        if (path / RESULTS).is_file():
            raise UserError(f"{path}: {RESULTS} has no {PROTOCOL} beside it; give another --output.")
        return []
    if changed := differing_keys(earlier, document):
        listed = "; ".join(f"{key}: {there!r} there, {now!r} now" for key, (there, now) in changed.items())
        raise UserError(f"{path}: holds results of another run ({listed}); give another --output, or the same options.")
    ours, theirs = document["protocol"], earlier["protocol"]
    tasks = [*theirs["simulator"]["tasks"], *ours["simulator"]["tasks"]]
    ours["simulator"] = {**ours["simulator"], "tasks": list(dict.fromkeys(tasks))}
    ours["episodes_per_task"] = max(ours["episodes_per_task"], theirs["episodes_per_task"])
    ours["warnings"] = list(dict.fromkeys([*theirs.get("warnings", []), *ours.get("warnings", [])]))
    assumed = [] if releases_of(earlier) or not releases_of(document) else [UNKNOWN_RELEASES.format(path)]
    document["versions"] = {**document["versions"], **earlier.get("versions", {})}  # those of the first run
    return assumed
