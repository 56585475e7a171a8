"""`videopolicy study`: what runs, what goes on, and what is left where a run fails."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.videopolicy.conftest import ROOT, environment, tiny_overlay
from tests.videopolicy.studies.test_definition import write
from videopolicy.main import main
from videopolicy.studies import outcome
from videopolicy.studies.definition import Study, read_study
from videopolicy.studies.results import Level, RunResult, result_path, write_result
from videopolicy.studies.runs import Run, runs_of
from videopolicy.studies.schedule import Command, Task

ROWS = {"two_stage": {}, "worse": {"overrides": {"stages": {"action": {"trainer": {"max_steps": 9}}}}}}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were begun; each takes no time, and one that is called `worse` fails the first time."""
    names: list[str] = []

    def tasks(found: Study, runs: Sequence[Run], output: Path) -> list[Task]:
        def task(run: Run) -> Task:
            def finish(_: dict[str, float]) -> str | None:
                names.append(run.name)
                if run.row == "worse" and names.count(run.name) == 1:
                    return "no such demos"
                outcomes = {"Lift": {str(seed): run.row == "two_stage" for seed in range(found.episodes)}}
                levels = [Level(0.0, outcomes)]
                done = RunResult(run.row, run.action_demos, run.seed, run.fingerprint, None, levels, {"action": 360.0})
                write_result(result_path(output, run), done)
                return None

            command = Command("action", (sys.executable, "-c", "pass"))
            return Task(run.name, lambda: [command], output / "log.txt", None, finish)

        return [task(run) for run in runs]

    monkeypatch.setattr(outcome, "tasks_of", tasks)
    return names


def command(folder: Path, *options: str) -> list[str]:
    path = write(folder, rows=ROWS, seeds=[0, 1], action_demos=[1, 5], cost={"action": 0.5, "evaluation": 0.25})
    return ["study", "-c", str(path), "--output", str(folder / "out"), *options]


def test_a_failed_run_is_named_and_tried_again_and_finished_ones_are_not(
    tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, "--seeds", "0", "--action-demos", "5")) == 1
    assert ran == ["two_stage_k5_seed0", "worse_k5_seed0"]
    assert "failed: worse_k5_seed0: no such demos" in capsys.readouterr().out
    text = (tmp_path / "out" / "study.md").read_text()
    assert "- worse_k5_seed0: failed: no such demos" in text
    assert "- two_stage_k1_seed1: not run" in text
    assert main(command(tmp_path, "--seeds", "0", "--action-demos", "5")) == 0
    assert ran[2:] == ["worse_k5_seed0"]
    assert main(command(tmp_path)) == 1
    assert len(ran) == 3 + 6
    assert main(command(tmp_path)) == 0
    assert len(ran) == 3 + 6 + 3
    cells = json.loads((tmp_path / "out" / "study.json").read_text())["cells"]
    assert [(cell["row"], cell["rate"]["mean"]) for cell in cells] == [("two_stage", 1.0), ("worse", 0.0)] * 2
    assert cells[1]["against_first"]["mean"] == -1.0


def test_the_tables_hold_what_another_process_has_run_into_the_folder(tmp_path: Path, ran: list[str]) -> None:
    output = tmp_path / "out"
    found = read_study(Path(command(tmp_path)[2]))
    other = next(run for run in runs_of(found) if run.name == "two_stage_k5_seed1")
    outcome_so_far = outcome.Outcome(found, output)
    outcomes = {"Lift": {str(seed): True for seed in range(found.episodes)}}
    write_result(
        result_path(output, other), RunResult("two_stage", 5, 1, other.fingerprint, None, [Level(0.0, outcomes)])
    )
    outcome_so_far.write()
    assert "| two_stage | - | 1.00" in (output / "study.md").read_text()


def test_rows_that_are_the_same_run_once(tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, rows={"two_stage": {}, "twin": {}}, action_demos=[1])
    words = ["study", "-c", str(path), "--output", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0
    assert "2 runs, 1 missing" in capsys.readouterr().out
    assert main(words) == 0
    assert ran == ["two_stage_k1_seed0"]
    assert "| twin | +0.00 (+0.00 to +0.00) |" in (tmp_path / "out" / "study.md").read_text()


def test_more_episodes_run_again_and_fewer_do_not(tmp_path: Path, ran: list[str]) -> None:
    options = ("--rows", "two_stage", "--seeds", "0", "--action-demos", "1")
    assert [main(command(tmp_path, *options, "--episodes", count)) for count in ("3", "2", "4")] == [0, 0, 0]
    assert len(ran) == 2


def test_a_dry_run_says_runs_and_hours_and_runs_nothing(
    tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, "--dry-run", "--jobs", "2")) == 0
    printed = capsys.readouterr().out
    assert "8 runs, 8 missing" in printed
    assert "6.00 hours of one job, 3.00 with 2 at a time" in printed
    main(command(tmp_path, "--seeds", "0", "--rows", "two_stage"))
    capsys.readouterr()
    main(command(tmp_path, "--dry-run", "--jobs", "2"))
    printed = capsys.readouterr().out
    assert "8 runs, 6 missing" in printed
    # a finished run of the row took .1 hours: two runs of .1 + .25, four of .5 + .25
    assert "3.70 hours of one job" in printed
    assert len(ran) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rows", "two_stages"), "--rows two_stages: the study has none of this"),
        (("--action-demos", "7"), "--action-demos 7: the study has none of this"),
        (("--seeds", "x"), "--seeds x"),
        (("--shard", "3/2"), "--shard 3/2: write which of how many"),
        (("--jobs", "0"), "--jobs 0: must be 1 or more"),
        (("--episodes", "0"), "--episodes 0: must be 1 or more"),
    ],
)
def test_a_slip_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert main(command(tmp_path, *options)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_trains_evaluates_shares_stage_1_and_goes_on_from_results_alone(
    tmp_path: Path, robomimic_file: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    demos = robomimic_file(lengths=(12, 9, 7, 8))  # type: ignore[operator]
    overlay = tiny_overlay(ROOT / "experiments" / "lift.yaml", demos, 2)
    protocol = {"source": "here", "episodes_per_task": 9, "first_seed": 200_000, **overlay.pop("rollout")["protocol"]}
    protocol["simulator"]["cameras"] = ["agentview", "robot0_eye_in_hand"]
    control = str(ROOT / "experiments" / "controls" / "without_stage1.yaml")
    rows = {"two_stage": {}, "without_stage1": {"overlays": [control]}}
    path = write(
        tmp_path,
        rows=rows,
        protocol=protocol,
        overrides={**overlay, "rollout": None, "videos": None},
        action_demos=[1, 2],
    )
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    words = ["study", "-c", str(path), "--output", "out", "--jobs", "2"]
    assert main([*words, "--action-demos", "1"]) == 0, capsys.readouterr().out
    assert main([*words, "--rows", "two_stage"]) == 0, capsys.readouterr().out
    assert len(list((tmp_path / "out" / "stage1").iterdir())) == 2, "one for both runs of two_stage"
    results = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "out" / "results").iterdir()}
    assert len(results) == 3
    assert {tuple(result["levels"][0]["outcomes"]["up"]) for result in results.values()} == {("200000", "200001")}
    assert set(results["two_stage_k1_seed0"]["seconds"]) == {"video", "action", "evaluation"}
    assert results["two_stage_k1_seed0"]["warnings"], "the counting simulator says other words than the demos"
    assert not list((tmp_path / "out").rglob("features/key.json")), "features of a finished run are removed"
    assert "0.00 (0.00 to" in (tmp_path / "out" / "study.md").read_text()

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "results").rename(tmp_path / "elsewhere" / "results")
    capsys.readouterr()
    assert main([*words[:4], "elsewhere", "--jobs", "2", "--action-demos", "1"]) == 0
    assert {p.name for p in (tmp_path / "elsewhere").iterdir()} >= {"study.md", "success.png", "results"}
    assert not (tmp_path / "elsewhere" / "stage1").exists(), "nothing is trained for results that are there"
