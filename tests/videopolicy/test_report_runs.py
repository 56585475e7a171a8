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
from videopolicy.reports import read_training_run
from videopolicy.reports.variation import success_over_variation

__all__ = ["report"]  # a fixture


def test_a_training_run_shows_success_and_losses_over_steps(tmp_path: Path, report: Callable[..., Page]) -> None:
    run = training_run(tmp_path / "run", {100: "ffff", 200: "sffe", 300: "ssss"})
    page = report(run)
    assert "4 of 4 episodes solved" in page.text  # the last validation
    for row in ("100 0.00 0 of 4 0.00 to 0.49 0", "200 0.33 1 of 3 0.06 to 0.79 1", "300 1.00 4 of 4 0.51 to 1.00 0"):
        assert row in page.text
    marks = [a["d"] for a in page.all("path", "marks")]
    assert marks[0] == "M333.3 1000h0 M666.7 666.7h0 M1000 0h0"
    assert len(page.all("figure", "chart")) == 3
    assert "300 1" in page.text  # video stage, last train/loss
    assert "finished (max_steps 300)" in page.text
    assert "not finished" in page.text
    assert page.text.count("commit abc123") == 1  # both stages ran on it
    assert "device action device" in page.text


def test_evaluations_inside_a_run_have_sections_and_the_newest_the_headline(
    tmp_path: Path, report: Callable[..., Page]
) -> None:
    run = training_run(tmp_path / "run", {300: "ff"})
    evaluation(run / "action" / "evaluations" / "held_out", {"Lift": "sssf"})
    page = report(run)
    assert "3 of 4 episodes solved" in page.text
    headings = re.findall(r"<h2>(.*?)</h2>", page.source)
    assert "Evaluation held_out" in headings
    assert "Rollouts at step 300 of the action stage" in headings


def test_a_joint_run_is_one_stage_with_its_own_rollouts(tmp_path: Path, report: Callable[..., Page]) -> None:
    run = training_run(tmp_path / "run", {300: "ssf"})
    shutil.rmtree(run / "video")
    (run / "action").rename(run / "joint")
    page = report(run)
    assert "2 of 3 episodes solved" in page.text
    assert "Loss of the joint stage" in page.text
    assert f"--checkpoint {run}/joint/checkpoints/last.ckpt --tasks Lift" in page.text


def test_a_folder_of_evaluations_has_a_row_each_and_a_curve_over_variation(
    tmp_path: Path, report: Callable[..., Page]
) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    for level, outcomes in ((2.0, "ffff"), (0.0, "ssss"), (1.0, "ssff")):
        varied = {"variation": {"camera": level}} if level else {}
        simulator = {"name": "robosuite", "tasks": ["Lift"], "max_steps": 60, **varied}
        evaluation(sweep / f"camera_{level:g}", {"Lift": outcomes}, simulator=simulator)
    page = report(sweep)
    assert "4 of 4 episodes solved" in page.text
    assert "camera_0. Policy: checkpoint; protocol: lift." in page.text  # the standard has the headline
    links = [a["href"] for a in page.all("a") if a["href"].startswith("#evaluation-")]
    assert {link.removeprefix("#") for link in links} == {a["id"] for a in page.all("section") if a["id"][-1].isdigit()}
    assert "Success over variation of camera" in page.text
    assert [a["d"] for a in page.all("path", "marks")] == ["M0 0h0 M500 500h0 M1000 1000h0"]
    assert "1 0.50 2 of 4 0.15 to 0.85" in page.text
    assert "--variation camera=2" in page.text


def varied(folder: Path, outcomes: str, camera: float, path: str, **policy: object) -> None:
    """An evaluation of one checkpoint at one level of the camera's variation."""
    simulator = {"name": "robosuite", "tasks": ["Lift"], **({"variation": {"camera": camera}} if camera else {})}
    evaluation(folder, {"Lift": outcomes}, simulator=simulator)
    document = json.loads((folder / "protocol.json").read_text())
    document["policy"] |= {"path": path, "sha256": path, **policy}
    (folder / "protocol.json").write_text(json.dumps(document))


def test_curves_over_variation_are_of_one_policy_each(tmp_path: Path, report: Callable[..., Page]) -> None:
    run = training_run(tmp_path / "run", {})
    places = run / "action" / "evaluations"
    for name, outcomes, camera, path in (
        ("a0", "ssss", 0.0, "x/best.ckpt"),
        ("a1", "ssss", 1.0, "x/best.ckpt"),
        ("b1", "ffff", 1.0, "x/last.ckpt"),
        ("b2", "ffff", 2.0, "x/last.ckpt"),
    ):
        varied(places / name, outcomes, camera, path)
    varied(places / "c1", "fsff", 1.0, "x/best.ckpt", sampling={"action_steps": 3})
    page = report(run)
    evaluations = read_training_run(run).sections
    charts = {chart.title.partition("; ")[2]: chart.rows for chart in success_over_variation(evaluations)}
    assert {whose.partition(", lift")[0]: [row[:3] for row in rows] for whose, rows in charts.items()} == {
        "x/best.ckpt": [["0", "1.00", "4 of 4"], ["1", "1.00", "4 of 4"]],
        "x/best.ckpt, action_steps 3": [["1", "0.25", "1 of 4"]],
        "x/last.ckpt": [["1", "0.00", "0 of 4"], ["2", "0.00", "0 of 4"]],
    }
    assert all(f"Success over variation of camera; {whose}" in page.text for whose in charts)


def test_of_two_evaluations_at_one_level_the_newest_counts(tmp_path: Path, report: Callable[..., Page]) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    for index, (name, outcomes) in enumerate((("old", "ffff"), ("new", "ssss"), ("older", "ffff"))):
        varied(sweep / name, outcomes, 1.0, "x/last.ckpt")
        os.utime(sweep / name / "results.jsonl", (1000 + 10 * (index % 2),) * 2)
    page = report(sweep)
    assert "1 1.00 4 of 4" in page.text


def test_the_headline_is_no_rate_under_variation(tmp_path: Path, report: Callable[..., Page]) -> None:
    run = training_run(tmp_path / "run", {300: "ssff"})
    varied(run / "action" / "evaluations" / "varied", "ffff", 2.0, "x/last.ckpt")
    assert "2 of 4 episodes solved" in report(run).text
    evaluation(run / "action" / "evaluations" / "standard", {"Lift": "sssf"})
    later = (run / "action" / "evaluations" / "varied" / "results.jsonl").stat().st_mtime + 100
    os.utime(run / "action" / "evaluations" / "varied" / "results.jsonl", (later, later))
    assert "3 of 4 episodes solved" in report(run).text
    shutil.rmtree(run / "action" / "rollouts")
    shutil.rmtree(run / "action" / "evaluations" / "standard")
    alone = report(run).text
    assert "episodes solved" not in alone
    assert "Only evaluations under variation" in alone
    assert "variation camera 2" in report(run / "action" / "evaluations" / "varied").text


def test_a_run_that_has_only_begun_is_a_page_that_says_so(tmp_path: Path, report: Callable[..., Page]) -> None:
    (tmp_path / "run" / "video").mkdir(parents=True)
    page = report(tmp_path / "run")
    for sentence in (
        "so there is no success rate",
        "No rollouts yet",
        "No evaluation in this run yet",
        "Nothing logged",
    ):
        assert sentence in page.text


def test_parameters_and_memory_come_from_a_profile(
    tmp_path: Path, report: Callable[..., Page], capsys: pytest.CaptureFixture[str]
) -> None:
    run = training_run(tmp_path / "run", {})
    part = {"parameters": 1_500, "trainable": 500}
    timing = {"median_s": 0.25, "peak": {"allocated_bytes": 3_000_000_000}}
    stage = {
        "parts": {"video": part, "action": part},
        "training_step": {"forward_flop": 1e12, "backward_flop": 2e12},
        "replan": {"flop": 5e12},
        "memory": {"as configured": {"total_bytes": 4_000_000_000}},
        "measured": {"training_step": timing},
    }
    (run / "profile.json").write_text(json.dumps({"stages": {"action": stage}}))
    text = report(run).text
    for fact in (
        "parameters 3,000",
        "of these trained 1,000",
        "TFLOP a training step 3",
        "as configured 4 GB",
        "median 0.25 s",
        "peak memory 3 GB allocated",
    ):
        assert fact in text
    (run / "profile.json").write_text('{"stages": {"action": {}}}')
    assert main(["report", str(run)]) == 2
    assert "not what `videopolicy profile --json` writes" in capsys.readouterr().err


def test_two_evaluations_are_compared_in_pairs(tmp_path: Path, report: Callable[..., Page]) -> None:
    a = evaluation(tmp_path / "a", {"Lift": "ssssfsssss"}, filmed=("Lift_seed104",))
    b = evaluation(tmp_path / "b", {"Lift": "ffffsfffff"})
    page = report(a, "--against", str(b))
    assert "the success rate of A minus that of B is +0.80" in page.text
    assert "p = 0.0215" in page.text  # two-sided binomial of 1 in 10
    assert "10 episodes with different outcomes" in page.captions()
    first = re.search(r'<table class="episodes changed".*?seed (\d+)', page.source, re.S)
    assert first is not None
    assert first[1] == "104"  # the one that a lost


def test_the_page_goes_into_the_folder_and_the_run_is_not_changed(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", {"Lift": "sf"}, filmed=("Lift_seed100",))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["report", str(folder)]) == 0
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {folder / "report.html"}
    assert all(after[path] == content for path, content in before.items())
