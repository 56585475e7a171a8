"""What a success rate was measured by: simulator, tasks, episodes and steps, from a file, a checkpoint or options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from simulators import EpisodeSpec, SimulatorConfig, SimulatorError
from videopolicy.errors import CommandError
from videopolicy.experiment.files import nearest

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "protocols"
"""Where `--protocol NAME` looks; a checkout has it beside the packages."""


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol.

    Args:
        name: What it is called.
        source: Where its numbers come from.
        simulator: Simulator, tasks, cameras, step limit and drawing settings.
        episodes_per_task: Episodes of each task.
        first_seed: Seed of every task's first episode.
        execute_steps: Actions executed before the policy is asked again.
        groups: Group name -> tasks that are also reported together.
    """

    name: str
    source: str
    simulator: SimulatorConfig
    episodes_per_task: int
    first_seed: int
    execute_steps: int
    groups: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("episodes_per_task", 1), ("execute_steps", 1), ("first_seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise CommandError(f"protocol {self.name!r}: {name} is {value!r}; it must be a number from {least} on.")

    def with_tasks(self, selection: str | None = None) -> Protocol:
        """Name the tasks, asking the simulator for them.

        Args:
            selection: Task names, or their indices within the protocol, comma separated, or ``all``; None keeps the
                protocol's own tasks.

        Raises:
            SimulatorError: The simulator does not run here.
            CommandError: There is no such task; lists those there are.
        """
        available = replace(self.simulator, tasks=["all"]).check().tasks
        own = available if self.simulator.tasks == ["all"] else self.simulator.tasks
        grouped = [task for members in self.groups.values() for task in members]
        if unknown := sorted({*own, *grouped} - set(available)):
            raise CommandError(
                f"protocol {self.name!r} names tasks {unknown} that {self.simulator.suite} does not have; "
                f"there are {available}."
            )
        tasks = own if selection in (None, "all") else select_tasks(selection or "", own, available)
        return replace(self, simulator=replace(self.simulator, tasks=tasks))

    def episodes(self) -> list[EpisodeSpec]:
        """All episodes, one of each task after the other."""
        return self.simulator.episodes(self.episodes_per_task * len(self.simulator.tasks), self.first_seed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {item.name: getattr(self, item.name) for item in fields(self)} | {"simulator": self.simulator.to_dict()}


def select_tasks(selection: str, own: Sequence[str], available: Sequence[str]) -> list[str]:
    """Tasks from what follows `--tasks`.

    Args:
        selection: Names, or indices into `own`, comma separated.
        own: The protocol's tasks, in order.
        available: Every task of the suite; any may be named.

    Raises:
        CommandError: There is no such task, or one is named twice.
    """
    chosen = []
    for word in (part.strip() for part in selection.split(",")):
        if word.isdigit() and word not in available:
            if int(word) >= len(own):
                listed = ", ".join(f"{index} {task}" for index, task in enumerate(own))
                raise CommandError(f"--tasks {word}: there are {len(own)} tasks: {listed}.")
            word = own[int(word)]
        if word not in available:
            raise CommandError(f"--tasks {word}: no such task; {nearest(word, available)} There are {list(available)}.")
        if word in chosen:
            raise CommandError(f"--tasks: {word} is named twice; name each task once.")
        chosen.append(word)
    return chosen


def protocol_names() -> list[str]:
    """Protocols that `--protocol` knows by name."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_protocol(name: str) -> Path:
    """The file of a protocol, given by name or as a path.

    Raises:
        CommandError: There is none; lists the names.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise CommandError(f"--protocol {name}: no such file.")
        return path
    if not FOLDER.is_dir():
        raise CommandError(
            f"--protocol {name}: {FOLDER} is not there, because the package was installed without its experiments; "
            "give the path of a protocol file, or install from a checkout with pip install -e ."
        )
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        names = protocol_names()
        raise CommandError(
            f"--protocol {name}: no such protocol; {nearest(name, names)} There are {', '.join(names)}; "
            "a file of your own is given with its ending, as in my.yaml."
        )
    return path


def read_protocol(path: Path, image_size: int = 256) -> Protocol:
    """Read a protocol file.

    Args:
        path: The file.
        image_size: Size of a picture where the file leaves it to the policy.

    Raises:
        CommandError: It cannot be read, or a key is missing or unknown.
        SimulatorError: Its simulator section is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CommandError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict):
        raise CommandError(f"{path}: a protocol is a mapping with the keys {_keys(Protocol)}.")
    if "fingerprint" in content and isinstance(content.get("protocol"), dict):  # protocol.json of an evaluation
        content = dict(content["protocol"])
    content.setdefault("name", path.stem)
    _require_keys(path, "", content, Protocol, optional={"groups"})
    section = content["simulator"]
    if not isinstance(section, dict):
        raise CommandError(f"{path}: simulator is {section!r}; it must be a mapping with the keys of SimulatorConfig.")
    _require_keys(path, "simulator.", section, SimulatorConfig, optional=set(_keys(SimulatorConfig)[3:]))
    try:
        return Protocol(**{**content, "simulator": SimulatorConfig(**{"image_size": image_size, **section})})
    except SimulatorError as error:
        raise SimulatorError(f"{path}: {error}") from error


def _keys(cls: type) -> list[str]:
    return [item.name for item in fields(cls)]


def _require_keys(path: Path, prefix: str, content: Mapping[str, Any], cls: type, optional: set[str]) -> None:
    known = _keys(cls)
    for key in content:
        if key not in known:
            raise CommandError(f"{path}: no key {prefix}{key}; {nearest(str(key), known)}")
    if missing := [prefix + key for key in known if key not in content and key not in optional]:
        raise CommandError(f"{path}: {missing} is missing; a protocol has the keys {_keys(Protocol)}.")


def stored_protocol(stored: Mapping[str, Any], name: str) -> Protocol:
    """The protocol that a checkpoint was judged by during training.

    Args:
        stored: What `SimulationRollout` left in the checkpoint.
        name: What to call it.
    """
    simulator = SimulatorConfig(**stored["simulator"])
    tasks = max(len(simulator.tasks), 1)
    return Protocol(
        name=name,
        source="the rollouts of its training",
        simulator=simulator,
        episodes_per_task=-(-stored["num_episodes"] // tasks),
        first_seed=stored["first_seed"],
        execute_steps=stored["execute_steps"],
        groups={group: list(members) for group, members in (stored.get("groups") or {}).items()},
    )


def read_variation(words: Sequence[str]) -> dict[str, float]:
    """Levels of variation from what follows every `--variation`: ``KIND=LEVEL``, or ``KIND`` for level 1.

    Raises:
        CommandError: A level is no number, or a kind comes twice.
    """
    levels: dict[str, float] = {}
    for word in words:
        kind, _, text = word.partition("=")
        try:
            level = float(text) if "=" in word else 1.0
        except ValueError as error:
            raise CommandError(f"--variation {word}: {text!r} is no number; write for instance {kind}=1.5.") from error
        if kind in levels:
            raise CommandError(f"--variation {word}: {kind} is given twice; give each kind once.")
        levels[kind] = level
    return levels
