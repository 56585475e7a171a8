"""`videopolicy report` on generated runs, several evaluations and pairs of them."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.videopolicy.report_parts import Page, evaluation, report, training_run
from videopolicy.main import main
from videopolicy.reports.contents import read_contents
from videopolicy.reports.sections import success_over_variation

__all__ = ["report"]  # a fixture


def varied(folder: Path, outcomes: str, camera: float, path: str = "x/last.ckpt", **policy: object) -> None:
    """An evaluation of one checkpoint at one level of the camera's variation."""
    simulator = {"name": "robosuite", "tasks": ["Lift"], **({"variation": {"camera": camera}} if camera else {})}
    folder.mkdir(parents=True)
    evaluation(folder, {"Lift": outcomes}, simulator=simulator)
    document = json.loads((folder / "protocol.json").read_text())
    document["policy"] |= {"path": path, "sha256": path, **policy}
    (folder / "protocol.json").write_text(json.dumps(document))


def test_a_training_run_shows_success_over_steps_and_where_its_losses_are(
    tmp_path: Path, report: Callable[..., Page]
) -> None:
    run = training_run(tmp_path / "run", {100: "ffff", 200: "sffe", 300: "ssss"})
    page = report(run)
    assert "4 of 4 episodes solved" in page.text  # the last validation
    for row in ("100 0.00 0 of 4 0.00 to 0.49 0", "200 0.33 1 of 3 0.06 to 0.79 1", "300 1.00 4 of 4 0.51 to 1.00 0"):
        assert row in page.text
    assert len(page.pictures()) == 2
    assert "optimizer steps" in page.pictures()[0]
    assert "Video stage: finished (max_steps 300)" in page.text
    assert "Action stage: not finished" in page.text
    assert f"tensorboard --logdir {run}/action" in page.text


def test_evaluations_inside_a_run_have_sections_and_the_newest_without_variation_the_headline(
    tmp_path: Path, report: Callable[..., Page]
) -> None:
    run = training_run(tmp_path / "run", {300: "ssff"})
    places = run / "action" / "evaluations"
    varied(places / "varied", "ffff", 2.0)
    assert "2 of 4 episodes solved" in report(run).text
    evaluation(places / "standard", {"Lift": "sssf"})
    later = (places / "varied" / "results.jsonl").stat().st_mtime + 100
    os.utime(places / "varied" / "results.jsonl", (later, later))
    page = report(run)
    assert "3 of 4 episodes solved" in page.text
    headings = re.findall(r"<h2>(.*?)</h2>", page.source)
    rollouts = "Rollouts at step 300 of the action stage"
    assert headings[-3:] == ["Evaluation standard", rollouts, "Evaluation varied"]
    shutil.rmtree(run / "action" / "rollouts")
    shutil.rmtree(places / "standard")
    alone = report(run).text
    assert "episodes solved" not in alone
    assert "Only evaluations under variation" in alone
    assert "variation camera 2" in report(places / "varied").text


def test_a_joint_run_is_one_stage_with_its_own_rollouts(tmp_path: Path, report: Callable[..., Page]) -> None:
    run = training_run(tmp_path / "run", {300: "ssf"})
    shutil.rmtree(run / "video")
    (run / "action").rename(run / "joint")
    page = report(run)
    assert "2 of 3 episodes solved" in page.text
    assert "Joint stage: not finished" in page.text
    assert f"--checkpoint {run}/joint/checkpoints/last.ckpt --tasks Lift" in page.text


def test_a_run_that_has_only_begun_is_a_page_that_says_so(tmp_path: Path, report: Callable[..., Page]) -> None:
    (tmp_path / "run" / "video").mkdir(parents=True)
    page = report(tmp_path / "run")
    for words in ("so there is no success rate", "No rollouts yet", "No evaluation in this run yet"):
        assert words in page.text


def test_a_folder_of_evaluations_has_a_row_each_and_a_curve_over_variation(
    tmp_path: Path, report: Callable[..., Page]
) -> None:
    sweep = tmp_path / "sweep"
    for level, outcomes in ((2.0, "ffff"), (0.0, "ssss"), (1.0, "ssff")):
        varied(sweep / f"camera_{level:g}", outcomes, level)
    page = report(sweep)
    assert "4 of 4 episodes solved" in page.text
    assert "camera_0. Policy: checkpoint; protocol: lift." in page.text  # the standard has the headline
    links = [a["href"] for a in page.all("a") if a["href"].startswith("#evaluation-")]
    assert {link.removeprefix("#") for link in links} == {a["id"] for a in page.all("section") if a["id"][-1].isdigit()}
    assert "Success over variation of camera" in page.text
    assert "level; 0 is the standard" in page.pictures()[0]
    assert "1 0.50 2 of 4 0.15 to 0.85" in page.text


def test_curves_over_variation_are_of_one_policy_each_and_the_newest_of_a_level_counts(
    tmp_path: Path, report: Callable[..., Page]
) -> None:
    run = training_run(tmp_path / "run", {})
    places = run / "action" / "evaluations"
    for index, (name, outcomes, camera, path) in enumerate(
        (
            ("a0", "ssss", 0.0, "x/best.ckpt"),
            ("a1_old", "ffff", 1.0, "x/best.ckpt"),
            ("a1", "ssss", 1.0, "x/best.ckpt"),
            ("b1", "ffff", 1.0, "x/last.ckpt"),
            ("b2", "ffff", 2.0, "x/last.ckpt"),
        )
    ):
        varied(places / name, outcomes, camera, path)
        os.utime(places / name / "results.jsonl", (1000 + index,) * 2)
    varied(places / "c1", "fsff", 1.0, "x/best.ckpt", sampling={"action_steps": 3})
    page = report(run)
    found = success_over_variation([item.evaluation for item in read_contents(run).sections])
    charts = {chart.title.partition("; ")[2]: chart.rows for chart in found}
    assert {whose.partition(", lift")[0]: [row[:3] for row in rows] for whose, rows in charts.items()} == {
        "x/best.ckpt": [["0", "1.00", "4 of 4"], ["1", "1.00", "4 of 4"]],
        "x/best.ckpt, action_steps 3": [["1", "0.25", "1 of 4"]],
        "x/last.ckpt": [["1", "0.00", "0 of 4"], ["2", "0.00", "0 of 4"]],
    }
    assert all(f"Success over variation of camera; {whose}" in page.text for whose in charts)


def test_two_evaluations_are_compared_in_pairs(tmp_path: Path, report: Callable[..., Page]) -> None:
    a = evaluation(tmp_path / "a", {"Lift": "ssssfsssss"}, filmed=("Lift_seed104",))
    b = evaluation(tmp_path / "b", {"Lift": "ffffsfffff"})
    page = report(a, "--against", str(b))
    assert "the success rate of A minus that of B is +0.80" in page.text
    assert "p = 0.0215" in page.text  # two-sided binomial of 1 in 10
    assert "10 episodes with different outcomes" in page.text
    first = re.search(r"different outcomes.*?seed (\d+)", page.source, re.S)
    assert first is not None
    assert first[1] == "104"  # the one that a lost
    assert len(page.all("video")) == 2  # in both places


@pytest.mark.parametrize("bare", [False, True])
def test_the_page_goes_into_the_folder_or_beside_the_file_and_the_run_is_not_changed(
    tmp_path: Path, bare: bool
) -> None:
    folder = evaluation(tmp_path / "a", {"Lift": "sf"}, filmed=("Lift_seed100",))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["report", str(folder / "results.jsonl" if bare else folder)]) == 0
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {folder / ("results.html" if bare else "report.html")}
    assert all(after[path] == content for path, content in before.items())
