"""The `lightning` command: an experiment's stages, one after the other, each in a process of its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from files.errors import UserError
from videopolicy.experiment.command_line import merged_experiment, parse
from videopolicy.experiment.processes import RUN_STAGE, Order, run_stages

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
    """Compose and check every stage of a command line, and run those that it is about.

    One stage runs in this process. Of several, each runs in a process of its own, which is told what was composed here.

    Raises:
        UserError: The command line, or an experiment file, cannot be used.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    line = None if arguments[0] == RUN_STAGE else parse(arguments)  # a slip in the words is said before heavy imports
    from videopolicy.experiment.fitting import fit_stage, judge_stage
    from videopolicy.experiment.stage_run import StageRun, print_help

    if line is None:
        order, stage = Order.read(Path(arguments[1])), arguments[2]
        return fit_stage(StageRun(order.config(stage)), order)
    if line.help:
        print_help(line.subcommand, line.help)
    experiment = line.experiment()
    running = line.stages(experiment)
    fits = line.subcommand == "fit" and not line.print_config
    every = dict.fromkeys((*(experiment.get("stages") or ()), *running) if fits else running)
    runs = {name: StageRun(line.stage_config(experiment, name, running), line.subcommand) for name in every}
    if line.print_config:
        documents = {name: run.document for name, run in runs.items()}
        whole = documents[running[0]] if len(running) == 1 else merged_experiment(line, experiment, documents)
        print(yaml.safe_dump(whole, sort_keys=False))
        return 0
    if not fits:
        return judge_stage(runs[running[0]])
    order = Order(merged_experiment(line, experiment, {name: runs[name].composed for name in running}), arguments)
    return run_stages(running, order) if len(running) > 1 else fit_stage(runs[running[0]], order)


if __name__ == "__main__":
    sys.exit(main())
