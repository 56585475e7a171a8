"""What a success rate was measured by: simulator, tasks, episodes and steps, from a file, a checkpoint or options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from datamodules.demo_origin import DemoOrigin
from files.errors import UserError
from files.nearest import nearest
from rollouts.protocol import RolloutProtocol
from rollouts.survey import Survey
from rollouts.worker_process import check_simulator, survey_simulator
from simulators import EpisodeSpec, SimulatorConfig, SimulatorError
from videopolicy.evaluation.held_out import HeldOut
from videopolicy.evaluation.typed_keys import require_types
from videopolicy.experiment.files import read_part

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "protocols"
"""Where `--protocol NAME` looks; a checkout has it beside the packages."""


@dataclass(frozen=True)
class Protocol(RolloutProtocol):
    """An evaluation protocol: what a file says, and what was found out of the policy that it judges.

    Args:
        held_out: Which of the episodes from `first_seed` on are left out; no key of a file.
        warnings: What a reader of the rates has to know; no key of a file.
        survey: What the simulator's worker said, once it was asked; no key of a file.
        origin: Of the policy's demos, where it knows them; no key of a file.
    """

    held_out: HeldOut = field(default_factory=HeldOut)
    warnings: tuple[str, ...] = ()
    survey: Survey | None = None
    origin: DemoOrigin | None = None

    def with_tasks(self, selection: str | None = None) -> Protocol:
        """Name the tasks, asking the simulator for them.

        Args:
            selection: Task names, or their indices within the protocol, comma separated, or ``all``; None keeps the
                protocol's own tasks.

        Raises:
            SimulatorError: The simulator does not run here, or cannot vary the tasks as asked.
            UserError: There is no such task; lists those there are.
        """
        # without variation: what other tasks of the suite cannot vary is of no concern
        survey = survey_simulator(replace(self.simulator, tasks=["all"], variation={}))
        own = survey.tasks if self.simulator.tasks == ["all"] else self.simulator.tasks
        grouped = [task for members in self.groups.values() for task in members]
        if unknown := sorted({*own, *grouped} - set(survey.tasks)):
            raise UserError(
                f"protocol {self.name!r} names tasks {unknown} that {self.simulator.suite} does not have; "
                f"there are {survey.tasks}."
            )
        tasks = own if selection in (None, "all") else select_tasks(selection or "", own, survey.tasks)
        simulator = replace(self.simulator, tasks=tasks)
        if simulator.variation:
            check_simulator(simulator)
        return replace(self, simulator=simulator, survey=survey)

    def episodes(self) -> list[EpisodeSpec]:
        """All episodes, one of each task after the other."""
        return self.held_out.episodes(self.simulator, self.episodes_per_task, self.first_seed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        kept = {name: getattr(self, name) for name in FILE_KEYS} | {"simulator": self.simulator.to_dict()}
        chosen = "held out" if self.held_out.changes(self.simulator, self.first_seed) else None  # by their seeds alone
        return kept | {"episodes": chosen, "warnings": list(self.warnings)}


FILE_KEYS = tuple(item.name for item in fields(RolloutProtocol))
"""Keys of a protocol file."""


def select_tasks(selection: str, own: Sequence[str], available: Sequence[str]) -> list[str]:
    """Tasks from what follows `--tasks`.

    Args:
        selection: Names, or indices into `own`, comma separated.
        own: The protocol's tasks, in order.
        available: Every task of the suite; any may be named.

    Raises:
        UserError: There is no such task, or one is named twice.
    """
    chosen = []
    for word in (part.strip() for part in selection.split(",")):
        if word.isdigit() and word not in available:
            if int(word) >= len(own):
                listed = ", ".join(f"{index} {task}" for index, task in enumerate(own))
                raise UserError(f"--tasks {word}: there are {len(own)} tasks: {listed}.")
            word = own[int(word)]
        if word not in available:
            raise UserError(f"--tasks {word}: no such task; {nearest(word, available)} There are {list(available)}.")
        if word in chosen:
            raise UserError(f"--tasks: {word} is named twice; name each task once.")
        chosen.append(word)
    return chosen


def protocol_names() -> list[str]:
    """Protocols that `--protocol` knows by name."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_protocol(name: str) -> Path:
    """The file of a protocol, given by name or as a path.

    Raises:
        UserError: There is none; lists the names.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UserError(f"--protocol {name}: no such file.")
        return path
    if not FOLDER.is_dir():
        raise UserError(
            f"--protocol {name}: {FOLDER} is not there, because the package was installed without its experiments; "
            "give the path of a protocol file, or install from a checkout with pip install -e ."
        )
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        names = protocol_names()
        raise UserError(
            f"--protocol {name}: no such protocol; {nearest(name, names)} There are {', '.join(names)}; "
            "a file of your own is given with its ending, as in my.yaml."
        )
    return path


def read_protocol(path: Path, image_size: int = 256) -> Protocol:
    """Read a protocol file, or the ``protocol.json`` of an evaluation, as experiments read their parts.

    Args:
        path: The file.
        image_size: Size of a picture where the file leaves it to the policy.

    Raises:
        UserError: It cannot be read, or a key is missing or unknown.
        SimulatorError: Its simulator section is wrong.
    """
    content: dict[str, Any] = read_part(path)
    if "fingerprint" in content and isinstance(content.get("protocol"), dict):  # protocol.json of an evaluation
        content = {key: value for key, value in content["protocol"].items() if key in FILE_KEYS}
    content.setdefault("name", path.stem)
    _require_keys(path, "", content, FILE_KEYS, optional={"groups", "timeout_s"})
    section = content["simulator"]
    if not isinstance(section, dict):
        raise UserError(f"{path}: simulator is {section!r}; it must be a mapping with the keys of SimulatorConfig.")
    keys = [item.name for item in fields(SimulatorConfig)]
    _require_keys(path, "simulator.", section, keys, optional=set(keys[3:]))
    require_types(path, "", {key: value for key, value in content.items() if key != "simulator"}, RolloutProtocol)
    require_types(path, "simulator.", section, SimulatorConfig)
    try:
        return Protocol(**{**content, "simulator": SimulatorConfig(**{"image_size": image_size, **section})})
    except SimulatorError as error:
        raise SimulatorError(f"{path}: {error}") from error


def _require_keys(
    path: Path, prefix: str, content: Mapping[str, Any], known: Sequence[str], optional: set[str]
) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{path}: no key {prefix}{key}; {nearest(str(key), known)}")
    if missing := [prefix + key for key in known if key not in content and key not in optional]:
        raise UserError(f"{path}: {missing} is missing; a protocol has the keys {list(FILE_KEYS)}.")


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
        timeout_s=stored.get("timeout_s", Protocol.timeout_s),  # an older checkpoint does not say
    )
