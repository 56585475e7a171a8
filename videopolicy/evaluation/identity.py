"""What two evaluations must share: to write into one directory, and to be compared episode by episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from files.differences import flatten
from files.errors import UserError
from files.hashes import json_sha256
from rollouts.survey import releases

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
# What may differ, because comparing it is the purpose: who acts, what it sees, how often it replans, and the variation.
_COMPARED = (
    "policy.",
    "protocol.simulator.variation.",
    "protocol.simulator.instructions.",
    "protocol.simulator.cameras",
    "protocol.simulator.image_size",
    "protocol.execute_steps",
)
_SEEDS = ("protocol.first_seed", "protocol.episodes")  # the episodes themselves say what this changes
UNKNOWN_RELEASES = "{}/protocol.json does not say its simulator's releases; they are taken to be the same."


def fingerprint(document: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of all that an episode's result depends on, the episode itself apart.

    Args:
        document: Content of ``protocol.json``; ``policy``, ``protocol`` and the simulator's releases are read.
    """
    return json_sha256(_identity(document), 16)


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


def require_same_protocol(paths: Sequence[Path], documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Refuse two evaluations whose protocols differ in more than what is compared.

    Args:
        paths: Of both, for messages.
        documents: Their ``protocol.json``; empty where there is none.

    Returns:
        What else differs, in sentences.

    Raises:
        UserError: Simulator, steps or the like differ; names the keys.
    """
    if missing := [str(path) for path, document in zip(paths, documents, strict=True) if not document]:
        return [f"No protocol.json beside {' and '.join(missing)}: that both followed one protocol is taken on trust."]
    changed = differing_keys(*documents)
    refused = {key: values for key, values in changed.items() if not key.startswith((*_COMPARED, *_SEEDS))}
    if refused:
        listed = "; ".join(f"{key} is {a!r} and {b!r}" for key, (a, b) in refused.items())
        raise UserError(
            f"{paths[0]} and {paths[1]} followed different protocols ({listed}); "
            "run one of them again with the options of the other."
        )
    unknown = [path for path, document in zip(paths, documents, strict=True) if not releases_of(document)]
    assumed = [UNKNOWN_RELEASES.format(path) for path in unknown] if len(unknown) == 1 else []
    noted = {key: values for key, values in changed.items() if not key.startswith(("policy.", *_SEEDS))}
    return [*assumed, *(f"They differ in {key}: A {a!r}, B {b!r}." for key, (a, b) in noted.items())]
