"""One stage in this process: trained from where its folder stands, or judged."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from types import FrameType

from files.errors import UserError
from files.writing import write_text
from videopolicy.experiment.config_changes import IDENTITY, Changes, changed_keys, described
from videopolicy.experiment.files import Config
from videopolicy.experiment.launch import settle_rank
from videopolicy.experiment.processes import Order
from videopolicy.experiment.run_directory import StageDirectory, is_rank_zero, limits, write_experiment
from videopolicy.experiment.stage_run import StageRun
from videopolicy.experiment.starting_weights import start_from, starting_weights
from videopolicy.versions import describe_environment


def fit_stage(run: StageRun, order: Order) -> int:
    """Train a stage from where its folder stands; returns the exit status.

    Raises:
        UserError: The folder holds another run, or is in use.
    """
    config, directory = run.composed, run.directory
    settle_rank(config.get("trainer") or {})
    weights = starting_weights(config)
    if directory.stage == "action":
        directory.require_same_handoff(directory.handoff_manifest(config))
    changes = changed_keys(directory.recorded_config() or run.document, run.document)
    if weights is not None:
        run.config.ckpt_path = None  # no optimizer state: where to start, not where to go on
    if message := finished_message(directory, config, changes, goes_on=bool(run.config.ckpt_path)):
        print(message)
        return 0
    resume = directory.last if directory.last.is_file() and not run.config.ckpt_path else None
    if resume is not None:
        require_same_run(directory, changes)
    directory.prepare()
    run.build()
    if weights is not None:
        start_from(run, weights, goes_on=resume is not None)
    if resume is not None and is_rank_zero():
        for key, change in changes.items():
            said = described({key: change})
            print(f"lightning: warning: the run goes on with a changed config: {said}", file=sys.stderr)
        print(f"{directory.stage} stage: going on from {resume}", flush=True)
    run.on_start(partial(record_start, run, order))
    stop_on_interrupt()
    run.execute(resume)
    if is_rank_zero() and run.trainer.state.finished and not run.is_dry_run:
        directory.mark_finished(config, global_step=run.trainer.global_step, epoch=run.trainer.current_epoch)
    return 0


def judge_stage(run: StageRun) -> int:
    """Validate or test with a stage's best checkpoint, or its last, or the one given."""
    settle_rank(run.composed.get("trainer") or {})
    checkpoint = None if run.config.ckpt_path else run.directory.checkpoint()
    run.build()
    run.execute(checkpoint)
    return 0


def finished_message(directory: StageDirectory, config: Config, changes: Changes, goes_on: bool) -> str | None:
    """What to say of a stage that has nothing left to do, or None.

    Raises:
        UserError: It is finished, but not with this config.
    """
    record, stage = directory.finished(), directory.stage
    handed_over = stage != "video" or directory.handoff_manifest(config).is_file()
    if record is None or not handed_over or goes_on:
        return None
    wanted, step = limits(config), record.get("global_step") or 0
    max_steps = wanted.get("max_steps")
    if record["limits"] != wanted:
        if max_steps in (None, -1) or max_steps > step:
            return None  # there are steps to train; `require_same_run` looks at the rest
        raise UserError(
            f"{directory.path}: the {stage} stage has {step} steps behind it, and max_steps is {max_steps}; set "
            f"--stages.{stage}.trainer.max_steps to more to train on, or give another --run_dir."
        )
    if changes:
        raise UserError(
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
        UserError: Class of stage or data, or the seed, is another than the run was started with.
    """
    if other := {key: change for key, change in changes.items() if key in IDENTITY}:
        raise UserError(
            f"{directory.path}: holds the unfinished run of another experiment: {described(other)}. Give another "
            "--run_dir, or set them as they were."
        )


def record_start(run: StageRun, order: Order) -> None:
    """Write the stage's complete config, the composed experiment and the versions that this start depends on."""
    directory = run.directory
    directory.record_config(run.document)
    write_experiment(directory.root, order.experiment)
    if directory.stage == "action":
        directory.record_handoff(directory.handoff_manifest(run.composed))
    environment = describe_environment()
    environment |= {
        "command": ["lightning", *order.arguments],
        "seed": run.config.seed_everything,
        "device": run.trainer.strategy.root_device.type,
        "num_devices": run.trainer.num_devices,
        "world_size": run.trainer.world_size,
    }
    write_text(directory.versions, json.dumps(environment, indent=2))


def stop_on_interrupt() -> None:
    """Turn the first Ctrl-C into SIGTERM, at which a stage saves and ends; the second one ends it at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("Ctrl-C: saving after this step; press it again to stop at once", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, handle)
