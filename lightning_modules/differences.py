"""Where two descriptions disagree, said key by key."""

from __future__ import annotations

from collections.abc import Mapping


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


def _as_list(value: object) -> object:
    return [_as_list(item) for item in value] if isinstance(value, (list, tuple)) else value
