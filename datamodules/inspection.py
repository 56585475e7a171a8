"""What is in a demo file, and what would keep it from being trained on: all checks of training's set-up."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from datamodules.demos import (
    DemoEntry,
    ReadingSettings,
    common_size,
    demo_problems,
    describe,
    read_actions,
    used_dims,
)
from datamodules.hdf5 import READ_ERRORS, damaged, demo_file, read_json_attribute
from datamodules.readers import DemoReader, demo_group, demo_names, detect_reader, unknown_layout
from datamodules.statistics import compute_statistics, nearly_constant, odd_actions, padding_problem
from files.errors import UserError

TIMING = {
    "before_action": "picture t was taken before action t, and goes with it",
    "after_action": "picture t was taken after action t, and goes with action t + 1",
}


@dataclass
class FileReport:
    """One demo file.

    Attributes:
        path: The file.
        layout: Which layout it is in, and which data module reads it; "unknown" otherwise.
        task: Name of the task.
        env_version: Release of the simulator it was recorded with, if the file says so.
        timing: Which picture goes with which action.
        stored: Which way up pictures are stored.
        lengths: Steps of every demo, in order.
        sizes: Camera to the sizes found, e.g. "256x256".
        instructions: Distinct instructions to their number of demos.
        minimum: Smallest finite value of every action dimension, over all demos of the usual width.
        maximum: Largest ones.
        problems: What would keep the file from being trained on with its data module's defaults, one sentence each.
        notes: What is odd, but does not keep it from that.
    """

    path: Path
    layout: str = "unknown"
    task: str = ""
    env_version: str | None = None
    timing: str = ""
    stored: str = ""
    lengths: list[int] = field(default_factory=list)
    sizes: dict[str, set[str]] = field(default_factory=dict)
    instructions: dict[str, int] = field(default_factory=dict)
    minimum: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    maximum: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def inspect_file(path: str | Path) -> FileReport:
    """Look at every demo of a file, and at its first and last picture; problems are listed, not raised."""
    report = FileReport(Path(path))
    try:
        with demo_file(path) as file:
            _inspect(report, file)
    except UserError as error:
        report.problems.append(str(error).removeprefix(f"{path}: ").removeprefix(f"{path} "))
    return report


def env_version(path: str | Path) -> str | None:
    """Release of the simulator that a file was recorded with (``env_version`` of its ``env_args``), if it says so."""
    with demo_file(path) as file:
        return _env_version(file)


def _env_version(file: h5py.File) -> str | None:
    version = read_json_attribute(file["data"], "env_args").get("env_version")
    return None if version is None else str(version)


def _inspect(report: FileReport, file: h5py.File) -> None:
    if (reader := detect_reader(file)) is None:
        report.problems.append(unknown_layout(file))
        return
    timing = reader.picture_timing(file)
    report.layout, report.task = f"{reader.title} ({reader.data_module})", reader.task(file)
    report.env_version, report.timing = _env_version(file), TIMING[timing]
    report.stored = orientation = reader.orientation(file)
    if doubt := reader.orientation_doubt(file):
        report.notes.append(doubt)
    settings = ReadingSettings(cameras=_usual_cameras(file, reader))
    entries = []
    for name in demo_names(file):
        try:
            demo = demo_group(file, name)
            problems = list(demo_problems(demo, reader, settings.cameras, timing, num_read=2))
            _describe_demo(report, demo, reader)
            if not problems:
                entries.append(describe(demo, reader, settings, report.task, orientation, timing))
        except UserError as error:
            problems = [str(error).removeprefix(f"{report.path} {name}: ")]
        except READ_ERRORS as error:
            problems = [damaged(error)]
        report.problems += [f"{name}: {problem}" for problem in problems]
    if entries:
        _inspect_together(report, entries, reader)
    position = {name: index for index, name in enumerate(demo_names(file))}
    report.problems.sort(key=lambda problem: position.get(problem.partition(":")[0], len(position)))


def _usual_cameras(file: h5py.File, reader: DemoReader) -> tuple[str, ...]:
    """The layout's own cameras, or those of the first demo where it has none of them: another simulator's."""
    try:
        there = [*reader.keys_by_camera(demo_group(file, demo_names(file)[0]))]
    except (UserError, IndexError, *READ_ERRORS):  # a problem of that demo
        there = []
    usual = reader.default_cameras
    return usual if not there or set(usual) & set(there) else tuple(there)


def _describe_demo(report: FileReport, demo: h5py.Group, reader: DemoReader) -> None:
    if (text := reader.instruction(demo)) is not None:
        report.instructions[text] = report.instructions.get(text, 0) + 1
    for camera in reader.keys_by_camera(demo):
        try:
            size = "x".join(str(n) for n in reader.pictures(demo, camera).shape[1:3])
        except READ_ERRORS:  # a problem already
            size = "unreadable"
        report.sizes.setdefault(camera, set()).add(size)
    actions = demo.get("actions")
    is_table = isinstance(actions, h5py.Dataset) and actions.ndim == 2
    report.lengths.append(len(actions) if is_table else 0)
    if not is_table or not len(actions) or actions.dtype.kind not in "fiu":
        return
    values = np.asarray(actions[()], dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a dimension without one finite number
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    if not len(report.minimum):
        report.minimum, report.maximum = low, high
    elif len(low) == len(report.minimum):
        report.minimum, report.maximum = np.fmin(report.minimum, low), np.fmax(report.maximum, high)


def _inspect_together(report: FileReport, entries: list[DemoEntry], reader: DemoReader) -> None:
    """What set-up looks for once every demo is sound by itself."""
    widths = [entry for entry in entries if entry.action_width != entries[0].action_width]
    for entry in widths:
        report.problems.append(
            f"{entry.name}: actions are {entry.action_width} wide, those before {entries[0].action_width}; "
            "remove this demo."
        )
    entries = [entry for entry in entries if entry not in widths]
    try:
        common_size(entries, None)
        dims = used_dims(entries, None, reader.default_action_dims)
    except UserError as error:
        report.problems.append(str(error).removeprefix(f"{report.path} "))
        return
    actions = []
    for entry, (name, values) in zip(entries, read_actions(entries, dims), strict=True):
        if count := int((~np.isfinite(values)).any(1).sum()):
            report.problems.append(
                f"{entry.name}: actions of {count} steps are not finite; remove or repair this demo."
            )
        else:
            actions.append((name.removeprefix(f"{report.path} "), values))
    if not actions:
        return
    try:
        statistics = compute_statistics(actions, dims=dims)
    except UserError as error:
        report.problems.append(str(error).partition(": ")[2])
    else:
        report.notes += odd_actions(actions, dims)
        if problem := padding_problem(statistics, dims):
            report.notes.append(problem)
    _note_the_rest(report, entries, reader, dims)


def _note_the_rest(report: FileReport, entries: list[DemoEntry], reader: DemoReader, dims: tuple[int, ...]) -> None:
    still = np.flatnonzero(nearly_constant(report.minimum, report.maximum))
    if unused := [f"{d} (always {report.minimum[d]:g})" for d in still if d not in dims]:
        report.notes.append(
            f"constant action dimensions {', '.join(unused)}, which {reader.data_module} does not use by default."
        )
    if len(entries) == 1:
        report.notes.append("one demo, so none can be held out: set data.init_args.val_fraction to 0.")
