"""One process a stage: launchers, GPU memory and a crash of one stage stay away from the other."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import FrameType

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1
STAGES_VARIABLE = "VIDEOPOLICY_STAGES"  # tells a stage's process which stages the command runs in all


def run_stages(stages: Sequence[str], arguments: Sequence[str]) -> int:
    """Run the same `lightning` command once a stage, each in a fresh process, until one fails.

    Under torchrun or SLURM every rank does this, so each stage's processes find one another.

    Args:
        stages: Names, in order.
        arguments: The command line without ``--stage``.

    Returns:
        0, or the exit status of the stage that failed.
    """
    for index, stage in enumerate(stages):
        status = run_forwarding_signals(
            [sys.executable, "-m", "videopolicy.lightning_cli", *arguments, "--stage", stage],
            {**stage_environment(index), STAGES_VARIABLE: ",".join(stages)},
        )
        if status != 0:
            return status
    return 0


def stages_of_this_command() -> tuple[str, ...]:
    """The stages of the command whose child this process is; empty if it is nobody's."""
    names = os.environ.get(STAGES_VARIABLE, "")
    return tuple(names.split(",")) if names else ()


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
