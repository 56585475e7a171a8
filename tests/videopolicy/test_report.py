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
from videopolicy.evaluation.protocol import find_protocol, read_protocol, read_variation
from videopolicy.main import main
from videopolicy.reports import videos as report_videos

__all__ = ["report"]  # a fixture


def test_headline_bars_and_intervals_are_those_of_the_results(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {"easy": "sssssssss" + "f", "hard": "ffffffffff"}))
    assert "hardware Xeon" in page.text
    assert "9 of 20 episodes solved Wilson 95 % interval 0.26 to 0.66" in page.text  # by hand: Wilson of 9/20
    assert "Mean over 2 tasks: 0.45." in page.text
    bars = page.all("svg", "task")
    assert [bar["aria-label"] for bar in bars] == [
        "0.00, 95 % interval 0.00 to 0.28",
        "0.90, 95 % interval 0.60 to 0.98",
    ]
    widths = [a["width"] for a in page.all("rect", "bar")]
    assert widths == ["450.0", "0.0", "900.0"]


def test_failures_come_before_errors_before_successes(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {"Lift": "sefsf", "Stack": "fs"}))
    assert page.captions()[1:] == ["3 failures", "1 error", "3 successes"]
    rows = re.findall(r'class="outcome (\w+)".*?title="(\w+)".*?seed (\d+)', page.source, re.S)
    assert rows == [
        ("failure", "Lift", "102"),
        ("failure", "Lift", "104"),
        ("failure", "Stack", "100"),
        ("error", "Lift", "101"),
        ("success", "Lift", "100"),
        ("success", "Lift", "103"),
        ("success", "Stack", "101"),
    ]


def test_of_many_failures_the_filmed_ones_are_seen_and_the_rest_is_folded_away(
    tmp_path: Path, report: Callable[..., Page]
) -> None:
    page = report(evaluation(tmp_path / "a", {"Lift": "f" * 30 + "s" * 7}, filmed=("Lift_seed120",)))
    first = re.search(r'class="outcome failure".*?seed (\d+)', page.source, re.S)
    assert first is not None
    assert first[1] == "120"
    folded = [
        re.findall(r'class="outcome (\w+)', part) for part in re.findall(r"<details>.*?</details>", page.source, re.S)
    ]
    assert [(part[0], len(part)) for part in folded if part] == [("failure", 5), ("success", 7)]
    assert page.captions()[1:] == ["30 failures", "5 failures", "7 successes"]
    assert len(page.all("span", "outcome")) == 37


def test_errors_are_in_no_rate_and_said(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {"Lift": "see", "Stack": "ee"}))
    assert "1 of 1 episodes solved" in page.text
    assert "4 errors, counted as neither" in page.text
    assert "no episode could be run" in page.text
    assert len(page.all("svg", "task")) == 1


def test_strings_from_files_are_escaped(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {task: "fe" for task in TASKS}))
    assert not page.all("script")
    assert not page.all("segfault")
    assert EVIL.replace("_", " ") in page.text
    assert "open the top drawer" in page.text
    assert "the worker died: <segfault> & gone" in page.text
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


def test_videos_are_embedded_byte_for_byte(tmp_path: Path, report: Callable[..., Page]) -> None:
    folder = evaluation(tmp_path / "a", {"Lift": "sf"}, filmed=("Lift_seed100", "Lift_seed101"))
    found = [base64.b64decode(a["src"].partition(",")[2]) for a in report(folder).all("video")]
    assert found == [(folder / "videos" / f"Lift_seed{seed}.mp4").read_bytes() for seed in (101, 100)]


def test_a_large_video_is_made_smaller_and_that_is_said(
    tmp_path: Path, report: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_videos, "REENCODE_FROM", 1000)
    folder = evaluation(tmp_path / "a", {"Lift": "f"})
    original = clip(folder / "videos" / "Lift_seed100.mp4", size=64, length=12)
    page = report(folder)
    (video,) = page.all("video")
    assert len(base64.b64decode(video["src"].partition(",")[2])) < len(original)
    assert "1 video was made smaller for this page" in page.text


def test_the_size_limit_is_kept_failures_have_their_videos_first_and_the_rest_is_named(
    tmp_path: Path, report: Callable[..., Page], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"Lift_seed{100 + index}" for index in range(6)]
    folder = evaluation(tmp_path / "a", {"Lift": "ssssff"}, filmed=tuple(names))
    whole = report(folder)
    assert len(whole.all("video")) == 6
    limit = len(whole.source) - 10_000
    page = report(folder, "--max-mb", str(limit / 1e6))
    shown = [re.search(r"seed (\d+)", a["aria-label"]) for a in page.all("video")]
    assert 2 <= len(shown) < 6
    assert [found[1] for found in shown if found][:2] == ["104", "105"]
    assert len(page.source.encode()) <= limit
    missing = 6 - len(shown)
    assert f"{missing} video{'s are' if missing > 1 else ' is'} left out" in page.text
    assert page.text.count("left out: ") == missing
    assert f"left out: {missing} videos" in capsys.readouterr().out


def test_a_video_that_was_cut_short_is_named(tmp_path: Path, report: Callable[..., Page]) -> None:
    folder = evaluation(tmp_path / "a", {"Lift": "f"}, filmed=("Lift_seed100",))
    video = folder / "videos" / "Lift_seed100.mp4"
    video.write_bytes(video.read_bytes()[:200])
    page = report(folder)
    assert not page.all("video")
    assert f"1 video cannot be played: {video}" in page.text


def repeated(page: Page) -> list[argparse.Namespace]:
    """The commands that a page gives for single episodes, as `evaluate` reads them."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    evaluate.add_arguments(parser)
    commands = [shlex.split(html.unescape(c)) for c in re.findall(r"again: <code>(.*?)</code>", page.source)]
    assert all(command[:2] == ["videopolicy", "evaluate"] for command in commands)
    return [parser.parse_args(command[2:]) for command in commands]


def test_every_episode_has_the_command_that_repeats_it(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {"Lift": "f", EVIL: "f"}))
    args = next(args for args in repeated(page) if args.tasks == "Lift")
    assert args.checkpoint == Path("runs/my run/last.ckpt")
    assert (args.protocol, args.tasks, args.episodes, args.first_seed) == ("lift", "Lift", 1, 100)
    assert args.max_steps == 60  # 120 in the protocol's file
    assert args.execute_steps is None  # the file's own


def test_the_command_that_repeats_an_episode_samples_and_varies_as_it_did(
    tmp_path: Path, report: Callable[..., Page]
) -> None:
    simulator = {"name": "robosuite", "tasks": ["Lift"], "max_steps": 120, "variation": {"camera": 0.123456789}}
    folder = evaluation(tmp_path / "a", {"Lift": "f"}, simulator=simulator, execute_steps=4)
    document = json.loads((folder / "protocol.json").read_text())
    document["policy"] |= {"sampling": {"action_steps": 3, "guidance": 1.0, "video_steps": 0}, "precision": "bfloat16"}
    (folder / "protocol.json").write_text(json.dumps(document))
    (args,) = repeated(report(folder))
    assert (args.action_steps, args.guidance, args.video_steps, args.precision) == (3, 1.0, 0, "bfloat16")
    assert (args.action_scheduler, args.execute_steps, args.max_steps) == (None, 4, None)
    assert read_variation(args.variation) == {"camera": 0.123456789}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mine", {}),  # a file of the user's own: its folder, and what it says today, are not known
        ("lift", {"options": {"control_freq": 10}}),  # no option of `evaluate` says that
        ("training of last", {"shadows": True}),
        ("command line", {}),
    ],
)
def test_what_no_option_says_is_repeated_from_the_evaluation_s_own_file(
    tmp_path: Path, report: Callable[..., Page], name: str, changed: dict[str, object]
) -> None:
    simulator = {"name": "robosuite", "tasks": ["Lift"], "cameras": ["agentview"], "variation": {"camera": 1.0}}
    settings = {"name": name, "source": "", "first_seed": 7, "simulator": {**simulator, **changed}}
    folder = evaluation(tmp_path / "a b", {"Lift": "f"}, **settings)
    (args,) = repeated(report(folder))
    protocol = read_protocol(find_protocol(args.protocol))
    wanted = json.loads((folder / "protocol.json").read_text())["protocol"]
    assert {key: protocol.to_dict()["simulator"][key] for key in wanted["simulator"]} == wanted["simulator"]
    assert (protocol.name, protocol.execute_steps) == (name, wanted["execute_steps"])
    assert (args.first_seed, args.episodes) == (100, 1)


def test_a_policy_that_no_command_makes_has_no_command(tmp_path: Path, report: Callable[..., Page]) -> None:
    """The demo's controls name the checkpoint that they were made from; it is another policy."""
    folder = evaluation(tmp_path / "a", {"Lift": "f"})
    document = json.loads((folder / "protocol.json").read_text())
    (folder / "protocol.json").write_text(json.dumps(document | {"policy": document["policy"] | {"kind": "replay"}}))
    assert not repeated(report(folder))


def test_an_unfinished_evaluation_says_so(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {"Lift": "sf"}, episodes_per_task=50))
    assert "Not finished: 2 of 50 episodes are there" in page.text


def test_an_evaluation_without_episodes_is_a_page_that_says_so(tmp_path: Path, report: Callable[..., Page]) -> None:
    folder = evaluation(tmp_path / "a", {"Lift": "s"})
    (folder / "results.jsonl").unlink()
    page = report(folder)
    assert "No episode is finished yet." in page.text
    assert not page.all("svg")


def test_groups_of_tasks_and_wall_time_of_an_evaluation(tmp_path: Path, report: Callable[..., Page]) -> None:
    folder = evaluation(
        tmp_path / "a", {"Lift": "ss", "Stack": "sf", "Door": "ff"}, groups={"held out": ["Stack", "Door"]}
    )
    runs = [{"started": "2026-11-22T12:00:00Z", "seconds": 60.0, "episodes": 6, "workers": 2}]
    (folder / "results.json").write_text(json.dumps({"runs": runs, "episodes_per_hour": 360.0}))
    text = report(folder).text
    assert "held out 0.25 1 of 4 0.05 to 0.70" in text
    assert "wall time 60.0 s episodes an hour 360 workers 2" in text
    assert "actions executed a replan 8" in text


def test_what_cannot_be_reported_or_compared_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    a = evaluation(tmp_path / "a", {"Lift": "s"})
    b = evaluation(tmp_path / "b", {"Stack": "s"})
    c = evaluation(tmp_path / "c", {"Lift": "s"}, simulator={"name": "libero", "tasks": ["Lift"]})
    for arguments, message in (
        ([tmp_path / "missing"], "no such file or folder; give what `videopolicy evaluate --output` wrote"),
        ([tmp_path / "empty"], "neither an evaluation nor a run directory"),
        ([a / "protocol.json"], "neither a results file nor a folder"),
        ([a, "--against", b], "no episode in common"),
        ([a, "--against", c], "followed different protocols"),
        ([a, "--output", a / "results.jsonl" / "x.html"], "could not be written"),
    ):
        assert main(["report", *map(str, arguments)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert message in lines[0]
