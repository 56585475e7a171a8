"""Texts and JSON objects that stand as attributes in HDF5 files."""

from __future__ import annotations

import json
from typing import Any

import h5py
import numpy as np

from files.errors import UserError


def read_json_attribute(group: h5py.Group, name: str) -> dict[str, Any]:
    """A JSON object kept as an attribute; empty if there is none.

    Raises:
        UserError: The attribute is there but is not a JSON object.
    """
    if name not in group.attrs:
        return {}
    try:
        value = json.loads(text_of(group.attrs[name]))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        where = f"{group.file.filename} {group.name}"
        raise UserError(f"{where}: attribute {name!r} is not a JSON object; write it again.")
    return value


def text_of(value: Any) -> str:  # noqa: ANN401 - whatever h5py makes of an attribute
    """A text that may come as bytes, or as an array of one element."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else value.tolist()
    if isinstance(value, h5py.Empty):
        return ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def words_of(value: Any) -> str:  # noqa: ANN401
    """An instruction as one line: a text, or a list of its words, or of its letters."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        parts = [text_of(part) for part in value]
        value = ("" if all(len(part) <= 1 for part in parts) else " ").join(parts)
    return " ".join(text_of(value).split()).strip('"').strip()
