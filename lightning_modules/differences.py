"""Descriptions of networks: what counts in one, and where two disagree, key by key."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any


def differing_keys(found: object, wanted: object, prefix: str = "") -> list[str]:
    """Compare two nested JSON-able values key by key; tuples count as lists.

    Args:
        found: What is there.
        wanted: What should be there.
        prefix: Dotted path of the two values inside their documents.

    Returns:
        One entry ``"key: <found> here, <wanted> wanted"`` a difference; empty when both agree.
    """
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        entries: list[str] = []
        for key in sorted({*found, *wanted}, key=str):
            path = f"{prefix}.{key}" if prefix else str(key)
            entries += differing_keys(found.get(key, "nothing"), wanted.get(key, "nothing"), path)
        return entries
    here, there = _as_list(found), _as_list(wanted)
    return [] if here == there else [f"{prefix}: {here!r} here, {there!r} wanted"]


def plain_network(config: Mapping[str, Any]) -> dict[str, Any]:
    """A network's description without the names of pretrained weights, which do not matter where weights are given."""

    def cleared(value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, Mapping):
            return {key: None if key.endswith("pretrained") else cleared(item) for key, item in value.items()}
        return [cleared(item) for item in value] if isinstance(value, list) else value

    result: dict[str, Any] = cleared(json.loads(json.dumps(config)))
    return result


def unknown_or_missing(found: Collection[str], needed: Collection[str], optional: Collection[str] = ()) -> str:
    """What is wrong with the keys of a stored description, in words; empty if nothing is."""
    unknown = sorted(set(found) - set(needed) - set(optional))
    missing = sorted(set(needed) - set(found))
    return "; ".join([f"key {key!r} unknown" for key in unknown] + [f"key {key!r} missing" for key in missing])


def _as_list(value: object) -> object:
    return [_as_list(item) for item in value] if isinstance(value, (list, tuple)) else value
