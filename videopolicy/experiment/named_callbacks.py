"""Our callbacks as keys of an experiment: ``rollout: {num_episodes: 20}`` turns one on, null turns it off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from files.errors import UserError

NAMED_CALLBACKS = {  # in the order in which the trainer calls them
    "compile": "callbacks.CompiledNetworks",
    "features": "callbacks.FeatureCache",
    "averaging": "callbacks.TrainableWeightAveraging",
    "videos": "callbacks.PredictedVideos",
    "rollout": "callbacks.SimulationRollout",
}
STAGES_OF = {"features": ("action",), "videos": ("video", "joint"), "rollout": ("action", "joint")}
_KEYS = {path.rpartition(".")[2]: key for key, path in NAMED_CALLBACKS.items()}


def concerns(key: str, stage: str) -> bool:
    """Whether what is said in common, by a dotted key, concerns a stage: of a video stage no rollouts are wanted."""
    return stage in STAGES_OF.get(key.partition(".")[0], (stage,))


def with_named_callbacks(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment in which our callbacks stand under their keys, where an older version listed them.

    Files, and configs in finished run directories, once named them in ``trainer.callbacks``. Such an experiment is read
    as a whole; laid over or under one of this version its lists would mean something else, so that is refused.

    Args:
        experiment: An experiment, or the config of one stage.

    Raises:
        UserError: It has both spellings.
    """
    stages = experiment.get("stages") or {}
    parts = [experiment, *(part for part in stages.values() if isinstance(part, Mapping))]
    listed = [name for part in parts for name in _listed(part)]
    if not listed:
        return dict(experiment)
    if any(key in part for part in parts for key in NAMED_CALLBACKS):
        raise UserError(
            f"trainer.callbacks: names {listed[0]}, which has a key of its own: write `{_KEYS[listed[0]]}: "
            "{...}` with its arguments beside `trainer` (null turns it off), and take it out of the list."
        )
    common = _renamed(experiment)
    if stages:
        common["stages"] = {name: _renamed(part) for name, part in stages.items()}
    return common


def _entries(part: Mapping[str, Any]) -> list[Any]:
    trainer = part.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, Mapping) else None
    return callbacks if isinstance(callbacks, list) else [callbacks]


def _name(entry: object) -> str:
    path = entry.get("class_path") if isinstance(entry, Mapping) else entry
    return str(path).rpartition(".")[2]


def _listed(part: Mapping[str, Any]) -> list[str]:
    return [name for name in map(_name, _entries(part)) if name in _KEYS]


def _renamed(part: Mapping[str, Any]) -> dict[str, Any]:
    """One part of an older experiment; the list that it has is what it wants, so what is not there is off."""
    if not _listed(part):
        return dict(part)
    entries = _entries(part)
    named: dict[str, Any] = {}
    for entry in entries:
        if (key := _KEYS.get(_name(entry))) is not None:
            arguments = dict(entry.get("init_args") or {}) if isinstance(entry, Mapping) else {}
            named[key] = _of_protocol(arguments) if key == "rollout" else arguments
    rest = [entry for entry in entries if _name(entry) not in _KEYS]
    return {**part, "trainer": {**part["trainer"], "callbacks": rest or None}, **named}


def _of_protocol(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `SimulationRollout`, with what a protocol says in a protocol."""
    own = {"num_episodes", "first_seed", "num_workers", "every_n_epochs", "record_episodes", "folder"}
    protocol = {key: value for key, value in arguments.items() if key not in own and value is not None}
    evaluation = {"source": "an older experiment", "episodes_per_task": 50, "first_seed": 200_000, "execute_steps": 16}
    return {
        "protocol": {**evaluation, **protocol},
        **{key: value for key, value in arguments.items() if key in own},
    }
