"""The directory of one evaluation: what was judged by which protocol, and every episode's result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from files.differences import flatten
from files.hashes import json_sha256
from files.locks import HeldError, hold_folder
from files.writing import write_text
from rollouts import EpisodeResult, ResultsFile
from rollouts.survey import releases
from videopolicy.errors import CommandError

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
    "protocol.timeout_s",
    "protocol.warnings",
)


def fingerprint(document: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of all that an episode's result depends on, the episode itself apart.

    Args:
        document: Content of ``protocol.json``; ``policy``, ``protocol`` and the simulator's releases are read.
    """
    return json_sha256(_identity(document), 16)


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """`differing_keys` in words; empty if the two may share a directory."""
    changed = differing_keys(theirs, ours)
    return [f"{key}: {there!r} there, {now!r} now" for key, (there, now) in changed.items()]


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> both values, wherever two ``protocol.json`` disagree in what an episode's result depends on."""
    first, second = _identity(a), _identity(b)
    if not (releases_of(a) and releases_of(b)):  # an older directory does not say: taken to be the same
        first, second = (
            {key: value for key, value in part.items() if not key.startswith("releases.")} for part in (first, second)
        )
    keys = sorted(key for key in first | second if first.get(key) != second.get(key))
    return {key: (first.get(key), second.get(key)) for key in keys}


def releases_of(document: Mapping[str, Any]) -> dict[str, str]:
    """Packages that decide how the document's simulator behaves -> release; empty where it does not say."""
    name = document.get("protocol", {}).get("simulator", {}).get("name", "")
    return releases(name, (document.get("versions") or {}).get("simulator") or {})


def _identity(document: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value, without the free keys and without what is empty, so that new settings may be added."""
    content = {name: document.get(name, {}) for name in ("policy", "protocol")} | {"releases": releases_of(document)}
    flat = flatten(content)
    free = tuple(f"{key}." for key in _FREE)
    return {
        key: value for key, value in flat.items() if not f"{key}.".startswith(free) and value not in (None, "", [], {})
    }


class ResultsDirectory:
    """``protocol.json``, ``results.jsonl``, ``videos/`` and the summary files of one evaluation.

    Made by `open_directory`, which holds its lock.

    Args:
        path: The directory.
        document: Content of ``protocol.json`` for this run.
        notes: What the user should hear about the state that it was found in.
    """

    def __init__(self, path: Path, document: dict[str, Any], notes: Sequence[str]) -> None:
        self.path = path
        self.document = document
        self.notes = notes
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
        CommandError: Another run is writing there, it cannot be written, or it holds results of another policy,
            protocol or simulator release.
    """
    if path.exists() and not path.is_dir():
        raise CommandError(f"--output {path}: is a file; results go into a directory now, so give another name.")
    document: dict[str, Any] = {"format": FORMAT, "policy": dict(policy), "protocol": dict(protocol)}
    document["versions"] = dict(versions or {})
    notes: list[str] = []
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = hold_folder(path, notes.append)
    except HeldError as error:
        raise CommandError(
            f"{path}: another run ({error.holder}) is writing results there; wait until it has ended, or give another "
            "--output."
        ) from error
    except OSError as error:
        raise CommandError(
            f"--output {path}: cannot be made or written ({error.strerror}); choose another place."
        ) from error
    try:
        notes += _require_same(path, document)
        document["fingerprint"] = fingerprint(document)
        results = ResultsFile(path / "results.jsonl")
        if results.repair():
            notes.append(f"{results.path}: a kill had cut its last line; the line was removed, its episode runs again")
        write_text(path / "protocol.json", json.dumps(document, indent=2) + "\n")
        yield ResultsDirectory(path, document, notes)
    finally:
        lock.release()


def _require_same(path: Path, document: dict[str, Any]) -> list[str]:
    """Refuse another policy's or protocol's directory; take over what it has, and return what is assumed of it."""
    if not (path / "protocol.json").is_file():
        if (path / "results.jsonl").is_file():
            raise CommandError(f"{path}: results.jsonl has no protocol.json beside it; give another --output.")
        return []
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
    ours["warnings"] = list(dict.fromkeys([*theirs.get("warnings", []), *ours.get("warnings", [])]))
    assumed = [] if releases_of(earlier) or not releases_of(document) else [UNKNOWN_RELEASES.format(path)]
    document["versions"] = {**document["versions"], **earlier.get("versions", {})}  # those of the first run
    return assumed


UNKNOWN_RELEASES = "{}/protocol.json does not say its simulator's releases; they are taken to be the same."


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
