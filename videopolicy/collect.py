"""`videopolicy collect`: demos of a scripted expert, recorded in a simulator."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from datamodules import Demo
from files.errors import UserError
from rollouts import CollectedEpisode, EpisodeResult, ResultsFile, collect_demos, wilson_interval
from rollouts.progress import EpisodeProgress
from rollouts.worker_process import ask_once, check_simulator
from simulators import EpisodeSpec, ExpertSettings, SimulatorConfig
from simulators.catalogue import INSTALLATIONS, TABLE_CAMERAS
from videopolicy.collected_demos import open_demos, settings_mark

FILE_SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class CollectReport:
    """What is in a demo file after collecting: demos kept, episodes tried, episodes lost with their worker."""

    path: Path
    kept: int
    tried: int
    errors: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    noise = ExpertSettings()
    add = parser.add_argument
    add(
        "--simulator",
        required=True,
        metavar="S",
        help="robosuite, libero, metaworld, or your own adapter as package.module:Class",
    )
    add("--suite", default="", help="suite of tasks; default: the simulator's own (LIBERO: libero_object)")
    add("--task", required=True, nargs="+", metavar="T", help="one task, several, or `all`")
    add("--episodes", type=int, required=True, metavar="N", help="episodes to try in all, spread evenly over the tasks")
    add("--output", type=Path, required=True, metavar="F", help="an .hdf5 file, or a folder that gets one file a task")
    add("--workers", type=int, default=2, metavar="W", help="simulator processes (default 2)")
    add("--image-size", type=int, default=256, help="height and width of pictures in pixels (default 256)")
    add("--cameras", nargs="+", help="default: the simulator's own, for instance agentview robot0_eye_in_hand")
    add("--seed", type=int, default=0, help="seed of the first episode; the next ones count on (default 0)")
    add("--max-steps", type=int, help="step limit; default: the task's own")
    add("--noise", type=float, default=noise.noise, help=f"action noise while approaching (default {noise.noise})")
    add("--random-steps", type=int, default=noise.random_steps, help="most random steps at the start (default 3)")
    add(
        "--mistakes",
        type=float,
        default=noise.mistakes,
        help=f"chance that a demo begins with an unrecorded mistake to mend (default {noise.mistakes})",
    )
    add(
        "--options",
        type=json_mapping,
        default={},
        metavar="JSON",
        help="""adapter options, e.g. '{"control_freq": 10}'""",
    )
    add("--python", help="interpreter of the workers; default: this one")
    add("--gl", choices=["egl", "osmesa", "glfw"], help="OpenGL backend; default: MUJOCO_GL, else EGL, else OSMesa")


def run(args: argparse.Namespace) -> int:
    """Collect, go on where an earlier run stopped, and print the expert's success rate.

    Returns:
        1 if a file's episodes were all lost with their workers, so that nothing is known of the expert.
    """
    require_usable(args)
    config = SimulatorConfig(
        name=args.simulator,
        suite=args.suite,
        tasks=list(dict.fromkeys(args.task)),
        cameras=args.cameras or usual_cameras(args.simulator),
        image_size=args.image_size,
        max_steps=args.max_steps,
        python=args.python,
        gl=args.gl,
        options=args.options,
    )
    settings = ExpertSettings(noise=args.noise, random_steps=args.random_steps, mistakes=args.mistakes)
    config = check_simulator(config)
    episodes = config.episodes(args.episodes, args.seed)
    console = Console(markup=False)
    status = 0
    for path, tasks in output_files(args.output, config.tasks).items():
        wanted = [spec for spec in episodes if spec.task in tasks]
        if wanted:
            report = collect_file(path, config, wanted, args.workers, settings, console)
            console.print(describe(report))
            status = 1 if report.errors == report.tried else status
    return status


def usual_cameras(simulator: str) -> list[str]:
    """Those of a simulator's published protocols; for an adapter of your own robosuite's."""
    return list(INSTALLATIONS[simulator].cameras if simulator in INSTALLATIONS else TABLE_CAMERAS)


def json_mapping(text: str) -> dict[str, Any]:
    """Options from what follows ``--options``."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"""{text!r} is not a mapping such as '{{"control_freq": 10}}'""")
    return content


def require_usable(args: argparse.Namespace) -> None:
    """Refuse numbers that no episode can be run with, before a simulator is started.

    Raises:
        UserError: One is out of its range.
    """
    ranges = {"seed": (0, math.inf), "noise": (0.0, math.inf), "random_steps": (0, math.inf), "mistakes": (0.0, 1.0)}
    for name, (low, high) in ranges.items():
        value = getattr(args, name)
        if not (low <= value <= high and math.isfinite(value)):
            limit = f"from {low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {limit}.")


def output_files(output: Path, tasks: Sequence[str]) -> dict[Path, list[str]]:
    """Demo file -> tasks that go into it: everything into a file, or one file a task into a folder."""
    if output.suffix in FILE_SUFFIXES:
        return {output: list(tasks)}
    if output.suffix and not output.is_dir():
        raise UserError(f"{output}: demo files end in {' or '.join(FILE_SUFFIXES)}; a folder has no ending.")
    return {output / f"{task}.hdf5": [task] for task in tasks}


def collect_file(
    path: Path,
    config: SimulatorConfig,
    episodes: Sequence[EpisodeSpec],
    num_workers: int,
    settings: ExpertSettings,
    console: Console,
) -> CollectReport:
    """Bring one demo file up to `episodes`, leaving out those already tried.

    Failures stand in `<file>.episodes.jsonl` beside the demos, so that they are not tried again after an interruption.
    """
    tasks = list(dict.fromkeys(spec.task for spec in episodes))
    env_name = tasks[0] if len(tasks) == 1 else config.suite
    log = ResultsFile(path.with_suffix(".episodes.jsonl"))
    recorded = {"simulator": config.to_dict(), "expert": asdict(settings), "versions": ask_once(config, "versions")}
    mark = settings_mark(recorded)
    with open_demos(path, env_name, recorded) as writer:
        kept = set(writer.attributes("episode"))
        failed = {key for key, result in log.load().items() if result.success is False and _is_of(result, mark)}
        todo = [spec for spec in episodes if spec.key not in kept | failed]
        with EpisodeProgress(path.stem, len(episodes), len(episodes) - len(todo), console=console) as bar:
            for episode in collect_demos(config, todo, num_workers, settings):
                if episode.success:
                    writer.add(_demo(episode, config, settings))
                    kept.add(episode.spec.key)
                log.append(_result(episode, mark))
                bar.advance(f"{len(kept)} kept")
    outcomes = {key: result.success for key, result in log.load().items()}
    wanted = {spec.key for spec in episodes}
    errors = sum(outcomes.get(key, True) is None for key in wanted - kept)
    return CollectReport(path, len(kept & wanted), len(wanted), errors)


def describe(report: CollectReport) -> str:
    """One line about a finished file."""
    ran = report.tried - report.errors
    low, high = wilson_interval(report.kept, ran)
    rate = f"{report.kept / ran:.0%}" if ran else "none"
    lost = f"; {report.errors} lost with their worker, run again to retry" if report.errors else ""
    interval = f"{low:.0%} to {high:.0%} with 95 % confidence"
    return f"{report.path}: expert succeeded in {report.kept} of {ran} episodes ({rate}; {interval}){lost}"


def _is_of(result: EpisodeResult, mark: str) -> bool:
    return result.fingerprint in ("", mark)  # empty: written before there were marks


def _settings_attrs(config: SimulatorConfig, settings: ExpertSettings) -> dict[str, str]:
    pictures = {
        name: getattr(config, name) for name in ("cameras", "image_size", "shadows", "reflections", "multisampling")
    }
    return {"pictures": json.dumps(pictures), "expert": json.dumps(asdict(settings))}


def _demo(episode: CollectedEpisode, config: SimulatorConfig, settings: ExpertSettings) -> Demo:
    demo = episode.demo
    assert demo is not None
    assert demo.actions is not None
    attrs = {**demo.attrs, **_settings_attrs(config, settings), "episode": episode.spec.key, "task": episode.spec.task}
    return Demo(demo.actions, demo.images, demo.states, demo.instruction, attrs, demo.proprio)


def _result(episode: CollectedEpisode, mark: str) -> EpisodeResult:
    spec = episode.spec
    result = EpisodeResult(spec.suite, spec.task, spec.seed, spec.init_state, episode.success)
    result.steps = episode.demo.num_steps if episode.demo else 0
    result.error, result.fingerprint = episode.error, mark
    return result
