"""One process a stage: exit statuses, signals, environments."""

import os
import sys
from pathlib import Path

import pytest

from videopolicy.experiment.files import join_stages
from videopolicy.experiment.processes import Order, run_forwarding_signals, stage_environment


def status_of(code: str) -> int:
    return run_forwarding_signals([sys.executable, "-c", code], dict(os.environ))


def test_a_childs_exit_status_is_passed_on() -> None:
    assert status_of("import sys; sys.exit(3)") == 3
    assert status_of("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == 128 + 9


def test_what_the_parent_is_told_reaches_the_child_once() -> None:
    code = """
import os, signal, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(0.3)
raise SystemExit(40 + len(told))
"""
    assert status_of(code) == 41


def test_a_child_that_does_not_listen_is_killed_by_the_third_signal() -> None:
    code = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(3):
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(0.2)
time.sleep(60)
"""
    assert status_of(code) == 128 + 9


def test_every_stage_meets_at_a_port_of_its_own_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "29500")
    ports = [stage_environment(index)["MASTER_PORT"] for index in range(2)]
    assert ports == ["29501", "29502"]
    assert stage_environment(0)["TORCHELASTIC_USE_AGENT_STORE"] == "False"
    monkeypatch.delenv("MASTER_PORT")
    assert "MASTER_PORT" not in stage_environment(0)


def test_a_stages_process_gets_the_config_that_was_composed(tmp_path: Path) -> None:
    video = {"data": "D", "trainer": {"max_steps": 3}, "rate": 1e-5, "words": "see notes.yaml"}
    order = Order(join_stages({"video": video, "action": {"data": "D", "taps": None}}), ["fit", "-c", "a.yaml"])
    order.write(tmp_path / "order.yaml")
    read = Order.read(tmp_path / "order.yaml")
    assert read == order
    assert read.config("video") == {**video, "stage": "video"}
    assert read.config("action") == {"data": "D", "taps": None, "stage": "action"}
