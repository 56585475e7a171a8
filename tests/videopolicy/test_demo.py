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

from rollouts import ResultsFile
from videopolicy import demo
from videopolicy.main import main
from videopolicy.studies.outcome import Outcome
from videopolicy.studies.results import Level, RunResult
from videopolicy.studies.runs import Run
from videopolicy.studies.schedule import Task

from .conftest import ROOT, environment, tiny_overlay

POLICIES = ["trained", "without_stage1", "baseline", "replay"]
ROWS = {
    "trained": {},
    "without_stage1": {"overlays": [str(ROOT / "experiments" / "controls" / "without_stage1.yaml")]},
    "replay": {"policy": "replay"},
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The demo's study with tiny networks on the counting simulator."""
    overlay = tiny_overlay(ROOT / "experiments" / "lift.yaml", tmp_path / "unused.hdf5", steps=2)
    protocol = {"source": "here", "episodes_per_task": 9, "first_seed": 200_000, **overlay.pop("rollout")["protocol"]}
    protocol["simulator"] |= {"cameras": ["agentview", "robot0_eye_in_hand"], "max_steps": 16}
    protocol["simulator"]["options"] = {"goal": 8, "action_dim": 7}
    content = {
        "experiment": str(ROOT / "experiments" / "lift.yaml"),
        "overrides": {**overlay, "rollout": None, "videos": None},
        "protocol": protocol,
        "episodes": 2,
        "videos": 1,
        "seeds": [0],
        "action_demos": [1],
        "rows": ROWS,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def command(tmp_path: Path, study: Path) -> Callable[..., list[str]]:
    """The demo's command line for that study."""

    def words(*options: str) -> list[str]:
        code = (
            "import sys; from pathlib import Path; from videopolicy import demo, main; demo.DEMOS_A_TASK = 4; "
            f"demo.STUDY = Path({str(study)!r}); sys.exit(main.main(['demo', *sys.argv[1:]]))"
        )
        script = tmp_path / "small_demo.py"
        script.write_text(f"if __name__ == '__main__':\n    {code}\n")
        return [sys.executable, str(script), "--run-dir", str(tmp_path / "run"), *options]

    return words


def finish(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=400)


def place(run: Path, name: str) -> Path:
    """Where a policy's evaluation lies."""
    return run / "runs" / name / "k1" / "seed0" / "evaluations" / "standard_0"


def outcomes(run: Path) -> dict[str, dict[str, object]]:
    """Policy -> episode -> what it did."""
    files = {name: ResultsFile(place(run, name) / "results.jsonl") for name in ROWS}
    return {
        name: {key: (result.success, result.steps, result.replans) for key, result in file.load().items()}
        for name, file in files.items()
    }


def result(row: str, outcomes: str) -> RunResult:
    """An episode a letter: s solved, f failed, - could not be run."""
    said = {"s": True, "f": False, "-": None}
    solved = {str(seed): said[mark] for seed, mark in enumerate(outcomes)}
    return RunResult(row, 1, 3, "f", None, [Level(0.0, {"drawer-open-v3": solved})])


@pytest.mark.parametrize(("replay", "status"), [("sffs", 0), ("----", 1)])
def test_the_demo_ends_with_its_table_as_one_line_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], replay: str, status: int
) -> None:
    marks = dict(zip(POLICIES, ("sss-", "ssff", "ffff", replay), strict=True))

    def carry_out(outcome: Outcome, runs: list[Run], *_: object) -> list[Task]:
        assert [(run.row, run.seed, run.action_demos) for run in runs] == [(name, 3, 1) for name in POLICIES]
        assert outcome.study.episodes == 4
        outcome.complete = {run.fingerprint: result(run.row, marks[run.row]) for run in runs}
        return []

    monkeypatch.setattr(demo, "collect", lambda *_: None)
    monkeypatch.setattr(demo, "carry_out", carry_out)
    assert main(["demo", "--run-dir", str(tmp_path), "--seed", "3", "--episodes", "4"]) == status
    lines = capsys.readouterr().out.splitlines()
    numbers = json.loads(lines[-1])
    assert list(numbers) == [*POLICIES, "action_demos", "minutes"]
    assert numbers["action_demos"] == 1
    assert numbers["trained"] == {"successes": 3, "episodes": 3}  # what could not be run is neither
    assert numbers["without_stage1"] == {"successes": 2, "episodes": 4}
    assert numbers["baseline"] == {"successes": 0, "episodes": 4}
    assert numbers["replay"] == {"successes": replay.count("s"), "episodes": 4 - replay.count("-")}
    for name, row in (("trained", "3/3"), ("without_stage1", "2/4"), ("baseline", "0/4")):
        assert any(re.search(rf"\b{name}\b.*\b{row}\b", line) for line in lines)


def test_ctrl_c_says_that_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "collect", interrupted)
    assert main(["demo", "--run-dir", str(tmp_path)]) == 130
    assert capsys.readouterr().out.splitlines()[-1] == "stopped; the same command goes on"


@pytest.mark.slow
def test_the_demo_stopped_half_way_goes_on_to_its_table_and_a_third_run_repeats_nothing(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    run = tmp_path / "run"
    longer = tmp_path / "longer.yaml"
    longer.write_text("stages: {video: {trainer: {max_steps: 3}}, action: {trainer: {max_steps: 3}}}")
    words = command("-c", str(longer))
    process = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for(lambda: any(run.glob("stage1/*/video/finished.json")), process)
    process.kill()
    process.wait()
    wait_for(lambda: not living("small_demo.py", str(run)))  # nothing is left of it that holds the run directory

    done = finish(words, tmp_path)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    numbers = json.loads(done.stdout.splitlines()[-1])
    assert list(numbers) == [*ROWS, "action_demos", "minutes"]
    assert all(numbers[name]["episodes"] == 2 for name in ROWS)
    assert numbers["replay"] == {"successes": 2, "episodes": 2}, "what the expert did is right wherever one starts"
    for name in ROWS:
        solved = numbers[name]["successes"]
        assert re.search(rf"\b{name}\b.*\b{solved}/2\b", done.stdout)  # its row of the table
        assert [key.rpartition("/")[2] for key in outcomes(run)[name]] == ["seed200000", "seed200001"]
        assert json.loads((place(run, name) / "protocol.json").read_text())["protocol"]["first_seed"] == 200_000
        assert len(list(run.glob(f"runs/{name}/**/videos/*.mp4"))) == 1
    found = [
        *run.glob("stage1/*/video/checkpoints/last.ckpt"),
        *run.glob("runs/*/k1/seed0/action/checkpoints/last.ckpt"),
    ]
    steps = sorted(torch.load(path, weights_only=False)["global_step"] for path in found)
    assert steps == [3, 3, 3], "the overlay reached every training but the stage 1 that is left out"

    replayed = json.loads((place(run, "replay") / "protocol.json").read_text())["policy"]
    assert (replayed["kind"], replayed["path"]) == ("replay", str((run / "demos").resolve()))

    before = outcomes(run)
    again = finish(words, tmp_path)
    assert json.loads(again.stdout.splitlines()[-1])["trained"] == numbers["trained"]
    assert outcomes(run) == before


@pytest.mark.slow
def test_ctrl_c_while_policies_roll_out_ends_the_demo_at_once(
    tmp_path: Path, study: Path, command: Callable[..., list[str]]
) -> None:
    content = yaml.safe_load(study.read_text())
    content["protocol"]["simulator"]["options"] |= {"delay_s": 0.3}
    content["rows"] = {"replay": {"policy": "replay"}}
    study.write_text(yaml.safe_dump(content))
    words = command("--episodes", "50")
    with (tmp_path / "out.txt").open("w") as stream:
        process = subprocess.Popen(
            words, cwd=tmp_path, env=environment(), stdout=stream, stderr=stream, start_new_session=True
        )
    wait_for(lambda: any((tmp_path / "run").glob("runs/replay/**/results.jsonl")), process)
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
        (["-c", "gone.yaml"], "gone.yaml"),
        (["-c", "wrong.yaml"], "sideways"),
        (["--run-dir", "file/run"], "--run-dir file/run: cannot be made"),
    ],
)
def test_a_slip_is_one_sentence_before_anything_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    options: list[str], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "wrong.yaml").write_text("stages: {sideways: {trainer: {max_steps: 3}}}")
    monkeypatch.setattr(demo, "collect", lambda *_: pytest.fail("something was started"))
    assert main(["demo", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
