"""The `lightning` command: an experiment's stages, one after the other, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

import yaml

from files.errors import UserError
from files.writing import write_text
from videopolicy.errors import CommandError
from videopolicy.experiment.command_line import CommandLine, merged_experiment, parse
from videopolicy.experiment.config_changes import IDENTITY, Changes, changed_keys, described
from videopolicy.experiment.files import Config
from videopolicy.experiment.processes import run_stages, stages_of_this_command
from videopolicy.experiment.run_directory import (
    StageDirectory,
    is_rank_zero,
    limits,
    write_experiment,
)
from videopolicy.versions import describe_environment

if TYPE_CHECKING:
    from videopolicy.experiment.stage_cli import StageCLI

USAGE = """usage: lightning {fit,validate,test} -c experiments/lift.yaml [options]

  fit        train an experiment: the video stage, the handoff, the action stage (or the joint stage alone); goes on
             where it stopped
  validate   validate a stage's best checkpoint (the last stage's unless --stage says otherwise), rollouts included
  test       the same for testing

options:
  -c FILE                            an experiment; several are merged left to right
  --stage video|action               one stage only (an experiment in one stage has `joint`)
  --run_dir DIR                      where everything is written (default: runs/<name of the first file>)
  --trainer.max_steps 10             override a key, in every stage that runs
  --stages.video.trainer.max_steps 10    override it in one stage
  --rollout.num_episodes 20          the same of our callbacks (rollout, features, averaging, videos, compile)
  --rollout null                     turn one off
  --print_config                     print the complete config, which -c takes, and stop

`lightning fit --help` lists every key; `lightning fit --data.help RobosuiteDataModule` those of a class."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lightning ARGUMENTS`; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(given)
    except Exception as error:
        if not is_users_mistake(error):
            raise
        print(f"lightning: {error}", file=sys.stderr)
        return 2
    except SystemExit as ended:
        if type(ended).__name__ != "SIGTERMException":  # Lightning's, which would end the process with status 0
            raise
        print("lightning: stopped by a signal; the same command goes on from the last checkpoint", file=sys.stderr)
        return 128 + signal.SIGTERM


def is_users_mistake(error: BaseException) -> bool:
    """Whether an error's message is one sentence for the user, so that a traceback would only hide it."""
    from simulators.errors import SimulatorError  # brings numpy, which only an error is worth

    lightnings = "MisconfigurationException"  # by its name: importing Lightning takes seconds
    return isinstance(error, UserError | SimulatorError) or type(error).__name__ == lightnings


def run(arguments: list[str]) -> int:
    """Dispatch a command line.

    Raises:
        CommandError: It, or an experiment file, cannot be used.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    line = parse(arguments)
    if line.help:
        from videopolicy.experiment.stage_cli import print_help

        print_help([line.subcommand, *line.help])
    experiment = line.experiment()
    stages = line.stages(experiment)
    if line.print_config:
        print(config_text(line, experiment, stages))
        return 0
    if len(stages) > 1:
        return run_stages(stages, arguments)
    if line.subcommand == "fit":
        return fit(line, experiment, stages[0])
    return judge(line, experiment, stages[0])


def config_text(line: CommandLine, experiment: Config, stages: Sequence[str]) -> str:
    """The complete experiment, defaults included, as YAML that `-c` takes."""
    from videopolicy.experiment.stage_cli import StageCLI

    documents = {}
    for stage in stages:
        config = line.stage_config(experiment, stage)
        documents[stage] = StageCLI(line.subcommand, config, instantiate=False).config_document
    if len(stages) == 1:
        return yaml.safe_dump(documents[stages[0]], sort_keys=False)
    return yaml.safe_dump(merged_experiment(line, experiment, documents), sort_keys=False)


# --- one stage --------------------------------------------------------------------------------------------------------


def fit(line: CommandLine, experiment: Config, stage: str) -> int:
    """Train one stage in this process, from where its folder stands."""
    from videopolicy.experiment.launch import settle_rank
    from videopolicy.experiment.stage_cli import StageCLI
    from videopolicy.experiment.starting_weights import start_from, starting_weights

    running = stages_of_this_command() or (stage,)
    documents = {}
    for name in dict.fromkeys((*(experiment.get("stages") or ()), stage)):  # a slip in stage 2 is said before stage 1
        composed = line.stage_config(experiment, name, running)
        documents[name] = StageCLI("fit", composed, instantiate=False).config_document
    given = config = line.stage_config(experiment, stage)
    settle_rank(config.get("trainer") or {})
    if (weights := starting_weights(config)) is not None:
        config = {**config, "ckpt_path": None}  # no optimizer state: where to start, not where to go on
    directory = StageDirectory(line.run_directory(experiment), stage)
    if stage == "action":
        directory.require_same_handoff(directory.handoff_manifest(config))
    changes = changed_keys(directory.recorded_config() or documents[stage], documents[stage])
    if message := finished_message(directory, config, changes):
        print(message)
        return 0
    resume = directory.last if directory.last.is_file() and not config.get("ckpt_path") else None
    if resume is not None:
        require_same_run(directory, changes)
    directory.prepare()
    cli = StageCLI("fit", config)
    if weights is not None:
        start_from(cli, weights, goes_on=resume is not None)
    if resume is not None and is_rank_zero():
        for key, change in changes.items():
            said = described({key: change})
            print(f"lightning: warning: the run goes on with a changed config: {said}", file=sys.stderr)
        print(f"{stage} stage: going on from {resume}", flush=True)
    cli.on_start(partial(record_start, line, experiment, directory, given, cli))
    stop_on_interrupt()
    cli.execute(resume)
    if is_rank_zero() and cli.trainer.state.finished and not cli.is_dry_run:
        directory.mark_finished(config, global_step=cli.trainer.global_step, epoch=cli.trainer.current_epoch)
    return 0


def judge(line: CommandLine, experiment: Config, stage: str) -> int:
    """Validate or test with a stage's best checkpoint, or its last, or the one given."""
    from videopolicy.experiment.launch import settle_rank

    config = line.stage_config(experiment, stage)
    settle_rank(config.get("trainer") or {})
    directory = StageDirectory(line.run_directory(experiment), stage)
    checkpoint = None if config.get("ckpt_path") else directory.checkpoint()
    from videopolicy.experiment.stage_cli import StageCLI

    StageCLI(line.subcommand, config).execute(checkpoint)
    return 0


def finished_message(directory: StageDirectory, config: Config, changes: Changes) -> str | None:
    """What to say of a stage that has nothing left to do, or None.

    Raises:
        CommandError: It is finished, but not with this config.
    """
    record, stage = directory.finished(), directory.stage
    handed_over = stage != "video" or directory.handoff_manifest(config).is_file()
    if record is None or not handed_over or config.get("ckpt_path"):
        return None
    wanted, step = limits(config), record.get("global_step") or 0
    max_steps = wanted.get("max_steps")
    if record["limits"] != wanted:
        if max_steps in (None, -1) or max_steps > step:
            return None  # there are steps to train; `require_same_run` looks at the rest
        raise CommandError(
            f"{directory.path}: the {stage} stage has {step} steps behind it, and max_steps is {max_steps}; set "
            f"--stages.{stage}.trainer.max_steps to more to train on, or give another --run_dir."
        )
    if changes:
        raise CommandError(
            f"{directory.path}: the {stage} stage was finished after {step} steps with another config, so nothing was "
            f"trained: {described(changes)}. To train with these settings give another --run_dir; to keep what is "
            "there set them as they were."
        )
    reached = ", ".join(f"{name} {value}" for name, value in record["limits"].items()) or "its limit"
    return (
        f"{stage} stage: finished after {record.get('global_step')} steps ({reached}): {directory.last}. "
        f"To train on, raise --stages.{stage}.trainer.max_steps; to start over, give another --run_dir."
    )


def require_same_run(directory: StageDirectory, changes: Changes) -> None:
    """Refuse to go on with another experiment's stage.

    Raises:
        CommandError: Class of stage or data, or the seed, is another than the run was started with.
    """
    if other := {key: change for key, change in changes.items() if key in IDENTITY}:
        raise CommandError(
            f"{directory.path}: holds the unfinished run of another experiment: {described(other)}. Give another "
            "--run_dir, or set them as they were."
        )


def record_start(
    line: CommandLine, experiment: Config, directory: StageDirectory, config: Config, cli: StageCLI
) -> None:
    """Write the stage's complete config, the merged experiment and the versions that this start depends on."""
    directory.record_config(cli.config_document)
    write_experiment(directory.root, merged_experiment(line, experiment, {directory.stage: config}))
    if directory.stage == "action":
        directory.record_handoff(directory.handoff_manifest(config))
    environment = describe_environment()
    environment |= {
        "seed": cli.config.seed_everything,
        "device": cli.trainer.strategy.root_device.type,
        "num_devices": cli.trainer.num_devices,
        "world_size": cli.trainer.world_size,
    }
    write_text(directory.versions, json.dumps(environment, indent=2))


def stop_on_interrupt() -> None:
    """Turn the first Ctrl-C into SIGTERM, at which a stage saves and ends; the second one ends it at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("Ctrl-C: saving after this step; press it again to stop at once", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, handle)


if __name__ == "__main__":
    sys.exit(main())
