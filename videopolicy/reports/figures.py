"""What a run cost and what it ran on, as rows of names and values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from videopolicy.reports.evaluations import Evaluation
from videopolicy.reports.training import Stage

Rows = list[tuple[str, str]]
ENVIRONMENT = {
    "commit": "git_commit",
    "seed": "seed",
    "device": "device",
    "hardware": "device_name",
    "devices": "num_devices",
    "processes": "world_size",
    "CPU cores": "cpu_count",
    "platform": "platform",
    "Python": "python",
}
PACKAGES = ("videopolicy", "torch", "lightning", "diffusers", "numpy", "mujoco", "robosuite", "hf-libero", "robocasa")


def time_of_episodes(evaluation: Evaluation) -> Rows:
    """Episodes an hour, seconds a replan and their like, from the results themselves."""
    results = [result for result in evaluation.results if result.success is not None]
    wall, policy = sum(r.wall_s for r in results), sum(r.policy_s for r in results)
    replans, steps = sum(r.replans for r in results), sum(r.steps for r in results)
    rows = [("episodes", str(len(results))), *_runs(evaluation.summary_file)]
    if wall:
        rows += [
            ("time of the episodes, added up", duration(wall)),
            ("episodes an hour and worker", f"{3600 * len(results) / wall:,.0f}"),
            ("control steps a second and worker", f"{steps / wall:.1f}"),
            ("share of the policy in that time", f"{policy / wall:.0%}"),
        ]
    if replans and policy:  # the scripted, random and zero policies take no time worth a row
        rows.append(("seconds a replan", f"{policy / replans:.3g}"))
    solved = [result.steps for result in results if result.success]
    if solved:
        rows.append(("mean steps to success", f"{sum(solved) / len(solved):.1f}"))
    again = sum(1 for result in evaluation.results if result.attempts > 1)
    if again:
        rows.append(("episodes that needed more than one attempt", str(again)))
    return rows


def _runs(summary: Mapping[str, Any]) -> Rows:
    """Wall time as ``results.json`` has it, over all runs into one folder."""
    runs = summary.get("runs", [])
    if not runs:
        return []
    rows = [
        ("wall time", duration(sum(run["seconds"] for run in runs)) + (f", {len(runs)} runs" if len(runs) > 1 else "")),
        ("workers", ", ".join(dict.fromkeys(str(run["workers"]) for run in runs))),
        ("last run", runs[-1]["started"].replace("T", " ").replace("Z", " UTC")),
    ]
    if hourly := summary.get("episodes_per_hour"):
        rows.insert(1, ("episodes an hour", f"{hourly:,.0f}"))
    return rows


def time_of_stage(stage: Stage) -> Rows:
    """Steps, duration and speed of a stage."""
    rows: Rows = [("last logged step", f"{stage.last_step:,}")]
    limits = stage.finished.get("limits", {})
    done = ", ".join(f"{name} {value}" for name, value in limits.items())
    rows.append(("state", f"finished ({done})" if stage.finished else "not finished"))
    if stage.seconds:
        rows.append(("first to last logged value", duration(stage.seconds)))
        rows.append(("steps a second, validation included", f"{stage.last_step / stage.seconds:.3g}"))
    return rows


def environment(versions: Mapping[str, Any]) -> Rows:
    """Hardware, commit and the packages that matter; the rest is in versions.json."""
    if not versions:
        return []
    rows = [(name, str(versions[key])) for name, key in ENVIRONMENT.items() if versions.get(key) is not None]
    packages = versions.get("packages", {})
    rows += [(name, str(packages[name])) for name in PACKAGES if name in packages]
    rows += [(f"simulator: {name}", str(value)) for name, value in versions.get("simulator", {}).items()]
    if command := versions.get("command"):
        rows.append(("command", " ".join(map(str, command))))
    return rows


def profiled(content: Mapping[str, Any]) -> dict[str, Rows]:
    """Stage -> parameters, memory and speed, from what `videopolicy profile --json` wrote."""
    found: dict[str, Rows] = {}
    for stage, report in content.get("stages", {}).items():
        parts = report["parts"].values()
        rows = [
            ("parameters", f"{sum(part['parameters'] for part in parts):,}"),
            ("of these trained", f"{sum(part['trainable'] for part in parts):,}"),
            ("TFLOP a training step", f"{_step_flop(report) / 1e12:.4g}"),
            ("TFLOP a replan", f"{report['replan']['flop'] / 1e12:.4g}"),
        ]
        for name, memory in report["memory"].items():
            rows.append((f"training memory, {name}", size(memory["total_bytes"])))
        for name, entry in report["measured"].items():
            rows.append((f"{name.replace('_', ' ')}, median", f"{entry['median_s']:.3g} s"))
            peaks = [f"{size(value)} {key.removesuffix('_bytes')}" for key, value in entry["peak"].items()]
            rows += [(f"{name.replace('_', ' ')}, peak memory", ", ".join(peaks))] if peaks else []
        found[stage] = rows
    return found


def _step_flop(report: Mapping[str, Any]) -> float:
    step = report["training_step"]
    return float(step["forward_flop"]) + float(step["backward_flop"])


def flattened(content: Mapping[str, Any], prefix: str = "") -> Rows:
    """Any JSON mapping as rows, its keys joined with dots."""
    rows: Rows = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += flattened(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                rows += flattened(item, f"{name}.{index}.") if isinstance(item, Mapping) else [(name, str(item))]
        else:
            rows.append((name, _value(value)))
    return rows


def readable(task: str) -> str:
    """A task's name with spaces, where underscores made a sentence one word that no line can break."""
    return re.sub(r"_+", " ", task).strip() or task


def rate(value: float) -> str:
    """A success rate with two digits."""
    return f"{value:.2f}" if value == value else "none"  # NaN: no episode could be run


def signed(value: float) -> str:
    """A difference of two rates."""
    return f"{value:+.2f}"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def size(num_bytes: float) -> str:
    """Bytes as kB, MB or GB."""
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if num_bytes >= u or n == "kB")
    return f"{num_bytes / unit:.3g} {name}"


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def first_and_last(curves: Mapping[str, list[tuple[int, float]]]) -> list[list[str]]:
    """Tag, first and last value of what validation measured, without its per-step and per-level parts."""
    wanted: Iterable[str] = (tag for tag in sorted(curves) if tag.startswith("val/") and "sigma" not in tag)
    return [
        [tag, f"{curves[tag][0][1]:.4g}", f"{curves[tag][-1][1]:.4g}", f"{curves[tag][-1][0]:,}"]
        for tag in wanted
        if curves[tag]
    ]
