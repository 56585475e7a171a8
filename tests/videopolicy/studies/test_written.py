"""From the results of runs to tables, JSON and pictures."""

import json
from pathlib import Path

import pytest

from files.errors import UserError
from rollouts.crossed_bootstrap import METHOD, ONE_SEED
from tests.videopolicy.studies.test_definition import write
from videopolicy.studies.definition import Study, read_study
from videopolicy.studies.results import (
    Level,
    RunResult,
    is_complete,
    known_results,
    read_result,
    result_path,
    write_result,
)
from videopolicy.studies.runs import runs_of
from videopolicy.studies.summary import sections
from videopolicy.studies.written import to_markdown, write_outcome

ROWS = {"two_stage": {}, "same": {}, "worse": {}}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return read_study(write(tmp_path, rows=ROWS, seeds=[0, 1, 2], action_demos=[3, None], episodes=4))


def result(row: str, seed: int, outcomes: str, k: int | None = 3, **changes: object) -> RunResult:
    """A run whose episodes are s solved, f failed, - not run."""
    said = {"s": True, "f": False, "-": None}
    episodes = {str(200_000 + index): said[mark] for index, mark in enumerate(outcomes)}
    return RunResult(row, k, seed, "f", "s", [Level(0.0, {"Lift": episodes})], **changes)  # type: ignore[arg-type]


RESULTS = [
    *(result("two_stage", seed, "ssfs") for seed in (0, 1, 2)),
    *(result("same", seed, "ssfs") for seed in (0, 1, 2)),
    *(result("worse", seed, "sfff") for seed in (0, 1)),
    result("two_stage", 0, "ssss", None),
]


def test_rows_are_compared_with_the_first_over_the_seeds_and_episodes_that_both_have(study: Study) -> None:
    (section,) = sections(study, RESULTS)
    first, same, worse, alone = section.cells
    assert [cell.row for cell in section.cells] == ["two_stage", "same", "worse", "two_stage"]
    assert (first.rate.mean, first.by_seed, first.seeds) == (0.75, [0.75] * 3, [0, 1, 2])
    assert first.against_first is None
    assert same.against_first is not None
    assert (same.against_first.mean, same.against_first.low, same.against_first.high) == (0.0, 0.0, 0.0)
    assert worse.against_first is not None
    assert (worse.against_first.mean, worse.against_first.num_seeds) == (-0.5, 2)
    assert alone.action_demos is None
    assert alone.rate.num_seeds == 1


def test_the_table_says_what_its_intervals_count_and_what_is_not_finished(study: Study) -> None:
    text = to_markdown(study, sections(study, RESULTS), RESULTS, {"worse_k3_seed2": "failed: action: no demos"})
    assert "| row | 3 | all |" in text
    assert "| same | 0.75 (" in text
    assert "| same | +0.00 (+0.00 to +0.00) | - |" in text
    assert f"- {METHOD}." in text
    assert f"- {ONE_SEED}." in text, "the column of all demos has one seed"
    assert "- training seeds a cell: 1 or 2 or 3; episodes a task: 4." in text
    assert "- worse_k3_seed2: failed: action: no demos" in text
    assert ONE_SEED not in to_markdown(study, sections(study, RESULTS[:-1]), RESULTS[:-1], {})


def test_an_episode_that_some_run_could_not_run_or_does_not_have_is_in_no_cell(study: Study) -> None:
    lost = [result("two_stage", 0, "ss-s"), result("same", 0, "sfsf")]
    (section,) = sections(study, lost)
    assert [cell.rate.num_episodes for cell in section.cells] == [3, 3]
    assert [cell.rate.mean for cell in section.cells] == [1.0, 1 / 3]
    assert "1 episodes, which some run does not have or could not run" in to_markdown(study, [section], lost, {})
    elsewhere = RunResult("worse", 3, 0, "f", "s", [Level(0.0, {"Lift": {"7": True}})])
    (section,) = sections(study, [*lost, elsewhere])
    assert (section.cells, section.left_out) == ([], 5), "judged by other episodes: nothing to compare"


def test_more_episodes_than_asked_for_leave_the_first_ones(study: Study) -> None:
    (section,) = sections(study, [result("two_stage", 0, "ssssffff")])
    assert (section.cells[0].rate.mean, section.cells[0].rate.num_episodes) == (1.0, 4)
    assert is_complete(result("two_stage", 0, "ssss"), [0.0], 4)
    assert not is_complete(result("two_stage", 0, "sss"), [0.0], 4)
    assert not is_complete(result("two_stage", 0, "ssss"), [0.0, 1.0], 4)
    assert not is_complete(None, [0.0], 4)


def test_groups_of_tasks_have_tables_and_pictures_of_their_own(tmp_path: Path, study: Study) -> None:
    study.protocol["groups"] = {"watched": ["Stack"]}
    both = {"Lift": {"1": True, "2": True}, "Stack": {"1": False, "2": True}}
    results = [RunResult("two_stage", 3, 0, "f", None, [Level(0.0, both)])]
    overall, watched = sections(study, results)
    assert (overall.cells[0].rate.mean, watched.cells[0].rate.mean) == (0.75, 0.5)
    write_outcome(study, results, {}, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "study.md", "study.json", "success.png", "success.svg", "success_watched.png", "success_watched.svg"
    }  # fmt: skip
    cells = json.loads((tmp_path / "out" / "study.json").read_text())["cells"]
    assert [(cell["tasks"], cell["rate"]["mean"]) for cell in cells] == [("all tasks", 0.75), ("watched", 0.5)]
    assert (tmp_path / "out" / "success.png").read_bytes().startswith(b"\x89PNG")


def test_a_result_travels_and_one_of_other_settings_or_damaged_is_refused(tmp_path: Path, study: Study) -> None:
    run = runs_of(study)[0]
    kept = result(run.row, 0, "ss", seconds={"action": 1.5}, commit="abc")
    path = result_path(tmp_path, run)
    write_result(path, kept)
    assert read_result(path) == kept
    with pytest.raises(UserError, match="is the result of a run with other settings"):
        known_results(tmp_path, [run])
    path.write_text('{"row": 1}')
    with pytest.raises(UserError, match="not readable as the result of a run"):
        known_results(tmp_path, [run])
