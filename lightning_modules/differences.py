"""Descriptions of networks: what counts in one, and where two disagree, key by key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from files.differences import differing_keys as differing_keys


def plain_network(config: Mapping[str, Any]) -> dict[str, Any]:
    """A network's description without the names of pretrained weights, which do not matter where weights are given."""

    def cleared(value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, Mapping):
            return {key: None if key.endswith("pretrained") else cleared(item) for key, item in value.items()}
        return [cleared(item) for item in value] if isinstance(value, list) else value

    result: dict[str, Any] = cleared(json.loads(json.dumps(config)))
    return result
