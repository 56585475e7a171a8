"""Where demos come from and what they look like, as far as their files say; a checkpoint carries it to `evaluate`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any

import h5py

from datamodules.datamodule import DemoDataModule
from datamodules.demos import DemoEntry
from datamodules.hdf5 import open_demo_file, read_json_attribute, text_of
from datamodules.readers import demo_group

EFFECTS = ("shadows", "reflections", "multisampling")
EVERY_EFFECT = {"shadows": True, "reflections": True, "multisampling": 4}
"""How robosuite draws unless told otherwise: so were the official demos of LIBERO, RoboCasa and robomimic."""
_EPISODE = re.compile(r"/seed(\d+)(?:/init(\d+))?$")
_VERSION_ATTRIBUTES = {
    "repository_version": "robosuite",  # robosuite's own recorder
    "robosuite_version": "robosuite",
    "mujoco_version": "mujoco",
    "robocasa_version": "robocasa",
}


@dataclass
class TaskOrigin:
    """The demos of one task.

    Args:
        num_demos: How many.
        unknown: How many of them do not say which episode they are.
        seeds: Seeds of the episodes of the others.
        init_states: Numbers of their recorded initial states, where the simulator has such.
        instructions: Every wording, once.
        num_with_actions: Of how many the actions are trained on; None in checkpoints that do not say.
    """

    num_demos: int = 0
    unknown: int = 0
    seeds: list[int] = field(default_factory=list)
    init_states: list[int] = field(default_factory=list)
    instructions: list[str] = field(default_factory=list)
    num_with_actions: int | None = None


@dataclass
class DemoOrigin:
    """The demos that a checkpoint was trained on, those held out for validation included.

    Args:
        tasks: Task -> its demos.
        image_sizes: Height and width of their pictures as recorded, in pixels, each once.
        effects: `EFFECTS` that they were drawn with, each combination once; empty if no file says.
        releases: Package of a simulator -> releases that the demos were made with, as far as files say.
    """

    tasks: dict[str, TaskOrigin] = field(default_factory=dict)
    image_sizes: list[int] = field(default_factory=list)
    effects: list[dict[str, Any]] = field(default_factory=list)
    releases: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DemoOrigin:
        """Undo `to_dict`; what an older checkpoint lacks is empty, what a newer one adds is left out."""
        tasks = {task: TaskOrigin(**_known(TaskOrigin, content)) for task, content in values["tasks"].items()}
        return cls(**{**_known(cls, values), "tasks": tasks})


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def origin_of(datamodule: object) -> DemoOrigin | None:
    """Origin of all demos that some stage may learn from; None for data that is no demos of ours.

    The same for every stage and any number of demos with actions, so that all are judged by the same held-out episodes.

    Args:
        datamodule: The data.
    """
    if not isinstance(datamodule, DemoDataModule):
        return None
    return read_origin(datamodule.demos(), datamodule.split(films=False)[0])


def read_origin(demos: Iterable[DemoEntry], with_actions: Collection[DemoEntry] | None = None) -> DemoOrigin:
    """Read the origin of demos from the attributes of their files.

    Args:
        demos: Each once.
        with_actions: Those whose actions are trained on; None: not known.

    Raises:
        UserError: A file or an attribute of it cannot be read.
    """
    origin = DemoOrigin()
    acting = None if with_actions is None else set(with_actions)
    by_path: dict[str, list[DemoEntry]] = {}
    for entry in demos:
        by_path.setdefault(entry.path, []).append(entry)
    for path, entries in by_path.items():
        with open_demo_file(path) as file:
            for entry in entries:
                task = _add(origin, entry, demo_group(file, entry.name))
                if acting is not None:
                    task.num_with_actions = (task.num_with_actions or 0) + (entry in acting)
    return origin


def _add(origin: DemoOrigin, entry: DemoEntry, demo: h5py.Group) -> TaskOrigin:
    """Count one demo in; returns its task."""
    task = origin.tasks.setdefault(_task(entry, demo), TaskOrigin())
    task.num_demos += 1
    _once(task.instructions, entry.instruction)
    episode = _EPISODE.search(_text(demo, "episode"))
    if episode is None:
        task.unknown += 1
    else:
        _once(task.seeds, int(episode[1]))
        if episode[2] is not None:
            _once(task.init_states, int(episode[2]))
    _once(origin.image_sizes, entry.image_size)
    pictures = read_json_attribute(demo, "pictures")  # `videopolicy collect` writes it
    if pictures:
        _once(origin.effects, {name: pictures[name] for name in EFFECTS if name in pictures})
    elif _drawn_by_default(demo):
        _once(origin.effects, dict(EVERY_EFFECT))
    for package, release in _releases(demo):
        _once(origin.releases.setdefault(package, []), release)
    return task


def _drawn_by_default(demo: h5py.Group) -> bool:
    """Whether robosuite drew a demo that states no settings: LIBERO's, RoboCasa's and robomimic's own files."""
    libero, robocasa = "problem_info" in demo.parent.attrs, "lang" in read_json_attribute(demo, "ep_meta")
    return libero or robocasa or "env_version" in read_json_attribute(demo.parent, "env_args")


def _task(entry: DemoEntry, demo: h5py.Group) -> str:
    """The simulator's name of the task: a file of `collect` may hold several, one of LIBERO's names its task file."""
    if task := _text(demo, "task"):
        return task
    bddl = _text(demo, "bddl_file_name") or _text(demo.parent, "bddl_file_name")
    return PurePath(bddl.replace("\\", "/")).stem if bddl else entry.task


def _releases(demo: h5py.Group) -> Iterable[tuple[str, str]]:
    for group in (demo, demo.parent):
        if release := read_json_attribute(group, "env_args").get("env_version"):
            yield "robosuite", str(release)  # robomimic's word for the release of the environment's package
            break
    for attribute, package in _VERSION_ATTRIBUTES.items():
        if release := _text(demo.parent, attribute):
            yield package, release


def _text(group: h5py.Group, name: str) -> str:
    return text_of(group.attrs.get(name, ""))


def _once(values: list[Any], value: Any) -> None:  # noqa: ANN401 - plain values
    if value not in values:
        values.append(value)
