"""What `videopolicy demo` compares its policy with, in a process of its own; and what both sides of the demo share."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TextIO

import torch
from rich.console import Console

from files.errors import UserError
from rollouts import EpisodeResult
from videopolicy.evaluation.prepared import prepare
from videopolicy.evaluation.request import EvaluationRequest
from videopolicy.evaluation.run import evaluate
from videopolicy.experiment.processes import end_with_parent

CONTROLS = ("without_stage1", "untrained", "replay")


@dataclass(frozen=True)
class ControlsPlan:
    """What the controls need to know.

    Args:
        run_dir: The demo's folder.
        demos: The demo file.
        episodes: Held-out episodes a policy.
        fit: The training's command without its run directory.
        common: What both trainings are told.
    """

    run_dir: Path
    demos: Path
    episodes: int
    fit: tuple[str, ...]
    common: tuple[str, ...]

    @property
    def log(self) -> Path:
        """Where all that is printed goes."""
        return self.run_dir / "without_stage1.log"


class Controls:
    """What the policy is compared with, trained and rolled out on the second core while the policy trains.

    (b) the same policy with stage 1 left out, (c) networks that were not trained at all, (d) blind replay of demos.
    They run in a process of their own, which an error or Ctrl-C here ends at once.
    """

    def __init__(self, plan: ControlsPlan) -> None:
        self.plan = plan
        context = multiprocessing.get_context("spawn")
        self._receiver, self._sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_run_controls, args=(plan, self._sender), name="controls")

    def is_running(self) -> bool:
        """Whether they are under way."""
        return self._process.is_alive()

    def results(self) -> dict[str, list[EpisodeResult]]:
        """Wait for them: control -> its episodes.

        Raises:
            UserError: They failed.
        """
        try:
            results: dict[str, list[EpisodeResult]] = self._receiver.recv()
        except EOFError:
            raise UserError(f"the controls failed; what they printed is in {self.plan.log}.") from None
        return results

    def __enter__(self) -> Controls:
        self._process.start()
        self._sender.close()  # theirs alone now, so that their end is noticed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.terminate()
        self._process.join()


def _run_controls(plan: ControlsPlan, sender: Connection) -> None:
    """Train (b), then roll (b), (c) and (d) out; runs in the controls' process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is under way is ended too
    if (ask := end_with_parent()) is not None:
        ask()
    torch.set_num_threads(1)
    with plan.log.open("w") as stream, redirect_stdout(stream), redirect_stderr(stream):
        try:
            run_command(*plan.fit, "--run_dir", str(plan.run_dir / "without_stage1"), *plan.common, output=stream)
            sender.send({name: _roll_out_control(plan, name) for name in CONTROLS})
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)


def _roll_out_control(plan: ControlsPlan, name: str) -> list[EpisodeResult]:
    checkpoint = last_checkpoint(plan.run_dir / "without_stage1")
    output = plan.run_dir / "rollouts" / name
    if name == "without_stage1":
        return roll_out(checkpoint, output, plan.episodes)
    control = EvaluationRequest(checkpoint, policy="untrained")
    if name == "replay":
        control = EvaluationRequest(checkpoint, policy="replay", demos=plan.demos)
    return roll_out(checkpoint, output, plan.episodes, control)


def last_checkpoint(run_dir: Path) -> Path:
    """Where a run leaves the policy."""
    return run_dir / "action" / "checkpoints" / "last.ckpt"


def roll_out(
    checkpoint: Path,
    output: Path,
    num_episodes: int,
    control: EvaluationRequest | None = None,
    console: Console | None = None,
) -> list[EpisodeResult]:
    """Held-out episodes of the task that a checkpoint was rolled out on during training.

    Args:
        checkpoint: Of the policy, or of the training that the control's episodes are like.
        output: The results directory.
        num_episodes: Of the task.
        control: What acts in place of the checkpoint's own policy.
        console: Where progress is shown.
    """
    asked = control or EvaluationRequest(checkpoint)
    request = replace(asked, episodes=num_episodes, device="cpu", workers=1 if console is None else 2)
    return evaluate(prepare(request), request, output, console)


def run_command(module: str, *arguments: str, output: TextIO | None = None) -> None:
    """Run a command of ours to its end.

    Raises:
        UserError: It failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # two processes, two cores
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, preexec_fn=end_with_parent())
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
        name = {"videopolicy.main": "videopolicy", "videopolicy.lightning_cli": "lightning"}[module]
        raise UserError(f"`{shlex.join([name, *arguments])}` failed with exit code {code}; see above.")
