"""The directory of one evaluation: what was judged by which protocol, and every episode's result."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simulators import EpisodeResult, ResultsFile
from videopolicy.errors import CommandError
from videopolicy.experiment.run_directory import write_atomically

FORMAT = 1
# Keys of protocol.json that may differ between runs into one directory: they change no episode.
_FREE = (
    "policy.path",
    "protocol.name",
    "protocol.source",
    "protocol.groups",
    "protocol.episodes_per_task",
    "protocol.simulator.tasks",
    "protocol.simulator.python",
    "protocol.simulator.gl",
)


def fingerprint(document: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of all that an episode's result depends on, the episode itself apart.

    Args:
        document: Content of ``protocol.json``; only ``policy`` and ``protocol`` are read.
    """
    text = json.dumps(_identity(document), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """`differing_keys` in words; empty if the two may share a directory."""
    changed = differing_keys(theirs, ours)
    return [f"{key}: {there!r} there, {now!r} now" for key, (there, now) in changed.items()]


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> both values, wherever two ``protocol.json`` disagree in what an episode's result depends on."""
    first, second = _identity(a), _identity(b)
    keys = sorted(key for key in first | second if first.get(key) != second.get(key))
    return {key: (first.get(key), second.get(key)) for key in keys}


def _identity(document: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value, without the free keys and without what is empty, so that new settings may be added."""
    flat = dict(_flatten("", {"policy": document.get("policy", {}), "protocol": document.get("protocol", {})}))
    free = tuple(f"{key}." for key in _FREE)
    return {
        key: value for key, value in flat.items() if not f"{key}.".startswith(free) and value not in (None, "", [], {})
    }


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, value


class ResultsDirectory:
    """``protocol.json``, ``results.jsonl``, ``videos/`` and the summary files of one evaluation.

    Made by `open_directory`, which holds its lock.

    Args:
        path: The directory.
        document: Content of ``protocol.json`` for this run.
        repaired: A line that a kill had cut was taken away.
    """

    def __init__(self, path: Path, document: dict[str, Any], repaired: bool) -> None:
        self.path = path
        self.document = document
        self.repaired = repaired
        self._file = ResultsFile(path / "results.jsonl")

    def results(self) -> dict[str, EpisodeResult]:
        """Episode key -> its latest result."""
        return self._file.load()

    def append(self, result: EpisodeResult) -> None:
        """Keep a new result, marked with the fingerprint."""
        result.fingerprint = self.document["fingerprint"]
        self._file.append(result)

    def video(self, result: EpisodeResult) -> Path:
        """Where the video of an episode belongs."""
        return self.path / "videos" / f"{result.task}_seed{result.seed}.mp4"


@contextmanager
def open_directory(path: Path, policy: Mapping[str, Any], protocol: Mapping[str, Any]) -> Iterator[ResultsDirectory]:
    """Take hold of a directory for a run; what other runs left in it is kept.

    Args:
        path: The directory; made if it is not there.
        policy: ``kind``, and whatever else says which policy it is.
        protocol: `Protocol.to_dict`.

    Raises:
        CommandError: Another run is writing there, or it holds results of another policy or protocol.
    """
    if path.exists() and not path.is_dir():
        raise CommandError(f"--output {path}: is a file; results go into a directory now, so give another name.")
    document: dict[str, Any] = {"format": FORMAT, "policy": dict(policy), "protocol": dict(protocol)}
    document["fingerprint"] = fingerprint(document)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--output {path}: cannot be made ({error.strerror}); choose another place.") from error
    with _locked(path):
        _require_same(path, document)
        repaired = ResultsFile(path / "results.jsonl").repair()
        yield ResultsDirectory(path, document, repaired)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the directory's lock; the kernel gives it back however the run ends."""
    with (path / ".lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise CommandError(
                f"{path}: another run (process {stream.read().strip() or 'unknown'}) is writing results there; "
                "wait until it has ended, or give another --output."
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def _require_same(path: Path, document: dict[str, Any]) -> None:
    """Refuse another policy's or protocol's directory; take over which tasks and episodes it has."""
    if not (path / "protocol.json").is_file():
        if (path / "results.jsonl").is_file():
            raise CommandError(f"{path}: results.jsonl has no protocol.json beside it; give another --output.")
        return
    earlier = read_protocol_document(path)
    assert earlier is not None
    if changed := differences(earlier, document):
        raise CommandError(
            f"{path}: holds results of another run ({'; '.join(changed)}); give another --output, or the same options."
        )
    ours, theirs = document["protocol"], earlier["protocol"]
    tasks = [*theirs["simulator"]["tasks"], *ours["simulator"]["tasks"]]
    ours["simulator"] = {**ours["simulator"], "tasks": list(dict.fromkeys(tasks))}
    ours["episodes_per_task"] = max(ours["episodes_per_task"], theirs["episodes_per_task"])
    document["versions"] = earlier.get("versions", {})


def write_protocol_document(directory: ResultsDirectory, versions: Mapping[str, Any]) -> None:
    """Write ``protocol.json``; the versions are those of the first run."""
    document = {**directory.document, "versions": directory.document.get("versions") or dict(versions)}
    directory.document = document
    write_atomically(directory.path / "protocol.json", json.dumps(document, indent=2) + "\n")


def read_protocol_document(path: Path) -> dict[str, Any] | None:
    """``protocol.json`` of a directory; None if there is none.

    Raises:
        CommandError: It cannot be read.
    """
    file = path / "protocol.json"
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text())
        if not isinstance(document["protocol"]["simulator"], dict):
            raise TypeError("protocol.simulator is no mapping")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{file}: is damaged ({error!r}); give another --output.") from error
    result: dict[str, Any] = document
    return result
