"""One evaluation as it lies on disk: its episodes, its protocol and its videos."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rollouts import EpisodeResult, ResultsFile, Summary, summarize
from videopolicy.errors import CommandError
from videopolicy.evaluation.protocol import find_protocol, protocol_names, read_protocol
from videopolicy.evaluation.results_directory import fingerprint

POLICIES = ("scripted", "random", "zero")  # what `evaluate --policy` makes without a checkpoint
_OPTIONS = {"max_steps": "--max-steps", "python": "--python"}  # of a simulator's settings, those that are options
OUTCOMES = {False: "failure", None: "error", True: "success"}  # in the order in which a reader needs them


@dataclass(frozen=True)
class Evaluation:
    """Episodes that one policy was judged by.

    Args:
        path: Results directory of `videopolicy evaluate`, or a file of JSON lines.
        title: What the page calls it.
        results: One an episode, failures first, then errors, then successes; by task and seed within these.
        videos: Start of every video's path; the episode's name and ``.mp4`` are appended.
        protocol: Content of ``protocol.json``; empty where there is none.
        summary_file: Content of ``results.json``; empty where there is none.
        checkpoint: The policy's checkpoint, where no protocol names one.
    """

    path: Path
    title: str
    results: list[EpisodeResult]
    videos: str
    protocol: dict[str, Any] = field(default_factory=dict)
    summary_file: dict[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None

    @cached_property
    def summary(self) -> Summary:
        """Success rates with 95 % Wilson intervals."""
        return summarize(self.results, self.protocol.get("protocol", {}).get("groups"))

    @property
    def subject(self) -> str:
        """Who was judged by what, in a few words."""
        policy, settings = self.protocol.get("policy", {}), self.protocol.get("protocol", {})
        if not settings:
            return self.title
        varied = "".join(f", variation {kind} {level:g}" for kind, level in self.variation.items())
        return f"Policy: {policy.get('kind')}; protocol: {settings.get('name')}{varied}"

    @property
    def variation(self) -> dict[str, float]:
        """Kind of variation -> level; empty is the standard."""
        return self.protocol.get("protocol", {}).get("simulator", {}).get("variation") or {}

    @property
    def expected(self) -> int | None:
        """Episodes that the protocol asks for; None where it does not say."""
        settings = self.protocol.get("protocol", {})
        tasks = settings.get("simulator", {}).get("tasks", ["all"])
        per_task = settings.get("episodes_per_task")
        return None if per_task is None or tasks == ["all"] else len(tasks) * int(per_task)

    def video(self, result: EpisodeResult) -> Path | None:
        """The film of an episode, if it was filmed."""
        path = Path(f"{self.videos}{result.task}_seed{result.seed}.mp4")
        return path if path.is_file() else None

    @property
    def policy_name(self) -> str:
        """What was judged, in a few words: the end of a checkpoint's path, for every run has a last.ckpt."""
        policy = self.protocol.get("policy", {})
        path = policy.get("path") or self.checkpoint
        name = "/".join(Path(path).parts[-4:]) if path else str(policy.get("kind"))
        changes = {**(policy.get("sampling") or {}), **{k: policy[k] for k in ("precision",) if k in policy}}
        return ", ".join([name, *(f"{key} {value}" for key, value in changes.items())])

    @property
    def standard_key(self) -> tuple[str, ...]:
        """The same for evaluations that differ in their variation and the number of episodes only."""
        settings = self.protocol.get("protocol", {})
        simulator = {**settings.get("simulator", {}), "variation": {}}
        alone = {"policy": self.protocol.get("policy", {}), "protocol": {**settings, "simulator": simulator}}
        return (fingerprint(alone), *simulator.get("tasks", ()))

    def repeat(self, result: EpisodeResult) -> str | None:
        """The command that runs this one episode again and films it; None where no command makes the policy."""
        policy = self.protocol.get("policy", {})
        kind = policy.get("kind", "checkpoint")
        checkpoint = policy.get("path") or self.checkpoint
        if kind == "checkpoint" and checkpoint:
            who = ["--checkpoint", str(checkpoint)]
        elif kind in POLICIES:
            who = ["--policy", kind]
        else:  # such as the demo's controls, which no option of `evaluate` makes
            return None
        for name, value in (policy.get("sampling") or {}).items():
            who += [f"--{name.replace('_', '-')}", str(value)]
        if "precision" in policy:
            who += ["--precision", policy["precision"]]
        folder = self.path if self.path.is_dir() else self.path.parent
        output = folder / "repeat" / f"{result.task}_seed{result.seed}"
        episode = ["--tasks", result.task, "--episodes", "1", "--first-seed", str(result.seed)]
        rest = ["--workers", "1", "--output", str(output)]
        return shlex.join(["videopolicy", "evaluate", *who, *self._settings, *episode, *rest])

    @cached_property
    def _settings(self) -> list[str]:
        """The protocol as options: a name and what was changed in it, or the file that this evaluation wrote.

        The file is for what no option says: a protocol file of the user's own, which may have moved or changed since,
        the rollouts of a training, single options, and a protocol that is another one today.
        """
        settings = self.protocol.get("protocol", {})
        if not settings:
            return []
        by_file = ["--protocol", str(self.path / "protocol.json")]
        if settings.get("name") not in protocol_names():
            return by_file
        usual = read_protocol(find_protocol(settings["name"])).to_dict()
        changed = {key for key in settings["simulator"] if settings["simulator"][key] != usual["simulator"].get(key)}
        # the policy decides what it sees, and the episode its task
        if not changed <= {*_OPTIONS, "variation", "tasks", "cameras", "image_size"} or usual["simulator"]["variation"]:
            return by_file
        options = ["--protocol", settings["name"]]
        for key in sorted(changed & set(_OPTIONS)):
            if settings["simulator"][key] is None:  # an option cannot take a value away
                return by_file
            options += [_OPTIONS[key], str(settings["simulator"][key])]
        if settings["execute_steps"] != usual["execute_steps"]:
            options += ["--execute-steps", str(settings["execute_steps"])]
        for kind, level in self.variation.items():
            options += ["--variation", f"{kind}={level!r}"]
        return options


def is_evaluation(path: Path) -> bool:
    """Whether a path is something that `read_evaluation` reads."""
    if path.is_dir():
        return (path / "protocol.json").is_file() or (path / "results.jsonl").is_file()
    return path.suffix == ".jsonl" and path.is_file()


def read_evaluation(path: Path, title: str | None = None, checkpoint: Path | None = None) -> Evaluation:
    """Read a results directory, or a bare file of JSON lines.

    Raises:
        SimulatorError: A line is not an episode's result.
        CommandError: ``protocol.json`` is not JSON.
    """
    if path.is_dir():
        results = ResultsFile(path / "results.jsonl").load()
        return Evaluation(
            path,
            title or path.name,
            failures_first(list(results.values())),
            videos=f"{path / 'videos'}/",
            protocol=read_json(path / "protocol.json"),
            summary_file=read_json(path / "results.json"),
            checkpoint=checkpoint,
        )
    results = ResultsFile(path).load()
    # `SimulationRollout` writes step_0001000_Lift_seed7.mp4 beside the file, `evaluate` a folder of the file's name.
    stem = path.with_suffix("")
    videos = f"{stem}/" if stem.is_dir() else f"{stem}_"
    return Evaluation(
        path, title or path.stem, failures_first(list(results.values())), videos=videos, checkpoint=checkpoint
    )


def read_folder(path: Path) -> list[Evaluation]:
    """Every evaluation right below a folder, those without variation first, the newest of them at the top."""
    found = [read_evaluation(item) for item in sorted(path.glob("*")) if item.is_dir() and is_evaluation(item)]
    return standard_first(found)


def standard_first(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Those without variation before the others, the newest first."""
    return sorted(evaluations, key=lambda item: (sorted(item.variation.items()), -last_written(item.path)))


def last_written(path: Path) -> float:
    """When the last episode was added, in seconds since 1970."""
    results = path / "results.jsonl" if path.is_dir() else path
    return results.stat().st_mtime if results.is_file() else path.stat().st_mtime


def failures_first(results: Sequence[EpisodeResult]) -> list[EpisodeResult]:
    """Failures, then errors, then successes; by task and seed within these."""
    order = list(OUTCOMES)
    return sorted(results, key=lambda result: (order.index(result.success), result.task, result.seed))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping; empty if there is no such file.

    Raises:
        CommandError: It is not JSON, or not a mapping.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CommandError(f"{path}: not JSON ({error}); move the file away and report again.") from None
    if not isinstance(content, dict):
        raise CommandError(f"{path}: holds a {type(content).__name__}, not a mapping; move the file away.")
    return content
