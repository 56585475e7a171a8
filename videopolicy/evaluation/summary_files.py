"""An evaluation in three forms: results.json for programs, results.md for a paper, results.csv for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rollouts import EpisodeResult, Summary
from rollouts.statistics import GroupSummary, TaskSummary
from videopolicy.evaluation.tables import interval, markdown_table, rate


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
    rows = [[row.task, f"{row.successes}/{row.episodes}", rate(row), interval(row)] for row in summary.tasks]
    together: list[tuple[str, TaskSummary, Summary | GroupSummary]] = [
        (f"{group.name}: ", group.total, group) for group in summary.groups
    ]
    if len(summary.tasks) > 1:
        together.insert(0, ("", summary.total, summary))
    for label, total, mean in together:
        rows.append([f"{label}all episodes", f"{total.successes}/{total.episodes}", rate(total), interval(total)])
        rows.append([f"**{label}mean over tasks**", "", f"**{rate(mean)}**", f"**{interval(mean)}**"])
    lines = [markdown_table(("task", "successes", "success rate", "95 % interval"), rows)]
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
