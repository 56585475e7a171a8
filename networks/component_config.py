"""A network as plain data, class by class: what a checkpoint stores to build it again and a handoff compares."""

import importlib
from collections.abc import Mapping
from typing import Any

from networks.errors import NetworkError


def component_config(component: Any) -> dict[str, Any]:  # noqa: ANN401 - anything with a `config`
    """JSON-able `{"class_path": ..., "init_args": ...}` of a component whose `config` is its constructor arguments."""
    cls = type(component)
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": dict(component.config)}


def build_component(config: Mapping[str, Any], **overrides: Any) -> Any:  # noqa: ANN401 - whatever class is named
    """Build what `component_config` described, its parts included.

    Args:
        config: Class path and arguments; arguments may be such descriptions themselves.
        overrides: Arguments to use instead of the stored ones.

    Raises:
        NetworkError: The class does not exist, has no `config`, or refuses an argument.
    """
    module, _, name = str(config["class_path"]).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise NetworkError(
            f"component {config['class_path']!r} cannot be imported ({error}); make its module importable."
        ) from error
    arguments = {key: _build_nested(value) for key, value in (dict(config["init_args"]) | overrides).items()}
    try:
        return cls(**arguments)
    except TypeError as error:
        raise NetworkError(f"component {config['class_path']!r} does not take its stored arguments: {error}.") from error


def _build_nested(value: Any) -> Any:  # noqa: ANN401 - JSON values
    return build_component(value) if isinstance(value, Mapping) and "class_path" in value else value
