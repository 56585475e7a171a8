"""Experiment files: what the stages share is written once, and `stages` says what differs.

An experiment is a mapping of a stage's config keys (``seed_everything``, ``data``, ``model``, ``trainer``, ``rollout``,
...) and a key ``stages`` with one partial config of the same shape a stage, merged over the common part. An experiment
has the stages ``video`` and ``action``, or one stage: ``joint``, or ``action`` of a policy without a video stage. An
overlay leaves a stage out by null, and puts a joint stage that begins as one of the two, with ``base: action``, in the
place of both. Two rules on top:

- A string that ends in ``.yaml`` stands for that file's content, a part; its path is relative to the file it is written
  in. A mapping's key ``base`` names such a file, over which the rest of the mapping is merged.
- Mappings merge key by key; a part replaces what stood in its place, and so does a list.

``${data.init_args.num_frames}`` is resolved last, in the merged config of one stage;
``${len:${data.init_args.cameras}}`` counts. ``${times:0.5}``, laid over a number, is that number times 0.5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from files.errors import UserError
from files.nearest import nearest
from videopolicy.experiment.named_callbacks import concerns, with_named_callbacks
from videopolicy.experiment.override_values import Typed, read_override

TWO_STAGES = ("video", "action")
JOINT = "joint"
STAGES = (*TWO_STAGES, JOINT)
TIMES = re.compile(r"\$\{times:\s*([0-9.]+)\s*\}")
OmegaConf.register_new_resolver("len", len, replace=True)
OmegaConf.register_new_resolver("times", lambda factor: _times(None, float(factor), "this key"), replace=True)
Config = dict[str, Any]


class Part(dict[str, Any]):
    """What a file held: merged over something else it replaces that."""


# --- reading ----------------------------------------------------------------------------------------------------------


def load_experiment(paths: Sequence[str | Path]) -> Config:
    """Read experiment files and merge them left to right; interpolations stay unresolved.

    Raises:
        UserError: A file is missing, is no YAML mapping, names a part that is not there, an unknown stage, or
            ``joint`` beside one of the two stages that it replaces.
    """
    return compose([read_part(Path(path)) for path in paths], " + ".join(str(path) for path in paths))


def compose(parts: Sequence[Mapping[str, Any]], said: str) -> Config:
    """Merge experiments that are read already, left to right.

    Args:
        parts: What `read_part` gave, or what is laid over it.
        said: Where they come from, for messages.

    Raises:
        UserError: There is an unknown stage, or ``joint`` beside one of the two stages that it replaces.
    """
    experiment: Config = {}
    for part in parts:
        experiment = merge(experiment, part)
    stages = experiment.get("stages") or {}
    if not isinstance(stages, Mapping):
        raise UserError(
            f"{said}: `stages` holds {stages!r}; it must be a mapping of {' and '.join(TWO_STAGES)}, or of {JOINT}."
        )
    for name in stages:
        if name not in STAGES:
            raise UserError(f"{said}: no stage {name!r} in `stages`; {nearest(name, STAGES)}")
    if isinstance(joint := stages.get(JOINT), Mapping) and "base" in joint:
        stages = {JOINT: _begun_as(joint, stages, said)}
    if stages and not (stages := {name: part for name, part in stages.items() if part is not None}):
        raise UserError(f"{said}: `stages` leaves every stage out; keep one of {', '.join(STAGES)}.")
    if "stages" in experiment:
        experiment["stages"] = stages
    if JOINT in stages and len(stages) > 1:
        others = " and ".join(name for name in stages if name != JOINT)
        raise UserError(
            f"{said}: `stages` holds {others} beside {JOINT}, which trains video and action together; keep {JOINT} "
            "alone, or leave it out."
        )
    return with_named_callbacks(experiment)


def _begun_as(joint: Mapping[str, Any], stages: Mapping[str, Any], said: str) -> Config:
    """A joint stage laid over the stage that its `base` names, whose arguments its model keeps, but for those of null.

    Raises:
        UserError: There is no such stage.
    """
    own = {key: value for key, value in joint.items() if key != "base"}
    base = stages.get(joint["base"]) if joint["base"] in TWO_STAGES else None
    if not isinstance(base, Mapping):
        raise UserError(f"{said}: stages.{JOINT}.base is {joint['base']!r}; name another stage of the experiment.")
    model = {**(base.get("model") or {}), "class_path": own["model"]["class_path"]}
    begun = merge({**base, "model": model}, own)
    nulls = [key for key, value in (own["model"].get("init_args") or {}).items() if value is None]
    begun["model"]["init_args"] = {key: v for key, v in begun["model"]["init_args"].items() if key not in nulls}
    return begun


def stages_of_experiment(experiment: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages of an experiment in their order: the joint one, the action stage alone, or the two."""
    named = set(experiment.get("stages") or {})
    if JOINT in named or experiment.get("stage") == JOINT:
        return (JOINT,)
    return ("action",) if named == {"action"} else TWO_STAGES


def read_part(path: Path, including: tuple[Path, ...] = ()) -> Part:
    """Read one YAML mapping with the parts that it names put in.

    Args:
        path: The file.
        including: Files that are being read, outermost first; guards against a circle.
    """
    if not path.is_file():
        there = sorted(other.name for other in path.parent.glob("*.yaml") if other.is_file())
        named = f" named in {including[-1]}" if including else ""
        found = f"; that folder has {', '.join(there)}" if there else ""
        moved = " A training takes its simulator from a protocol now: rollout.protocol: protocols/lift.yaml."
        hint = moved if path.parent.name == "simulators" else ""
        raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}{named}{found}.{hint}")
    if path.resolve() in including:
        raise UserError(f"{path}: includes itself, through {' > '.join(str(file) for file in including)}.")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; a mapping of config keys is needed.")
    return Part(_fill_in(content, path, (*including, path.resolve())))


def _fill_in(value: Any, path: Path, including: tuple[Path, ...]) -> Any:  # noqa: ANN401 - any YAML value
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        part = path.parent / value
        words = " " in value and not part.is_file()  # "see notes.yaml", an instruction
        return value if words else read_part(part, including)
    if isinstance(value, list):
        return [_fill_in(item, path, including) for item in value]
    if not isinstance(value, dict):
        return value
    filled = {str(key): _fill_in(item, path, including) for key, item in value.items()}
    for key in filled:
        if key.endswith("+"):
            raise UserError(
                f"{path}: {key}: nothing is appended to a list; write the whole list as {key[:-1]}. Our callbacks "
                "have keys of their own (compile, features, averaging, videos, rollout)."
            )
    base = filled.get("base")
    if isinstance(base, dict) and isinstance(value["base"], str):
        del filled["base"]
        return merge(base, filled)
    return filled


# --- merging ----------------------------------------------------------------------------------------------------------


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Config:
    """Merge two configs key by key; the second wins.

    A mapping whose ``class_path`` changes loses the arguments of the old class. Lists and parts of the second replace
    what the first has.
    """
    merged = Part(below) if isinstance(below, Part) else dict(below)
    if "class_path" in above and "class_path" in below and not _same_class(below["class_path"], above["class_path"]):
        for name in ("init_args", "dict_kwargs"):
            merged.pop(name, None)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not isinstance(value, Part):
            value = merge(old, value)
        if isinstance(value, str) and (factor := TIMES.fullmatch(value)):
            value = _times(old, float(factor[1]), key)
        merged[key] = value
    return merged


def _times(number: Any, factor: float, key: str) -> float:  # noqa: ANN401 - whatever a file says
    """A number that an overlay multiplies; a whole one stays whole.

    Raises:
        UserError: It is no number, or does not stay whole.
    """
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise UserError(
            f"{key}: ${{times:{factor:g}}} multiplies the number that the files before it give, but they say "
            f"{number!r}; give a number."
        )
    if isinstance(number, float):
        return number * factor
    if (product := number * factor) != round(product):
        raise UserError(f"{key}: {number} times {factor:g} is no whole number; give one.")
    return round(product)


def _same_class(one: Any, other: Any) -> bool:  # noqa: ANN401 - a broken file may hold anything there
    """Whether two class paths name one class; a bare name may stand for a full path."""
    if "." in str(one) and "." in str(other):
        return bool(one == other)
    return str(one).rpartition(".")[2] == str(other).rpartition(".")[2]


def plain(value: Any) -> Any:  # noqa: ANN401 - any YAML value
    """Parts as ordinary mappings."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def stage_config(experiment: Mapping[str, Any], stage: str, overrides: Sequence[tuple[str, Any]] = ()) -> Config:
    """The config of one stage: common part, stage's part, overrides, interpolations resolved.

    Args:
        experiment: What `load_experiment` gave.
        stage: One of `STAGES`.
        overrides: Dotted keys and values, as on the command line; ``stages.<stage>.`` in front limits one to a stage.

    Raises:
        UserError: An override names no stage, or an interpolation names no key.
    """
    common: Config = {key: value for key, value in experiment.items() if key != "stages" and concerns(key, stage)}
    own: Config = dict((experiment.get("stages") or {}).get(stage) or {})
    for key, value in overrides:
        target, name = stage_of(key)
        if target == stage or (target is None and concerns(name, stage)):
            config = merge(common, own)
            read = read_override(config, name, value) if isinstance(value, Typed) else value
            change = nested(config, name, read)
            if isinstance(read, Part) and not _names_a_part(own, change):
                common = merge(common, change)  # what the stage says of a trainer stays over the trainer
            else:
                own = merge(own, change)
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(plain(merge(common, own))), resolve=True)
    except OmegaConfBaseException as error:
        message = str(error).splitlines()[0].rstrip(".")  # what follows is omegaconf's own bookkeeping
        key = getattr(error, "full_key", None) or "config"
        raise UserError(f"{key} of the {stage} stage: {message}.") from error
    assert isinstance(resolved, dict)
    return with_named_callbacks({str(key): value for key, value in resolved.items()})


def _names_a_part(config: Mapping[str, Any], change: Mapping[str, Any]) -> bool:
    """Whether a config has a part or class of its own where a change, a chain of single keys, would put one."""
    node: Any = config
    inner: Any = change
    while not isinstance(inner, Part):
        ((key, inner),) = inner.items()
        node = node.get(key) if isinstance(node, Mapping) else None
    return isinstance(node, Part) or (isinstance(node, Mapping) and "class_path" in node)


def stage_of(key: str) -> tuple[str | None, str]:
    """Split ``stages.video.trainer.max_steps`` into (``video``, ``trainer.max_steps``); None means every stage."""
    if not key.startswith("stages."):
        return None, key
    _, stage, *rest = key.split(".")
    if stage not in STAGES:
        raise UserError(f"--{key}: no stage {stage!r}; {nearest(stage, STAGES)}")
    if not rest:
        raise UserError(f"--{key}: name a key of the stage, for instance --{key}.trainer.max_steps.")
    return stage, ".".join(rest)


def nested(config: Mapping[str, Any], key: str, value: Any) -> Config:  # noqa: ANN401 - any YAML value
    """Turn a dotted key into a nested mapping; ``init_args`` may be left out, as in ``data.batch_size``."""
    parts: list[str] = []
    node: Any = config
    for part in key.split("."):
        inside = isinstance(node, Mapping) and ("class_path" in node or "init_args" in node)
        if inside and part not in ("class_path", "init_args", "dict_kwargs"):
            parts.append("init_args")
            node = node.get("init_args")
        parts.append(part)
        node = node.get(part) if isinstance(node, Mapping) else None
    if isinstance(node, Mapping) and "class_path" in node and isinstance(value, str):
        value = {"class_path": value}
    result: Any = value
    for part in reversed(parts):
        result = {part: result}
    assert isinstance(result, dict)
    return result


# --- the way back -----------------------------------------------------------------------------------------------------


def join_stages(configs: Mapping[str, Mapping[str, Any]]) -> Config:
    """Write complete stage configs as one experiment: what all share in common, the rest under ``stages``.

    `stage_config` of the result gives every stage its config back.
    """
    common, rest = _factor(list(configs.values()))
    return {**common, "stages": dict(zip(configs, rest, strict=True))}


def _factor(configs: list[Mapping[str, Any]]) -> tuple[Config, list[Config]]:
    common: Config = {}
    rest: list[Config] = [{} for _ in configs]
    for key in dict.fromkeys(key for config in configs for key in config):
        values = [config.get(key) for config in configs]
        if all(key in config for config in configs) and all(value == values[0] for value in values):
            common[key] = values[0]
        elif all(isinstance(value, Mapping) and value for value in values) and key != "dict_kwargs":
            inner, parts = _factor([value for value in values if isinstance(value, Mapping)])
            if inner:
                common[key] = inner
            for target, part in zip(rest, parts, strict=True):
                if part:
                    target[key] = part
        else:
            for config, target in zip(configs, rest, strict=True):
                if key in config:
                    target[key] = config[key]
    return common, rest
