"""What a text typed after `--key` stands for: the type of the argument decides, not the look of the text."""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse._parameter_resolvers import get_signature_parameters
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from files.errors import UserError
from videopolicy.experiment.named_callbacks import NAMED_CALLBACKS

BARE = ("lightning_modules", "policies", "datamodules", "callbacks", "networks", "lightning.pytorch.callbacks")
OF_A_RUN = {"run_dir": str | None, "handoff": str | None, "ckpt_path": str | None, "stage": str | None}
SECTIONS = {  # keys beside model and data, which name their class themselves
    "trainer": "lightning.pytorch.Trainer",
    "last_checkpoint": "callbacks.run_checkpoints.LastCheckpoint",
    "best_checkpoint": "callbacks.run_checkpoints.BestCheckpoint",
    **NAMED_CALLBACKS,
}
PART = (".yaml", ".yml")
LISTS = (list, tuple, set, Sequence, Iterable, Collection)
Kinds = set[type]


class Typed(str):
    """The text of an override, as it was typed."""


def read_override(config: Mapping[str, Any], key: str, text: str) -> Any:  # noqa: ANN401 - any config value
    """Read a text as the value of a key.

    Where the argument takes text, the text is the value as it stands: ``put block #2 down``, ``yes``, ``12``, ``a: b``
    and ``see notes.yaml`` are words. ``null`` is None where the argument may be None; a list, mapping, number or truth
    value is one where the argument takes that too. Elsewhere the text is YAML, or the name of a part file.

    Args:
        config: The stage's config so far, which says of what class a part is.
        key: Dotted key, ``init_args`` left out or not.
        text: What was typed.

    Raises:
        UserError: YAML would drop a part of the text, or a part file is not there.
    """
    from videopolicy.experiment.files import read_part

    kinds = kinds_of(type_of(config, key))
    value, whole = _yaml(text)
    if str in kinds:
        if text.endswith(PART) and dict in kinds:
            return read_part(Path(text).expanduser())
        taken = whole and not isinstance(value, str) and _kind(value) in kinds
        return value if taken and (value is not None or text.strip() == "null") else str(text)
    if text.endswith(PART):
        return read_part(Path(text).expanduser())
    if not whole:
        raise UserError(
            f"--{key} {text!r}: YAML drops what follows ' #', and this argument takes no plain text; leave that out, "
            "or quote it inside the value."
        )
    return value


def _yaml(text: str) -> tuple[Any, bool]:
    """The text read as YAML, or itself where it is none (``*.hdf5``); and whether YAML takes all of it."""
    line = f"value: {text}"
    try:
        content = OmegaConf.to_container(OmegaConf.create(line), resolve=False)
        document = yaml.compose(line)
    except (yaml.YAMLError, OmegaConfBaseException):
        return str(text), True
    assert isinstance(content, dict)
    assert isinstance(document, yaml.MappingNode)
    node = document.value[0][1]
    return content.get("value", str(text)), node.end_mark.index >= len(line.rstrip())


def _kind(value: object) -> type:
    return {bool: bool, int: int, float: float, list: list, dict: dict}.get(type(value), type(None))


# --- types ------------------------------------------------------------------------------------------------------------


def kinds_of(hint: Any) -> Kinds:  # noqa: ANN401 - any type hint
    """The YAML kinds that a type takes; empty where nothing is known of it.

    An int is taken for a float; a class or mapping is a ``dict``.
    """
    if hint is None or hint is Any or isinstance(hint, str):
        return set()
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return set().union(*(kinds_of(option) for option in get_args(hint)))
    if origin is Literal:
        return {type(option) for option in get_args(hint)}
    if hint is type(None) or hint in (str, bool, int):
        return {hint}
    if hint is float:
        return {float, int}
    if inspect.isclass(hint) and issubclass(hint, Path):
        return {str}
    target = origin or hint
    return {list} if target in LISTS else {dict}


def type_of(config: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - any type hint
    """The type of the argument that a dotted key names, or None where that cannot be told."""
    first, *rest = [part for part in key.split(".") if part != "init_args"]
    if not rest:
        return OF_A_RUN.get(first) or (dict if first in SECTIONS else None)
    node: Any = config.get(first)
    owner = _class(SECTIONS.get(first)) or _class_of(node)
    hint: Any = None
    for part in rest:
        if owner is None or part in ("class_path", "dict_kwargs"):
            return str if part == "class_path" else None
        hint = _parameters(owner).get(part)
        inside = node.get("init_args", node) if isinstance(node, Mapping) else {}
        node = inside.get(part) if isinstance(inside, Mapping) else None
        owner = _class_of(node) or next((t for t in (hint, *get_args(hint)) if inspect.isclass(t)), None)
    return hint


def _class_of(node: object) -> Any:  # noqa: ANN401 - a class or function
    return _class(str(node["class_path"])) if isinstance(node, Mapping) and node.get("class_path") else None


def _class(path: str | None) -> Any:  # noqa: ANN401 - a class or function
    """What a class path names; a slip in it is the parser's to say."""
    if path is None:
        return None
    module, _, name = path.rpartition(".")
    for package in (module,) if module else BARE:
        try:
            return getattr(importlib.import_module(package), name)
        except (ImportError, AttributeError, ValueError):
            continue
    return None


def _parameters(owner: Any) -> dict[str, Any]:  # noqa: ANN401 - a class or function
    """Types of the arguments of a class, those that it hands on included, or of a function."""
    if not inspect.isclass(owner):
        return _hints(owner)
    return {parameter.name: parameter.annotation for parameter in get_signature_parameters(owner, "__init__")}


def _hints(function: Any) -> dict[str, Any]:  # noqa: ANN401 - a function
    try:
        return get_type_hints(function)
    except (NameError, TypeError):  # names that only a type checker imports; then YAML decides
        return {}
