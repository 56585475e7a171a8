"""One process a stage: launchers, GPU memory and a crash of one stage stay away from the other."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import yaml

from videopolicy.experiment.files import Config, stage_config

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1
RUN_STAGE = "run-stage"  # what a stage's process is told first: this, the file with its order, and its name


@dataclass(frozen=True)
class Order:
    """What is to be run, as it was composed and checked.

    Attributes:
        experiment: The experiment with every override and interpolation in it; holds plain values.
        arguments: The command line that asked for it.
    """

    experiment: Config
    arguments: list[str]

    def config(self, stage: str) -> Config:
        """The config of one stage, with its name in it."""
        return stage_config(self.experiment, stage, [("stage", stage)])

    @classmethod
    def read(cls, path: Path) -> Order:
        """Read what `write` wrote."""
        return cls(**yaml.safe_load(path.read_text()))

    def write(self, path: Path) -> None:
        """Write a file for the process of a stage."""
        path.write_text(yaml.safe_dump(asdict(self), sort_keys=False))


def run_stages(stages: Sequence[str], order: Order) -> int:
    """Run each stage in a fresh process, until one fails.

    Under torchrun or SLURM every rank does this, so each stage's processes find one another.

    Returns:
        0, or the exit status of the stage that failed.
    """
    with TemporaryDirectory(prefix="lightning-") as folder:  # a rank's own, and a start that is refused leaves no trace
        path = Path(folder) / "order.yaml"
        order.write(path)
        for index, stage in enumerate(stages):
            command = [sys.executable, "-m", "videopolicy.lightning_cli", RUN_STAGE, str(path), stage]
            status = run_forwarding_signals(command, stage_environment(index))
            if status != 0:
                return status
    return 0


def stage_environment(index: int) -> dict[str, str]:
    """The environment of the n-th stage.

    torchrun's own store keeps the keys of the first stage's process group, at which a second group would hang; so each
    stage meets in a store of its own, at a port of its own.
    """
    environment = dict(os.environ)
    if "MASTER_PORT" in environment:
        environment["MASTER_PORT"] = str(int(environment["MASTER_PORT"]) + 1 + index)
        environment["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    return environment


def run_forwarding_signals(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a process to its end and pass on what this process is told: Ctrl-C, pre-emption, a cluster's warning.

    The child has a session of its own, so that a Ctrl-C reaches it once; if this process is killed outright, the child
    is sent SIGTERM by the kernel, saves and ends. A third signal kills the child and its processes.

    Returns:
        Its exit status; 128 + n where signal n ended it.
    """
    child = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=end_with_parent())

    told = []

    def forward(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if len(told) < 3:
            child.send_signal(number)
        else:  # it does not listen; several ranks that wait for one another may not
            os.killpg(child.pid, signal.SIGKILL)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def end_with_parent() -> Callable[[], None] | None:
    """Something to run in the child before it starts, or None where the kernel offers nothing of the kind."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
