"""Where two nested documents disagree, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ABSENT = "nothing"
"""What stands for the value of a key that is not there."""


def flatten(value: object, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> leaf of a nested mapping; lists and empty mappings are leaves."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def differences(first: object, second: object) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> both values, wherever two nested JSON-able values disagree; tuples count as lists."""
    return dict(_differences(first, second, ""))


def _differences(first: object, second: object, path: str) -> list[tuple[str, tuple[Any, Any]]]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        found = []
        for key in sorted({*first, *second}, key=str):
            inner = f"{path}.{key}" if path else str(key)
            found += _differences(first.get(key, ABSENT), second.get(key, ABSENT), inner)
        return found
    one, other = _as_list(first), _as_list(second)
    return [] if one == other else [(path, (one, other))]


def differing_keys(found: object, wanted: object) -> list[str]:
    """The same in words: ``"key: <found> here, <wanted> wanted"``; empty when both agree."""
    return [f"{key}: {here!r} here, {there!r} wanted" for key, (here, there) in differences(found, wanted).items()]


def _as_list(value: object) -> object:
    return [_as_list(item) for item in value] if isinstance(value, (list, tuple)) else value
