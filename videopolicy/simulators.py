"""`videopolicy simulators list|check NAME`: which simulators are installed, and whether one builds, steps and draws."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from rollouts.worker_process import WorkerProcess, no_start
from simulators import EpisodeSpec, Observation, SimulatorConfig, SimulatorError, Transition, WorkerDied
from simulators.availability import require_known
from simulators.catalogue import HERE, INSTALLATIONS, Installation
from simulators.messages import Array

TIMEOUT_S = 600.0
CHUNK = 20
"""Steps sent to the worker at once while its speed is measured."""
MEASURE_S = 3.0
"""How long a speed is measured."""
CAPTION = 18
"""Height in pixels of the line under a picture of the sheet."""


@dataclass
class Check:
    """What one suite's check found.

    Attributes:
        suite: Suite.
        task: The task that was built.
        lines: Title -> text, in the order they are printed.
        steps_per_s: Control steps a second without rendering.
        pictures_per_s: Camera pictures a second.
        observation: The first observation.
    """

    suite: str
    task: str
    lines: dict[str, str]
    steps_per_s: float
    pictures_per_s: float
    observation: Observation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|check")
    actions.add_parser("list", help="name, suites, tasks, the version found and where, or the command that gets it")
    check = actions.add_parser("check", help="build, reset, step and render one task of a suite in a worker")
    check.add_argument("name", help=f"{', '.join(INSTALLATIONS)}, or an adapter of your own as package.module:Class")
    check.add_argument("--suite", help="a suite of the simulator, or all (default: its first)")
    check.add_argument("--task", help="a task of the suite (default: its first)")
    check.add_argument("--python", metavar="PATH", help="interpreter of the worker (default: the one that has it)")
    check.add_argument("--cameras", help="names with commas between (default: those of its published protocol)")
    check.add_argument("--image-size", type=int, default=256, metavar="PIXELS", help="of the pictures (default 256)")
    check.add_argument("--gl", choices=["egl", "osmesa", "glfw"], help="OpenGL backend (default: what works)")
    check.add_argument("--output", default="runs/simulators", metavar="DIR", help="for pictures (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Execute the action; returns the exit status."""
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 140)
    if args.action == "list":
        console.print(list_table())
        return 0
    checks = []
    for config in configs(args):
        checks.append(check_suite(config, args.task))
        print_check(console, checks[-1], save_pictures(Path(args.output), checks[-1]))
    if len(checks) > 1:
        console.print(speed_table(checks))
    return 0


def list_table() -> Table:
    """One row an installation."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "simulator", "suites (tasks)", "installed", "interpreter, or the command that gets it"):
        table.add_column(column, overflow="fold")
    for name, entry in INSTALLATIONS.items():
        suites = "\n".join(f"{suite} ({count})" for suite, count in entry.suites.items())
        found = entry.found()
        python, version = found if found else (entry.command, "no")
        table.add_row(name, entry.title, suites, version, python)
    return table


def configs(args: argparse.Namespace) -> list[SimulatorConfig]:
    """What to check: one config a suite.

    Raises:
        SimulatorError: An unknown simulator or suite, one that is not installed, or an adapter without cameras.
    """
    own = ":" in args.name
    if not own:
        require_known("simulator", args.name, INSTALLATIONS, "videopolicy")
    entry = None if own else INSTALLATIONS[args.name]
    if entry is None and not args.cameras:
        raise SimulatorError(f"{args.name}: which cameras your adapter has is not known here; give --cameras a,b.")
    cameras = args.cameras.split(",") if args.cameras else list(entry.cameras) if entry else []
    suites = [args.suite or ""]
    if entry is not None:
        suites = list(entry.suites) if args.suite == "all" else [args.suite or next(iter(entry.suites))]
        for suite in suites:
            require_known("suite", suite, entry.suites, args.name)
    python = args.python or (interpreter_of(entry) if entry else None)
    name = entry.simulator if entry else args.name
    return [
        SimulatorConfig(name, ["all"], cameras, args.image_size, suite=suite, python=python, gl=args.gl)
        for suite in suites
    ]


def interpreter_of(entry: Installation) -> str | None:
    """The interpreter that has a simulator; None for this one.

    Raises:
        SimulatorError: There is none; says where was looked and what installs it.
    """
    found = entry.found()
    if found is None:
        places = [sys.executable] * entry.shared + [entry.python] * bool(entry.environment)
        raise SimulatorError(f"{entry.title} is not installed in {' or '.join(places)}; get it with: {entry.command}.")
    return None if found[0] == HERE else found[0]


def check_suite(config: SimulatorConfig, task: str | None = None) -> Check:
    """Build a task in a worker, look at it and measure it.

    Raises:
        SimulatorError: Whatever is missing or wrong, in one sentence.
    """
    worker = None
    try:
        worker = WorkerProcess(config)
        return _check(worker, config, task)
    except WorkerDied as death:
        raise no_start(config, death) from death
    finally:
        if worker is not None:
            worker.close()


def _ask(worker: WorkerProcess, verb: str, **arguments: object) -> Any:  # noqa: ANN401 - the verb's own type
    worker.send(verb, **arguments)
    return worker.receive(TIMEOUT_S)


def _check(worker: WorkerProcess, config: SimulatorConfig, wanted: str | None) -> Check:
    tasks: list[str] = _ask(worker, "check")
    task = wanted or tasks[0]
    require_known("task", task, tasks, config.suite)
    versions: dict[str, str] = _ask(worker, "versions")
    lines = {"versions": ", ".join(f"{name} {version}" for name, version in versions.items())}
    lines |= _ask(worker, "describe")
    spec = EpisodeSpec(config.suite, task, seed=0)
    start = time.monotonic()
    observation: Observation = _ask(worker, "reset", spec=spec, render=True)
    first_s, start = time.monotonic() - start, time.monotonic()
    _ask(worker, "reset", spec=spec, render=False)
    again_s = time.monotonic() - start
    steps_per_s = step_speed(worker, spec, observation.action_dim)
    pictures_per_s = picture_speed(worker, spec, observation, steps_per_s)
    lines |= {
        "tasks": f"{len(tasks)}, this one is {task}",
        "instruction": observation.instruction,
        "action": f"{observation.action_dim} numbers",
        "step limit": str(observation.max_steps),
        "proprioception": ", ".join(f"{name} {value.shape}" for name, value in observation.proprio.items()),
        "reset": f"{first_s:.1f} s the first time, {again_s:.2f} s again",
        "speed": f"{steps_per_s:.0f} steps/s without rendering, {pictures_per_s:.1f} pictures/s",
    }
    return Check(config.suite, task, lines, steps_per_s, pictures_per_s, observation)


def _chunk(worker: WorkerProcess, actions: Array, render: bool) -> tuple[Transition, float]:
    start = time.monotonic()
    transition: Transition = _ask(worker, "step_chunk", actions=actions, render=render, record_stride=0)
    return transition, time.monotonic() - start


def _random_actions(count: int, width: int) -> Array:
    return np.random.default_rng(0).uniform(-0.3, 0.3, (count, width)).astype(np.float32)


def step_speed(worker: WorkerProcess, spec: EpisodeSpec, action_dim: int) -> float:
    """Control steps a second without rendering; what is compiled in the first chunk does not count."""
    actions = _random_actions(CHUNK, action_dim)
    _chunk(worker, actions, render=False)
    steps, seconds = 0, 0.0
    while seconds < MEASURE_S:
        transition, took = _chunk(worker, actions, render=False)
        steps, seconds = steps + transition.num_steps, seconds + took
        if transition.done:
            _ask(worker, "reset", spec=spec, render=False)
    return steps / seconds


def picture_speed(worker: WorkerProcess, spec: EpisodeSpec, observation: Observation, steps_per_s: float) -> float:
    """Camera pictures a second: steps that end with a picture, less the steps themselves."""
    _ask(worker, "reset", spec=spec, render=True)
    action = _random_actions(1, observation.action_dim)
    pictures, seconds = 0, 0.0
    while seconds < MEASURE_S:
        transition, took = _chunk(worker, action, render=True)
        if transition.observation is None:  # the episode is over
            _ask(worker, "reset", spec=spec, render=True)
            continue
        pictures += len(transition.observation.images)
        seconds += max(took - 1 / steps_per_s, 1e-6)
    return pictures / seconds


def print_check(console: Console, check: Check, pictures: Sequence[Path]) -> None:
    """Print what is known of one suite."""
    table = Table(title=check.suite, title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for title, text in check.lines.items():
        table.add_row(title, text)
    for path in pictures:
        table.add_row("picture", str(path))
    console.print(table)
    console.print()


def speed_table(checks: Sequence[Check]) -> Table:
    """The suites beside one another."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("suite", "task", "step limit", "reset", "steps/s", "pictures/s"):
        table.add_column(column, overflow="fold")
    for check in checks:
        speeds = f"{check.steps_per_s:.0f}", f"{check.pictures_per_s:.1f}"
        table.add_row(check.suite, check.task, check.lines["step limit"], check.lines["reset"], *speeds)
    return table


def save_pictures(folder: Path, check: Check) -> list[Path]:
    """One PNG a camera, and a sheet of all of them with their names; the sheet comes last.

    Raises:
        SimulatorError: The folder cannot be written to.
    """
    images = check.observation.images
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for camera, picture in images.items():
            paths.append(folder / f"{check.suite}_{camera}.png")
            Image.fromarray(picture).save(paths[-1])
        paths.append(folder / f"{check.suite}.png")
        contact_sheet(images).save(paths[-1])
    except OSError as error:
        raise SimulatorError(f"{folder}: cannot be written ({error.strerror}); choose another --output.") from error
    return paths


def contact_sheet(images: dict[str, Array]) -> Image.Image:
    """The pictures side by side, each with its camera's name below."""
    size = max(picture.shape[0] for picture in images.values())
    sheet = Image.new("RGB", (size * len(images), size + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (camera, picture) in enumerate(images.items()):
        sheet.paste(Image.fromarray(picture), (column * size, 0))
        draw.text((column * size + 4, size + 3), camera, fill="black")
    return sheet
