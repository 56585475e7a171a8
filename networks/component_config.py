"""A network as plain data, class by class: what a checkpoint stores to build it again and a handoff compares."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from networks.errors import NetworkError


def describe(component: object, init_args: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-able description of a component: `{"class_path": ..., "init_args": ...}`, as in an experiment file.

    Args:
        component: The object to describe.
        init_args: Its constructor arguments: plain values, descriptions, dataclasses, and sequences of these.
    """
    cls = next(c for c in type(component).__mro__ if not c.__module__.startswith("torch.distributed."))  # FSDP's own
    arguments = {name: _plain(value) for name, value in init_args.items()}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


def config_of(component: Any) -> dict[str, Any]:  # noqa: ANN401 - anything with a `config`
    """Description of a component whose `config` is such a description or just its constructor arguments."""
    config: dict[str, Any] = component.config
    return config if "class_path" in config else describe(component, config)


def build(config: Mapping[str, Any], load_pretrained: bool = True) -> Any:  # noqa: ANN401 - whatever class is named
    """Build what `describe` described, its parts included.

    A description may come out of a stranger's file, so nothing but this package's classes and `nn.Module`s is called.

    Args:
        config: Class path and arguments; arguments may be such descriptions themselves.
        load_pretrained: Load what the arguments `pretrained` name; leave it out where weights come from a checkpoint.

    Raises:
        NetworkError: The class does not exist, is no network, or refuses an argument.
    """
    module, _, name = str(config["class_path"]).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise NetworkError(
            f"component {config['class_path']!r} cannot be imported ({error}); make its module importable."
        ) from error
    ours = module.split(".")[0] == __package__ and isinstance(cls, type)
    if not ours and not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise NetworkError(f"component {config['class_path']!r} is neither of `networks` nor an nn.Module; not built.")
    arguments = {key: _build_nested(value, load_pretrained) for key, value in config["init_args"].items()}
    if not load_pretrained:
        arguments |= {key: None for key in arguments if key.endswith("pretrained")}
    try:
        return cls(**arguments)
    except TypeError as error:
        raise NetworkError(f"component {config['class_path']!r} refuses its stored arguments: {error}.") from error


def _plain(value: Any) -> Any:  # noqa: ANN401 - any constructor argument
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return describe(value, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    return value


def _build_nested(value: Any, load_pretrained: bool) -> Any:  # noqa: ANN401 - JSON values
    if isinstance(value, list):
        return [_build_nested(item, load_pretrained) for item in value]
    described = isinstance(value, Mapping) and "class_path" in value
    return build(value, load_pretrained) if described else value
