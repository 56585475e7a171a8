"""What is kept of a finished run: a small JSON file with every episode, enough for a table on any machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from files.errors import UserError
from files.writing import write_text
from videopolicy.studies.runs import Run

FORMAT = 1
Outcomes = dict[str, dict[str, bool | None]]
"""Task -> seed of an episode -> whether it was solved; None where it could not be run."""


@dataclass(frozen=True)
class Level:
    """The episodes of a run at one level of variation.

    Attributes:
        level: 0 is the standard.
        outcomes: Of its episodes, by growing seeds.
    """

    level: float
    outcomes: Outcomes

    def has(self, episodes: int) -> bool:
        """Whether every task has so many episodes."""
        return bool(self.outcomes) and all(len(found) >= episodes for found in self.outcomes.values())


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        row: See `Run`, and so `action_demos`, `seed`, `fingerprint`.
        stage1: Key of the video stage that it read; None without one.
        levels: Its episodes.
        seconds: Part of the run (``video``, ``action``, ``evaluation``) -> what it took, where it was not interrupted.
        commit: Of the code.
        hardware: That it ran on.
        warnings: Of the evaluation.
    """

    row: str
    action_demos: int | None
    seed: int
    fingerprint: str
    stage1: str | None
    levels: list[Level]
    seconds: dict[str, float] = field(default_factory=dict)
    commit: str | None = None
    hardware: str = ""
    warnings: list[str] = field(default_factory=list)


def result_path(output: Path, run: Run) -> Path:
    """Where a run's result lies."""
    return output / "results" / f"{run.name}.json"


def write_result(path: Path, result: RunResult) -> None:
    """Write the file in one step."""
    write_text(path, json.dumps({"format": FORMAT, **asdict(result)}) + "\n")


def read_result(path: Path) -> RunResult:
    """Read a run's result.

    Raises:
        UserError: It cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        known = {item.name for item in fields(RunResult)}
        levels = [Level(float(part["level"]), part["outcomes"]) for part in content["levels"]]
        return RunResult(**{**{name: content[name] for name in known & content.keys()}, "levels": levels})
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{path}: not readable as the result of a run ({why}); remove it, and it runs again.") from None


def known_results(output: Path, runs: Sequence[Run]) -> dict[str, RunResult]:
    """Fingerprint of a run -> its result, where there is one.

    Raises:
        UserError: A result is of a run with other settings.
    """
    found = {}
    for run in runs:
        path = result_path(output, run)
        if path.is_file():
            found[run.fingerprint] = result = read_result(path)
            if result.fingerprint != run.fingerprint:
                raise UserError(
                    f"{path}: is the result of a run with other settings (of the study, or of a file that it names); "
                    "give another --output, or remove it together with the run's folder to run it anew."
                )
    return found


def is_complete(result: RunResult | None, levels: Sequence[float], episodes: int) -> bool:
    """Whether a result has so many episodes of every task at every level."""
    return result is not None and all(
        any(found.level == level and found.has(episodes) for found in result.levels) for level in levels
    )
