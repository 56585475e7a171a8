"""What was typed after `lightning`: a subcommand, experiment files, a stage, a run directory and overrides."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from files.errors import UserError
from files.nearest import nearest
from videopolicy.experiment.files import (
    STAGES,
    Config,
    join_stages,
    load_experiment,
    merge,
    stage_config,
    stage_of,
    stages_of_experiment,
)
from videopolicy.experiment.named_callbacks import concerns
from videopolicy.experiment.override_values import Typed

SUBCOMMANDS = ("fit", "validate", "test")  # no stage has a predict step


@dataclass
class CommandLine:
    """The parsed command line of one `lightning` call.

    Attributes:
        subcommand: One of `SUBCOMMANDS`.
        configs: Files given with ``-c``, left to right.
        overrides: Dotted keys and values; a `Typed` one is read once the config says of what type it is.
        stage: The stage asked for, or None.
        run_dir: The run directory asked for, or None.
        print_config: Print the complete config and stop.
        help: The help option as typed (``--help``, ``--data.help``), or None.
    """

    subcommand: str
    configs: list[str] = field(default_factory=list)
    overrides: list[tuple[str, Any]] = field(default_factory=list)
    stage: str | None = None
    run_dir: str | None = None
    print_config: bool = False
    help: list[str] = field(default_factory=list)

    def experiment(self) -> Config:
        """Read and merge the experiment files.

        Raises:
            UserError: None were given, or one cannot be used.
        """
        if not self.configs:
            raise UserError(
                f"{self.subcommand} needs an experiment: lightning {self.subcommand} -c experiments/lift.yaml."
            )
        experiment = load_experiment(self.configs)
        for key, _ in self.overrides:
            self._require_stage(stage_of(key)[0], experiment, f"--{key}")
        return experiment

    def _require_stage(self, stage: str | None, experiment: Config, said: str) -> None:
        """Refuse what is said of a stage that the experiment does not have."""
        stages = stages_of_experiment(experiment)
        if stage is not None and stage not in stages and experiment.get("stages"):
            raise UserError(f"{said}: {self.configs[0]} has no stage {stage!r}; it has {' and '.join(stages)}.")

    def stages(self, experiment: Config) -> tuple[str, ...]:
        """The stages this call is about: the one asked for, the one the file is of, or all that the subcommand runs."""
        given = self.stage or experiment.get("stage")
        if given is None:
            stages = stages_of_experiment(experiment)
            return stages if self.subcommand == "fit" else stages[-1:]
        if given not in STAGES:
            raise UserError(f"--stage {given}: no such stage; {nearest(str(given), STAGES)}")
        self._require_stage(given, experiment, f"--stage {given}")
        return (given,)

    def run_directory(self, experiment: Config) -> Path:
        """The run directory asked for, the experiment's own, or ``runs/<name of the first file>``."""
        named = self.run_dir or experiment.get("run_dir") or Path("runs") / Path(self.configs[0]).stem
        try:
            return Path(named).expanduser()
        except RuntimeError as error:
            raise UserError(f"--run_dir {named}: there is no home directory; give the whole path.") from error

    def stage_config(self, experiment: Config, stage: str, running: Sequence[str] = ()) -> Config:
        """The composed config of one stage, with its stage and run directory in it.

        Args:
            experiment: What `experiment` gave.
            stage: The stage.
            running: The stages that this call runs, if this is none of them: it then takes only the overrides that
                name it or that concern none of those.
        """

        def concerned(key: str) -> bool:
            target, name = stage_of(key)
            return target == stage or (target is None and not any(concerns(name, other) for other in running))

        overrides = [entry for entry in self.overrides if stage in running or concerned(entry[0])]
        own = [("stage", stage), ("run_dir", str(self.run_directory(experiment)))]  # ${run_dir} may be used in files
        return stage_config(experiment, stage, [*own, *overrides])


def parse(arguments: Sequence[str]) -> CommandLine:
    """Parse the arguments after the program's name.

    Raises:
        UserError: An unknown subcommand, an option without its value, or a stray word.
    """
    if not arguments or arguments[0] not in SUBCOMMANDS:
        given = arguments[0] if arguments else "nothing"
        raise UserError(f"{given}: the first word must be a subcommand; {nearest(given, SUBCOMMANDS)}")
    line = CommandLine(arguments[0])
    rest = list(arguments[1:])
    while rest:
        word = rest.pop(0)
        name, separator, value = word.partition("=")
        if name in ("-h", "--help") or name.endswith(".help"):
            line.help = [word, *rest] if name.endswith(".help") else [word]
            break
        elif name == "--print_config":
            line.print_config = True
        elif not word.startswith("-"):
            raise UserError(f"{word}: not an option; overrides are written --key value, as in --trainer.max_steps 10.")
        else:
            if not separator:
                if not rest or rest[0].startswith("--"):
                    raise UserError(f"{name}: needs a value.")
                value = rest.pop(0)
            _take(line, name, value)
    return line


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    """Declare how verbs other than `lightning` take keys of the experiment."""
    parser.add_argument(
        "overrides", nargs="*", metavar="-- --KEY VALUE", help=f"after --: keys of the experiment, as in -- {example}"
    )


def _take(line: CommandLine, name: str, value: str) -> None:
    if name in ("-c", "--config"):
        line.configs.append(value)
    elif name == "--stage":
        line.stage = value
    elif name == "--run_dir":
        line.run_dir = value
    elif name.startswith("--"):
        key = name[2:]
        if key.endswith("+"):
            raise UserError(f"{name}: nothing is appended to a list; give the whole list with {name[:-1]}.")
        stage_of(key)  # refuses an unknown stage now, whichever stage runs
        line.overrides.append((key, Typed(value)))
    else:
        raise UserError(f"{name}: no such option; see lightning {line.subcommand} --help.")


def merged_experiment(line: CommandLine, experiment: Config, configs: dict[str, Config]) -> Config:
    """One document of all stages: those that run as they run, another as the files say."""
    stages = stages_of_experiment(experiment if experiment.get("stages") else {"stages": configs})
    shared = {"run_dir": str(line.run_directory(experiment))}
    complete = {s: configs.get(s) or stage_config(experiment, s, [*shared.items()]) for s in stages}
    own = ("stage", "run_dir")
    plain = {stage: {k: v for k, v in config.items() if k not in own} for stage, config in complete.items()}
    return merge(shared, join_stages(plain))
