"""`videopolicy report` on generated folders: the page is parsed and its facts are checked."""

import argparse
import base64
import html
import json
import re
import shlex
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from callbacks.clips import write_clip
from simulators import EpisodeResult, ResultsFile
from videopolicy import evaluate
from videopolicy.main import main
from videopolicy.reports import videos as report_videos

EVIL = '<script>alert("1")</script>'
TASKS = ("open_the_top_drawer", "Lift", EVIL)


class Page(HTMLParser):
    """What a test asks of a page: elements with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str, of_class: str = "") -> list[dict[str, str]]:
        """Attributes of the elements of a kind."""
        return [a for name, a in self.elements if name == tag and of_class in (*a.get("class", "").split(), "")]

    def captions(self) -> list[str]:
        return re.findall(r"<caption>(.*?)</caption>", self.source)


def clip(path: Path, brightness: int = 128, size: int = 32, length: int = 3) -> bytes:
    frames = np.random.default_rng(brightness).integers(0, 255, (length, size, size, 3)).astype(np.uint8)
    write_clip(path, frames)
    return path.read_bytes()


def results(outcomes: dict[str, str]) -> list[EpisodeResult]:
    """Task -> one letter an episode: s for success, f for failure, e for error."""
    return [
        EpisodeResult(
            suite="generated",
            task=task,
            seed=100 + index,
            init_state=None,
            success={"s": True, "f": False, "e": None}[letter],
            steps=30 + index,
            replans=4,
            wall_s=2.0,
            policy_s=1.0,
            error="the worker died: <segfault> & gone" if letter == "e" else None,
        )
        for task, letters in outcomes.items()
        for index, letter in enumerate(letters)
    ]


def evaluation(folder: Path, outcomes: dict[str, str], filmed: tuple[str, ...] = (), **protocol: object) -> Path:
    """A folder as `videopolicy evaluate --output` writes it."""
    file = ResultsFile(folder / "results.jsonl")
    for result in results(outcomes):
        file.append(result)
    for index, name in enumerate(filmed):
        clip(folder / "videos" / f"{name}.mp4", index)
    settings = {
        "name": "lift",
        "simulator": {"name": "robosuite", "tasks": list(outcomes), "max_steps": 60},
        "episodes_per_task": max(map(len, outcomes.values())),
        "execute_steps": 8,
        **protocol,
    }
    content = {
        "format": 1,
        "policy": {"kind": "checkpoint", "path": "runs/my run/last.ckpt"},
        "protocol": settings,
        "versions": {"git_commit": "abc123", "cpu_count": 2, "device_name": "Xeon", "packages": {"torch": "2.15.0"}},
        "fingerprint": "0123456789abcdef",
    }
    folder.mkdir(exist_ok=True)
    (folder / "protocol.json").write_text(json.dumps(content))
    return folder


def training_run(folder: Path, rollouts: dict[int, str]) -> Path:
    """A run directory with both stages; step -> outcomes of Lift."""
    for stage, losses in (("video", [4.0, 2.0, 1.0]), ("action", [1.0, 0.5, 0.25])):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "versions.json").write_text(json.dumps({"git_commit": "abc123", "device": f"{stage} device"}))
        with SummaryWriter(str(folder / stage)) as writer:
            for index, loss in enumerate(losses, start=1):
                writer.add_scalar("train/loss", loss, 100 * index)
            writer.add_scalar("val/psnr", 17.5, 300)
    (folder / "video" / "finished.json").write_text(json.dumps({"limits": {"max_steps": 300}}))
    (folder / "config.yaml").write_text("data: {instruction: '</pre><b>bold</b>'}\n")
    for step, letters in rollouts.items():
        file = ResultsFile(folder / "action" / "rollouts" / f"step_{step:07d}.jsonl")
        for result in results({"Lift": letters}):
            file.append(result)
    return folder


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Page]:
    """Run the command and parse what it wrote."""

    def run(path: Path, *options: str) -> Page:
        output = tmp_path / "page.html"
        assert main(["report", str(path), "--output", str(output), *options]) == 0
        return Page(output)

    return run


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


def test_every_episode_has_the_command_that_repeats_it(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {"Lift": "f", EVIL: "f"}))
    command = html.unescape(next(c for c in re.findall(r"<code>(.*?)</code>", page.source) if "--tasks Lift" in c))
    arguments = shlex.split(command)
    assert arguments[:2] == ["videopolicy", "evaluate"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    evaluate.add_arguments(parser)
    args = parser.parse_args(arguments[2:])
    assert args.checkpoint == Path("runs/my run/last.ckpt")
    assert (args.protocol, args.tasks, args.episodes, args.first_seed) == ("lift", "Lift", 1, 100)
    assert args.max_steps == 60  # 120 in the protocol's file
    assert args.execute_steps is None  # the file's own


def test_an_unfinished_evaluation_says_so(tmp_path: Path, report: Callable[..., Page]) -> None:
    page = report(evaluation(tmp_path / "a", {"Lift": "sf"}, episodes_per_task=50))
    assert "Not finished: 2 of 50 episodes are there" in page.text


def test_an_evaluation_without_episodes_is_a_page_that_says_so(tmp_path: Path, report: Callable[..., Page]) -> None:
    folder = evaluation(tmp_path / "a", {"Lift": "s"})
    (folder / "results.jsonl").unlink()
    page = report(folder)
    assert "No episode is finished yet." in page.text
    assert not page.all("svg")


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
        ([a, "--output", a / "results.jsonl" / "x.html"], "cannot be written"),
    ):
        assert main(["report", *map(str, arguments)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert message in lines[0]


def test_the_page_goes_into_the_folder_and_the_run_is_not_changed(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", {"Lift": "sf"}, filmed=("Lift_seed100",))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["report", str(folder)]) == 0
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {folder / "report.html"}
    assert all(after[path] == content for path, content in before.items())
