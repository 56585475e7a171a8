"""`videopolicy report` on a generated evaluation: the page is parsed and its facts are checked."""

import argparse
import base64
import html
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.videopolicy.report_parts import EVIL, TASKS, Page, clip, evaluation, report, training_run
from videopolicy import evaluate
from videopolicy.evaluation.protocol import find_protocol, read_protocol
from videopolicy.main import main
from videopolicy.reports import videos as report_videos

__all__ = ["report"]  # a fixture


def test_headline_tasks_and_intervals_are_those_of_the_results(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {"easy": "sssssssss" + "f", "hard": "ffffffffff"}))
    assert "hardware Xeon" in page.text
    assert "9 of 20 episodes solved Wilson 95 % interval 0.26 to 0.66" in page.text  # by hand: Wilson of 9/20
    assert "Mean over 2 tasks: 0.45." in page.text
    assert "hard 0.00 0 of 10 0.00 to 0.28 0 easy 0.90 9 of 10 0.60 to 0.98 0" in page.text
    (picture,) = page.pictures()
    assert re.findall(r">(easy|hard)<", picture) == ["hard", "easy"]


def test_failures_come_before_errors_before_successes_and_what_has_a_video_first(
    tmp_path: Path, report: Callable[..., Page]
) -> None:
    page = report(evaluation(tmp_path / "a", {"Lift": "sefsf", "Stack": "fs"}, filmed=("Stack_seed100",)))
    assert page.captions() == ["3 failures", "1 error", "3 successes"]
    assert len(re.findall("<details open>", page.source)) == 2  # successes are folded away
    rows = re.findall(r'class="outcome (\w+)".*?title="(\w+)".*?seed (\d+)', page.source, re.S)
    assert rows == [
        ("failure", "Stack", "100"),
        ("failure", "Lift", "102"),
        ("failure", "Lift", "104"),
        ("error", "Lift", "101"),
        ("success", "Lift", "100"),
        ("success", "Lift", "103"),
        ("success", "Stack", "101"),
    ]


def test_errors_are_in_no_rate_and_said(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {"Lift": "see", "Stack": "ee"}))
    assert "1 of 1 episodes solved" in page.text
    assert "4 errors, counted as neither" in page.text
    assert "Stack - 0 of 0 0.00 to 1.00 2" in page.text


def test_strings_from_files_are_escaped(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {task: "fe" for task in TASKS}))
    assert not page.all("script")
    assert not page.all("segfault")
    assert EVIL.replace("_", " ") in page.text
    assert "open the top drawer" in page.text
    assert "the worker died: <segfault> & gone" in page.text
    assert html.escape(EVIL, quote=False) in page.pictures()[0]
    page = report(training_run(tmp_path / "run", {}))
    assert "</pre><b>bold</b>" in page.text


def test_nothing_is_fetched(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {"Lift": "f"}, filmed=("Lift_seed100",)))
    addresses = [a[name] for _, a in page.elements for name in ("src", "href", "poster", "action", "data") if name in a]
    assert len(addresses) >= 3
    assert not [address for address in addresses if not address.startswith(("data:", "#"))]
    assert not re.search(r"url\(|@import", page.source)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")


def test_videos_are_embedded_byte_for_byte_large_ones_smaller_and_broken_ones_are_named(
    tmp_path: Path, report: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"Lift_seed{100 + index}" for index in range(3)]
    folder = evaluation(tmp_path / "a", {"Lift": "sff"}, filmed=tuple(names))
    paths = [folder / "videos" / f"{name}.mp4" for name in names]
    original = clip(paths[2], size=64, length=12)
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    monkeypatch.setattr(report_videos, "REENCODE_FROM", len(paths[0].read_bytes()) + 1)
    page = report(folder)
    small, whole = [base64.b64decode(a["src"].partition(",")[2]) for a in page.all("video")]
    assert whole == paths[0].read_bytes()
    assert len(small) < len(original)
    assert "1 video was made smaller for this page" in page.text
    assert f"1 video cannot be played: {paths[1]}" in page.text


def test_the_size_limit_is_kept_failures_have_their_videos_first_and_the_rest_is_named(
    tmp_path: Path, report: Callable[..., Page], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"Lift_seed{100 + index}" for index in range(6)]
    folder = evaluation(tmp_path / "a", {"Lift": "ssssff"}, filmed=tuple(names))
    whole = report(folder)
    assert len(whole.all("video")) == 6
    limit = len(whole.source.encode()) - 10_000
    page = report(folder, "--max-mb", str(limit / 1e6))
    shown = [re.search(r"seed (\d+)", a["aria-label"]) for a in page.all("video")]
    assert 2 <= len(shown) < 6
    assert [found[1] for found in shown if found][:2] == ["104", "105"]
    assert len(page.source.encode()) <= limit
    missing = 6 - len(shown)
    assert f"{missing} video{'s are' if missing > 1 else ' is'} left out" in page.text
    assert page.text.count("left out: ") == missing
    assert f"left out: {missing} videos" in capsys.readouterr().out


def repeated(page: Page) -> list[argparse.Namespace]:
    """The commands that a page gives for single episodes, as `evaluate` reads them."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    evaluate.add_arguments(parser)
    commands = [shlex.split(html.unescape(c)) for c in re.findall(r"again: <code>(.*?)</code>", page.source)]
    assert all(command[:2] == ["videopolicy", "evaluate"] for command in commands)
    return [parser.parse_args(command[2:]) for command in commands]


def with_policy(folder: Path, **changes: object) -> Path:
    document = json.loads((folder / "protocol.json").read_text())
    (folder / "protocol.json").write_text(json.dumps(document | {"policy": document["policy"] | changes}))
    return folder


def test_every_episode_has_the_command_that_repeats_it_as_it_was(tmp_path: Path, report: Callable[..., Page]) -> None:
    """By the evaluation's own protocol.json: no option says all of it, and a file of its name may have changed."""
    simulator = {"name": "robosuite", "cameras": ["agentview"], "tasks": ["Lift"], "variation": {"camera": 0.123456789}}
    simulator |= {"max_steps": 60, "options": {"control_freq": 10}, "shadows": True}
    settings = {"name": "mine", "source": "", "first_seed": 7, "simulator": simulator, "execute_steps": 4}
    folder = evaluation(tmp_path / "a b", {"Lift": "f", EVIL: "f"}, **settings)
    with_policy(folder, sampling={"action_steps": 3, "guidance": 1.0, "video_steps": 0}, precision="bfloat16")
    args = next(args for args in repeated(report(folder)) if args.tasks == "Lift")
    assert (args.checkpoint, args.episodes, args.first_seed) == (Path("runs/my run/last.ckpt"), 1, 100)
    assert (args.action_steps, args.guidance, args.video_steps, args.precision) == (3, 1.0, 0, "bfloat16")
    protocol = read_protocol(find_protocol(args.protocol))
    assert (protocol.name, protocol.execute_steps) == ("mine", 4)
    assert {key: protocol.to_dict()["simulator"][key] for key in simulator} == simulator


def test_a_policy_that_no_command_makes_has_no_command(tmp_path: Path, report: Callable[..., Page]) -> None:
    """A policy from Python has a kind of its own."""
    assert not repeated(report(with_policy(evaluation(tmp_path / "a", {"Lift": "f"}), kind="mine")))
    (args,) = repeated(report(with_policy(evaluation(tmp_path / "b", {"Lift": "f"}), kind="scripted", path=None)))
    assert (args.policy, args.checkpoint) == ("scripted", None)


def test_what_is_unfinished_or_empty_says_so(tmp_path: Path, report: Callable[..., Page]) -> None:
    folder = evaluation(tmp_path / "a", {"Lift": "sf"}, episodes_per_task=50)
    assert "Not finished: 2 of 50 episodes are there" in report(folder).text
    (folder / "results.jsonl").unlink()
    page = report(folder)
    assert "No episode is finished yet." in page.text
    assert not page.pictures()


def test_groups_of_tasks_wall_time_and_warnings_of_an_evaluation(tmp_path: Path, report: Callable[..., Page]) -> None:
    groups, warnings = {"held out": ["Stack", "Door"]}, ["not held out: the starts of 2 episodes"]
    tasks = {"Lift": "ss", "Stack": "sf", "Door": "ff"}
    folder = evaluation(tmp_path / "a", tasks, groups=groups, warnings=warnings)
    runs = [{"started": "2026-11-22T12:00:00Z", "seconds": 60.0, "episodes": 6, "workers": 2}]
    (folder / "results.json").write_text(json.dumps({"runs": runs}))
    text = report(folder).text
    assert "held out 0.25 1 of 4 0.05 to 0.70" in text
    assert "wall time 60 s workers 2" in text
    assert "actions executed a replan 8" in text
    assert f"Warning: {warnings[0]}" in text


def test_what_cannot_be_reported_or_compared_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    a = evaluation(tmp_path / "a", {"Lift": "s"})
    b = evaluation(tmp_path / "b", {"Stack": "s"})
    c = evaluation(tmp_path / "c", {"Lift": "s"}, simulator={"name": "libero", "tasks": ["Lift"]})
    broken = evaluation(tmp_path / "broken", {"Lift": "s"})
    (broken / "protocol.json").write_text("{")
    for arguments, message in (
        ([tmp_path / "missing"], "no such file or folder"),
        ([tmp_path / "empty"], "neither an evaluation nor a run directory"),
        ([a / "protocol.json"], "neither a results file nor a folder"),
        ([broken], "broken/protocol.json: is damaged"),
        ([a, "--against", b], "no episode in common"),
        ([a, "--against", c], "followed different protocols"),
        ([a, "--output", a / "results.jsonl" / "x.html"], "could not be written"),
        ([a, "--max-mb", "-1"], "--max-mb -1"),
    ):
        assert main(["report", *map(str, arguments)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert message in lines[0]
