"""Generated folders for `videopolicy report`, and the page it makes of them, parsed."""

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from callbacks.clips import write_clip
from rollouts import EpisodeResult, ResultsFile
from videopolicy.main import main

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
        return re.findall(r"<details(?: open)?><summary>(\d.*?)</summary>", self.source)

    def pictures(self) -> list[str]:
        """The charts as SVG."""
        found = [a["src"].partition("base64,") for a in self.all("img")]
        assert all(kind == "data:image/svg+xml;" for kind, _, _ in found)
        return [base64.b64decode(content).decode() for _, _, content in found]


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
    for stage in ("video", "action"):
        (folder / stage).mkdir(parents=True)
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
