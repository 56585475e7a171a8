"""kill -9 on a whole evaluation, with the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

WAIT_S = 120.0


def write_protocol(path: Path) -> None:
    simulator = {
        "name": "counting_simulator:CountingSimulator",
        "suite": "counting",
        "tasks": ["up", "down"],
        "cameras": ["left"],
        "max_steps": 20,
        "options": {"goal": 8.0, "delay_s": 0.1},
    }
    content = {"source": "here", "simulator": simulator, "episodes_per_task": 8, "first_seed": 0, "execute_steps": 4}
    path.write_text(yaml.safe_dump(content))


def lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a results file."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def outcomes(path: Path) -> list[tuple[str, int, bool, int]]:
    return sorted((line["task"], line["seed"], line["success"], line["steps"]) for line in lines(path))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_killed_run_loses_only_what_was_in_flight_and_goes_on(
    tmp_path: Path, start_python: Callable[..., subprocess.Popen[bytes]]
) -> None:
    write_protocol(tmp_path / "toy.yaml")
    common = ("videopolicy.main", "evaluate", "--protocol", "toy.yaml", "--policy", "random", "--videos", "0")
    output = tmp_path / "out" / "results.jsonl"
    killed = start_python(*common, "--output", "out")
    wait_for(lambda: len(lines(output)) >= 3)
    workers = children(killed.pid)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = lines(output)
    assert 3 <= len(before) < 16
    wait_for(lambda: not any(map(is_alive, workers)))  # nobody is left behind

    assert start_python(*common, "--output", "out").wait(WAIT_S) == 0
    after = lines(output)
    assert after[: len(before)] == before
    assert len({(line["task"], line["seed"]) for line in after}) == len(after) == 16
    assert json.loads((output.parent / "results.json").read_text())["total"]["episodes"] == 16

    assert start_python(*common, "--output", "undisturbed", "--workers", "1").wait(WAIT_S) == 0
    assert outcomes(output) == outcomes(tmp_path / "undisturbed" / "results.jsonl")
