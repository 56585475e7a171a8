"""`videopolicy demo` with tiny networks, the counting simulator and a handful of demos: the table, and going on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from rollouts import EpisodeResult, ResultsFile
from videopolicy import demo
from videopolicy.main import main

from .conftest import ROOT, environment, tiny_overlay

POLICIES = ["trained", "without_stage1", "untrained", "replay"]
COLLECT = [
    *("--simulator", "counting_simulator:CountingSimulator", "--suite", "counting", "--task", "up"),
    *("--image-size", "16", "--workers", "1", "--options", '{"goal": 8, "action_dim": 7}', "--max-steps", "16"),
]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """What to lay over lift.yaml so that the demo takes seconds a stage."""
    overlay = tiny_overlay(ROOT / "experiments" / "lift.yaml", tmp_path / "unused.hdf5", steps=1)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(overlay))
    return path


@pytest.fixture
def command(tmp_path: Path, tiny: Path) -> Callable[..., list[str]]:
    """The demo's command line, with its demos from the counting simulator."""

    def words(*options: str) -> list[str]:
        code = (
            "import sys; from videopolicy import demo, main; demo.NUM_DEMOS = 4; "
            f"demo.COLLECT = {COLLECT!r}; sys.exit(main.main(['demo', *sys.argv[1:]]))"
        )
        script = tmp_path / "small_demo.py"  # a file, for the controls' process imports what starts it
        script.write_text(f"if __name__ == '__main__':\n    {code}\n")
        return [sys.executable, str(script), "--run-dir", str(tmp_path / "run"), "--episodes", "2", *options]

    return words


def finish(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=400)


def outcomes(run: Path) -> dict[str, dict[str, object]]:
    """Policy -> episode -> what it did."""
    files = {name: ResultsFile(run / "rollouts" / name / "results.jsonl") for name in POLICIES}
    return {
        name: {key: (result.success, result.steps, result.replans) for key, result in file.load().items()}
        for name, file in files.items()
    }


def episodes(outcomes: str) -> list[EpisodeResult]:
    """An episode a letter: s solved, f failed, - could not be run."""
    said = {"s": True, "f": False, "-": None}
    return [EpisodeResult("robosuite", "Lift", seed, None, said[mark]) for seed, mark in enumerate(outcomes)]


@pytest.mark.parametrize(("replay", "status"), [("sffs", 0), ("----", 1)])
def test_the_demo_ends_with_its_table_as_one_line_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], replay: str, status: int
) -> None:
    results = {"trained": "sss-", "without_stage1": "ssff", "untrained": "ffff", "replay": replay}
    found = {name: episodes(outcomes) for name, outcomes in results.items()}
    monkeypatch.setattr(demo, "_results", lambda *_: found)
    assert main(["demo", "--run-dir", str(tmp_path)]) == status
    lines = capsys.readouterr().out.splitlines()
    numbers = json.loads(lines[-1])
    assert list(numbers) == [*POLICIES, "minutes"]
    assert numbers["trained"] == {"successes": 3, "episodes": 3}  # what could not be run is neither
    assert numbers["without_stage1"] == {"successes": 2, "episodes": 4}
    assert numbers["untrained"] == {"successes": 0, "episodes": 4}
    assert numbers["replay"] == {"successes": replay.count("s"), "episodes": 4 - replay.count("-")}
    for name, row in (("trained", "3/3"), ("without_stage1", "2/4"), ("untrained", "0/4")):
        assert any(re.search(rf"\b{name}\b.*\b{row}\b", line) for line in lines)


def test_ctrl_c_says_that_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_results", interrupted)
    assert main(["demo", "--run-dir", str(tmp_path)]) == 130
    assert capsys.readouterr().out.splitlines()[-1] == "stopped; the same command goes on"


@pytest.mark.slow
def test_the_demo_stopped_half_way_goes_on_to_its_table_and_a_third_run_repeats_nothing(
    tmp_path: Path, tiny: Path, command: Callable[..., list[str]]
) -> None:
    run = tmp_path / "run"
    words = command("--override", "-c", str(tiny), "--trainer.max_steps", "2")
    process = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for(lambda: (run / "trained" / "video" / "finished.json").is_file(), process)
    process.kill()
    process.wait()
    wait_for(lambda: not living("small_demo.py", str(run)))  # nothing is left of it that holds the run directory

    done = finish(words, tmp_path)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    numbers = json.loads(done.stdout.splitlines()[-1])
    assert list(numbers) == [*POLICIES, "minutes"]
    assert all(numbers[name] == {"successes": 0, "episodes": 2} for name in POLICIES)  # the goal is out of reach
    for name in POLICIES:
        assert re.search(rf"\b{name}\b.*\b0/2\b", done.stdout)  # its row of the table
        assert json.loads((run / "rollouts" / name / "protocol.json").read_text())["protocol"]["first_seed"] == 200_000
        assert len(outcomes(run)[name]) == 2
    for stage in ("video", "action"):  # what follows --override reached both trainings
        for training in ("trained", "without_stage1"):
            checkpoint = run / training / stage / "checkpoints" / "last.ckpt"
            if checkpoint.is_file():
                assert torch.load(checkpoint, weights_only=False)["global_step"] == 2

    before = outcomes(run)
    again = finish(command("--", "-c", str(tiny), "--trainer.max_steps", "2"), tmp_path)  # `--` is the same
    assert json.loads(again.stdout.splitlines()[-1])["trained"] == numbers["trained"]
    assert "2 of 2 episodes are already in" in again.stdout
    assert outcomes(run) == before

    checkpoint = run / "without_stage1" / "action" / "checkpoints" / "last.ckpt"
    policy = json.loads((run / "rollouts" / "untrained" / "protocol.json").read_text())["policy"]
    assert (policy["kind"], policy["path"]) == ("untrained", str(checkpoint.resolve()))
    replayed = json.loads((run / "rollouts" / "replay" / "protocol.json").read_text())["policy"]
    assert replayed["path"].endswith("demos.hdf5")


@pytest.mark.slow
def test_ctrl_c_while_controls_roll_out_ends_the_demo_at_once(
    tmp_path: Path, tiny: Path, command: Callable[..., list[str]]
) -> None:
    overlay = yaml.safe_load(tiny.read_text())
    simulator = overlay["rollout"]["protocol"]["simulator"]
    simulator["options"] |= {"delay_s": 0.3}
    simulator["max_steps"] = 60
    tiny.write_text(yaml.safe_dump(overlay))
    words = [*command(), "--episodes", "50", "--", "-c", str(tiny)]
    with (tmp_path / "out.txt").open("w") as stream:
        process = subprocess.Popen(
            words, cwd=tmp_path, env=environment(), stdout=stream, stderr=stream, start_new_session=True
        )
    rollouts = tmp_path / "run" / "rollouts"
    wait_for(lambda: {path.name for path in rollouts.glob("*")} >= {"trained", "without_stage1"}, process)
    time.sleep(2)
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    assert process.wait(60) == 130, (tmp_path / "out.txt").read_text()
    assert time.monotonic() - start < 20
    printed = (tmp_path / "out.txt").read_text()
    assert "stopped; the same command goes on" in printed
    assert "Traceback" not in printed
    assert not living("small_demo.py", str(tmp_path / "run"))


def wait_for(there: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert process is None or process.poll() is None, "the demo ended early"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def living(*words: str) -> list[str]:
    """Command lines of processes that name all words, those of this test apart."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(line)
    return found


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--episodes", "0"], "--episodes 0: must be 1 or more"),
        (["--", "max_steps"], "max_steps: not an option"),
        (["--override", "--trainer.max_steps"], "--trainer.max_steps: needs a value"),
        (["--override", "-c", "gone.yaml"], "gone.yaml"),
        (["--", "--stages.sideways.trainer.max_steps", "3"], "sideways"),
        (["--run-dir", "file/run"], "--run-dir file/run: cannot be made"),
    ],
)
def test_a_slip_is_one_sentence_before_anything_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    options: list[str], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(demo, "run_command", lambda *_, **__: pytest.fail("something was started"))
    assert main(["demo", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
