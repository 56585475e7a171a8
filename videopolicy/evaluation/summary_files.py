"""An evaluation in three forms: results.json for programs, results.md for a paper, results.csv for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from files.writing import write_text
from rollouts import EpisodeResult, Summary, summarize
from rollouts.statistics import GroupSummary, TaskSummary


def write_summary(
    path: Path, document: Mapping[str, Any], results: Sequence[EpisodeResult], this_run: Mapping[str, Any]
) -> Summary:
    """Write the three files.

    Args:
        path: Directory of the evaluation.
        document: Content of its ``protocol.json``.
        results: Every episode in it.
        this_run: ``started`` (ISO time), ``seconds``, ``episodes`` and ``workers`` of the run that has just ended; kept
            beside those of earlier runs if it ran anything.

    Returns:
        The summary that was written.
    """
    tasks = document["protocol"]["simulator"]["tasks"]
    results = sorted(results, key=lambda result: (tasks.index(result.task), result.seed))  # not as they ended
    summary = summarize(results, document["protocol"].get("groups"))
    runs = _earlier_runs(path)
    if this_run["episodes"] or not runs:
        runs.append(dict(this_run))
    content = to_dict(summary, document, runs)
    write_text(path / "results.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    write_text(path / "results.md", to_markdown(summary, document, content["date"]))
    write_text(path / "results.csv", to_csv(results))
    return summary


def _earlier_runs(path: Path) -> list[dict[str, Any]]:
    try:
        runs: list[dict[str, Any]] = json.loads((path / "results.json").read_text())["runs"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError):  # written over now
        return []
    return runs


def to_dict(summary: Summary, document: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Content of ``results.json``; rates are null where no episode has an outcome."""
    seconds = sum(run["seconds"] for run in runs)
    episodes = sum(run["episodes"] for run in runs)
    return {
        "format": document["format"],
        "fingerprint": document["fingerprint"],
        "policy": document["policy"],
        "protocol": document["protocol"]["name"],
        "date": runs[-1]["started"][:10],
        "interval": "Wilson, 95 %; means over tasks: with the tasks as strata",
        "warnings": notes(summary, document),
        "tasks": [_row(task) for task in summary.tasks],
        "total": _row(summary.total),
        **_mean(summary),
        "groups": [{**_row(group.total), **_mean(group)} for group in summary.groups],
        "episodes_per_hour": round(3600 * episodes / seconds, 1) if episodes and seconds else None,
        "runs": [dict(run) for run in runs],
    }


def _row(task: TaskSummary) -> dict[str, Any]:
    content = {name: _number(value) for name, value in asdict(task).items()}
    return {**content, "success_rate": _number(task.success_rate)}


def _mean(summary: Summary | GroupSummary) -> dict[str, Any]:
    low, high = summary.mean_interval
    return {"mean_success_rate": _number(summary.mean_success_rate), "mean_low": low, "mean_high": high}


def notes(summary: Summary, document: Mapping[str, Any]) -> list[str]:
    """What a reader of the rates has to know: what the protocol warns of, and episodes from equal starts."""
    repeated = [row for row in summary.tasks if row.starts < row.episodes]
    if not repeated:
        return list(document["protocol"].get("warnings", []))
    most = max(repeated, key=lambda row: row.episodes / row.starts)
    named = ", ".join(row.task for row in repeated[:3]) + (" and others" if len(repeated) > 3 else "")
    return [
        *document["protocol"].get("warnings", []),
        f"repeated states: the {most.episodes} episodes of a task ({named}) start from {most.starts} recorded initial "
        "states; repeats are not independent, so the intervals are too narrow.",
    ]


def _number(value: Any) -> Any:  # noqa: ANN401
    return None if isinstance(value, float) and math.isnan(value) else value


def to_markdown(summary: Summary, document: Mapping[str, Any], date: str) -> str:
    """Content of ``results.md``: a table that a paper may take over, and what it was measured by."""
    protocol, policy = document["protocol"], document["policy"]
    lines = ["| task | successes | success rate | 95 % interval |", "| --- | ---: | ---: | ---: |"]
    lines += [_markdown_row(task.task, task) for task in summary.tasks]
    if len(summary.tasks) > 1:
        lines.append(_markdown_row("all episodes", summary.total))
        lines.append(_mean_row("mean over tasks", summary))
    for group in summary.groups:
        lines.append(_markdown_row(f"{group.name}: all episodes", group.total))
        lines.append(_mean_row(f"{group.name}: mean over tasks", group))
    lines += [line for note in notes(summary, document) for line in ("", f"**Warning:** {note}")]
    simulator = protocol["simulator"]
    what = f"`{policy.get('sha256', '')[:16]}`" if policy.get("sha256") else "none"
    lines += [
        "",
        f"Policy: {policy['kind']}, checkpoint {what}. Protocol: {protocol['name']}"
        f" ({simulator['name']}, suite {simulator['suite']}; {protocol['execute_steps']} actions executed a replan;"
        f" step limit {simulator.get('max_steps') or 'of each task'};"
        f" seeds from {protocol['first_seed']}{', held-out episodes' if protocol.get('episodes') else ''})"
        f"{_varied(simulator)}. Source: {protocol['source']}.",
        "Wilson score intervals, those of means with the tasks as strata. "
        f"Episodes that ended in an error, in no rate: {summary.total.errors}. "
        f"Fingerprint {document['fingerprint']}. {date}.",
    ]
    return "\n".join(lines) + "\n"


def _varied(simulator: Mapping[str, Any]) -> str:
    levels = simulator.get("variation") or {}
    return "".join(f", variation {kind} {level:g}" for kind, level in levels.items())


def _markdown_row(name: str, row: TaskSummary) -> str:
    interval = f"{_rate(row.low)} to {_rate(row.high)}"
    return f"| {name} | {row.successes}/{row.episodes} | {_rate(row.success_rate)} | {interval} |"


def _mean_row(name: str, summary: Summary | GroupSummary) -> str:
    low, high = summary.mean_interval
    interval = f"{_rate(low)} to {_rate(high)}"
    return f"| **{name}** | | **{_rate(summary.mean_success_rate)}** | **{interval}** |"


def _rate(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def to_csv(results: Iterable[EpisodeResult]) -> str:
    """Content of ``results.csv``: one row an episode, with the fields of its line."""
    rows = [result.to_dict() for result in results]
    stream = io.StringIO()
    names = list(rows[0]) if rows else list(EpisodeResult("", "", 0, None, None).to_dict())
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "variation": json.dumps(row["variation"])})
    return stream.getvalue()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
