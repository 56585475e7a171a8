"""Our side of the border: start a worker process, talk to it, and get rid of it."""

from __future__ import annotations

import difflib
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import simulators
from rollouts.survey import Survey
from simulators import wire
from simulators.catalogue import advice
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError, WorkerDied


class WorkerProcess:
    """One simulator in its own process.

    A request is sent with `send`; its answer is fetched with `receive` once `fileno()` is readable.

    Args:
        config: What the worker simulates, and with which interpreter.
    """

    def __init__(self, config: SimulatorConfig) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self._socket, theirs = socket.socketpair()
        paths = [] if config.python else sys.path  # another interpreter has paths of its own
        folder = Path(simulators.__file__).resolve().parent
        start = [config.interpreter, str(folder / "bootstrap.py"), str(folder)]
        command = [*start, str(theirs.fileno()), json.dumps(paths)]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for us; we close the worker
            )
        except OSError as error:
            self._socket.close()
            self._log.close()
            raise SimulatorError(
                f"simulator {config.name!r}: cannot start its Python {config.interpreter!r} ({error.strerror}); "
                f"{advice(config.interpreter)}."
            ) from error
        finally:
            theirs.close()
        try:
            wire.send(self._socket, config.to_dict())
        except OSError as error:
            raise self._death("went away at start") from error

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    def fileno(self) -> int:
        """For selectors: readable when an answer is there."""
        return self._socket.fileno()

    def send(self, verb: str, **arguments: object) -> None:
        """Send a request without waiting.

        Raises:
            WorkerDied: If the worker is gone.
        """
        try:
            wire.send(self._socket, {"verb": verb, "arguments": arguments})
        except OSError as error:
            raise self._death(f"went away before {verb!r}") from error

    def receive(self, timeout_s: float) -> Any:  # noqa: ANN401 - the verb's own type
        """Wait for the answer to the last request.

        Raises:
            SimulatorError: If the worker says that the user made a mistake.
            WorkerDied: If the worker crashed, raised, or did not answer in time; it is of no use afterwards.
        """
        self._socket.settimeout(timeout_s)
        try:
            reply = wire.receive(self._socket)
        except TimeoutError as error:
            raise self._death(f"gave no answer within {timeout_s:.0f} s") from error
        except OSError as error:
            raise self._death("went away") from error
        finally:
            self._socket.settimeout(None)
        if "mistake" in reply:
            raise SimulatorError(reply["mistake"])
        if "crash" in reply:
            raise WorkerDied(f"worker {self.pid} raised {reply['crash']}\n{reply['traceback']}")
        return reply["value"]

    def hung(self) -> WorkerDied:
        """The error to record when a deadline has passed."""
        return self._death("gave no answer in time")

    def _death(self, reason: str) -> WorkerDied:
        try:
            ending = f" (exit code {self._process.wait(0.2)})"
        except subprocess.TimeoutExpired:
            ending = ""
        return WorkerDied(f"worker {self.pid} {reason}{ending}{self._last_words()}")

    def _last_words(self, num_chars: int = 600) -> str:
        """End of what the worker printed."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(size - num_chars, 0))
        text = self._log.read().decode(errors="replace").strip()
        return f"; it last printed: {text}" if text else ""

    def close(self, grace_s: float = 5.0) -> None:
        """Let the worker finish by closing the connection; kill it if it does not."""
        self._socket.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()
        self.close()


def no_start(config: SimulatorConfig, death: WorkerDied) -> SimulatorError:
    """One sentence for a worker that died before its first answer: the reason, and the last line that it printed."""
    reason, *printed = str(death).split("; it last printed: ", 1)
    said = f" and printed {printed[0].splitlines()[-1]!r}" if printed else ""
    reason = reason.splitlines()[0].partition(" ")[2].partition(" ")[2]  # without "worker 4711"
    if reason.startswith("raised"):
        return SimulatorError(f"simulator {config.name!r}: its worker under {config.interpreter!r} {reason}.")
    return SimulatorError(
        f"simulator {config.name!r}: {config.interpreter!r} does not start a worker: it {reason}{said}; "
        "set `python` to an interpreter that has the simulator, or leave it out."
    )


def ask_once(config: SimulatorConfig, verb: str, timeout_s: float = 300.0, **arguments: object) -> Any:  # noqa: ANN401
    """Start a worker for one question.

    Raises:
        SimulatorError: The worker says that the user made a mistake, or does not live to answer.
    """
    worker = None
    try:
        worker = WorkerProcess(config)
        worker.send(verb, **arguments)
        return worker.receive(timeout_s)
    except WorkerDied as error:
        raise no_start(config, error) from error
    finally:
        if worker is not None:
            worker.close()


def survey_simulator(config: SimulatorConfig, timeout_s: float = 300.0) -> Survey:
    """Ask a fresh worker what it has and compare the config's tasks with it.

    Raises:
        SimulatorError: See `check_simulator`.
    """
    found = Survey(**ask_once(config, "survey", timeout_s))
    unknown = [] if config.tasks == ["all"] else [task for task in config.tasks if task not in found.tasks]
    if unknown:
        near = difflib.get_close_matches(unknown[0], found.tasks, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SimulatorError(f"{config.suite} has no task {unknown}; there are {found.tasks}.{hint}")
    words = {task: words for task, words in found.instructions.items() if task not in config.instructions}
    return replace(found, instructions={**words, **config.instructions})


def check_simulator(config: SimulatorConfig) -> SimulatorConfig:
    """Start one worker and ask it whether it could run every task; takes as long as importing the simulator.

    Returns:
        The config, with `["all"]` replaced by the names of the tasks.

    Raises:
        SimulatorError: Not installed, unknown task or camera, no OpenGL, or no such interpreter.
    """
    available = survey_simulator(config).tasks
    return replace(config, tasks=available) if config.tasks == ["all"] else config
