"""A network as plain data, class by class: what a checkpoint stores to build it again and a handoff compares."""

import dataclasses
import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from files.errors import UserError

OURS = ("networks", "policies")  # packages whose classes a description may name


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

    A description may come out of a stranger's file, and importing a module runs it. So only modules of `OURS` are
    imported; of others, those that the program has imported by itself are looked into, and only for `nn.Module`s.

    Args:
        config: Class path and arguments; arguments may be such descriptions themselves.
        load_pretrained: Load what the arguments `pretrained` name; leave it out where weights come from a checkpoint.

    Raises:
        UserError: The class does not exist, is no network, would have to be imported from elsewhere, or refuses an
            argument.
    """
    if not isinstance(config.get("init_args"), Mapping):
        raise UserError(f"component {config.get('class_path')!r} has no init_args; the description is damaged.")
    cls = _class_of(str(config.get("class_path")))
    arguments = {key: _build_nested(value, load_pretrained) for key, value in config["init_args"].items()}
    if not load_pretrained:
        arguments |= {key: None for key in arguments if key.endswith("pretrained")}
    try:
        return cls(**arguments)
    except TypeError as error:
        raise UserError(f"component {config['class_path']!r} refuses its stored arguments: {error}.") from error


def _class_of(class_path: str) -> type:
    module, _, name = class_path.rpartition(".")
    ours = module.split(".")[0] in OURS
    if module and not ours and module not in sys.modules:
        raise UserError(
            f"component {class_path!r} is not of {' or '.join(OURS)}, and importing {module} would run it, so it is "
            f"not built. If you trust it, import it first: python -c 'import {module}; "
            "from videopolicy.main import main; raise SystemExit(main())' evaluate ...."
        )
    try:
        cls: object = getattr(importlib.import_module(module) if ours else sys.modules[module], name)
    except (ImportError, AttributeError, ValueError, KeyError) as error:
        raise UserError(f"component {class_path!r} cannot be imported ({error}); is it of another version?") from error
    if not isinstance(cls, type) or not (cls.__module__.split(".")[0] in OURS or issubclass(cls, nn.Module)):
        raise UserError(f"component {class_path!r} is neither of {' or '.join(OURS)} nor an nn.Module; not built.")
    return cls


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


def plain_network(config: Mapping[str, Any]) -> dict[str, Any]:
    """A network's description without the names of pretrained weights, which do not matter where weights are given."""

    def cleared(value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, Mapping):
            return {key: None if key.endswith("pretrained") else cleared(item) for key, item in value.items()}
        return [cleared(item) for item in value] if isinstance(value, list) else value

    result: dict[str, Any] = cleared(json.loads(json.dumps(config)))
    return result
