"""Types of a protocol file's keys, held against those of the classes that it fills."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from files.errors import UserError

_IN_WORDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list[str]": "a list of texts, as in [one, two]",
    "dict[str, float]": "a mapping of names to numbers, as in {position: 1.5}",
    "dict[str, str]": "a mapping of names to texts",
    "dict[str, list[str]]": "a mapping of names to lists of texts, as in {held_out: [one, two]}",
    "dict[str, typing.Any]": "a mapping",
}


def require_types(path: Path, prefix: str, content: Mapping[str, Any], cls: type) -> None:
    """Refuse a value of another type than its class has for the key.

    Args:
        path: The file, for messages.
        prefix: What stands before the keys of this section, for messages.
        content: Key -> value as YAML reads it; every key is one of the class.
        cls: A dataclass.

    Raises:
        UserError: The first wrong one.
    """
    hints = get_type_hints(cls)
    for key, value in content.items():
        if not _fits(value, hints[key]):
            raise UserError(f"{path}: {prefix}{key} is {value!r}; it must be {_in_words(hints[key])}.")


def _fits(value: Any, hint: Any) -> bool:  # noqa: ANN401 - a value of YAML, a type hint
    if value is None:
        return type(None) in getattr(hint, "__args__", ())
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        parsed = parser.parse_object({"value": copy.deepcopy(value)}).value
    except ArgumentError:
        return False
    return bool(parsed == value)  # the parser would read a number out of a text


def _in_words(hint: Any) -> str:  # noqa: ANN401 - a type hint
    names = [name.strip() for name in str(getattr(hint, "__name__", hint)).split("|")]
    if getattr(hint, "__args__", None) and "|" not in str(hint):
        names = [str(hint)]
    return " or ".join("null" if name == "None" else _IN_WORDS.get(name, name) for name in names)
