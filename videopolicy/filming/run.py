"""From a checkpoint and a stage's config to everything that the report says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from datamodules import Preprocessing
from datamodules.demos import DemoEntry
from files.differences import differing_keys
from files.errors import UserError
from networks import Sampler, build
from policies.checkpoint import load_video_model
from videopolicy.experiment.stage_run import StageRun
from videopolicy.filming.measure import Filming, Shown, in_turns, measure, wrong_instructions
from videopolicy.filming.scores import NUM_RESAMPLES, Measured, resamples
from videopolicy.hardware import chosen_device, hardware
from videopolicy.versions import git_commit

SEEN = ("cameras", "image_size", "num_frames", "frame_stride")  # what checkpoint and data must agree on


@dataclass(frozen=True)
class Filmed:
    """What `write_report` and `write_sheets` take."""

    facts: dict[str, Any]
    rows: list[dict[str, Any]]
    shown: list[Shown]
    preprocessing: Preprocessing


def film(
    checkpoint: Path,
    stage: dict[str, Any],
    steps: Sequence[int],
    num_demos: int,
    num_windows: int,
    num_shown: int,
    device_name: str | None,
    console: Console,
) -> Filmed:
    """Film held-out demos with a checkpoint's video network.

    Args:
        checkpoint: Of any stage that has one.
        stage: Composed config of the stage whose held-out demos and sampler are taken.
        steps: Numbers of sampling steps.
        num_demos: At most so many demos, tasks in turn.
        num_windows: Windows a demo.
        num_shown: Demos to draw.
        device_name: As `chosen_device` takes it.
        console: Shows the progress.
    """
    device = chosen_device(device_name)
    video, preprocessing = load_video_model(checkpoint, device)
    data, sampler = data_and_sampler(stage)
    require_same(checkpoint, preprocessing, data.preprocessing)
    demos = in_turns(data.val_set.demos, num_demos)
    filming = Filming(video, preprocessing, sampler, steps, wrong_instructions(demos))
    bar = iter(track(range(len(demos)), "demos filmed", console=console, transient=True))
    next(bar)
    found = measure(filming, data.val_set, demos, num_windows, num_shown, lambda: next(bar, None))
    drawn = resamples(len(demos))
    measured = {row: Measured(sums, drawn) for row, sums in found.sums.items()}
    rows = [
        {
            "condition": row.condition,
            "steps": row.steps,
            "seconds_per_window": found.seconds[row],
            **values.document(preprocessing.cameras, measured[filming.compared_to(row)]),
        }
        for row, values in measured.items()
    ]
    facts = {
        "checkpoint": str(checkpoint),
        "demos": [str(demo) for demo in demos],
        "windows_per_demo": num_windows,
        "sampler": sampler.config,
        "resamples": NUM_RESAMPLES,
        "hardware": hardware(device),
        "commit": git_commit(),
        "date": date.today().isoformat(),
    }
    return Filmed({**facts, "summary": summary(facts, demos, sampler)}, rows, found.shown, preprocessing)


def summary(facts: dict[str, Any], demos: Sequence[DemoEntry], sampler: Sampler) -> str:
    """What was measured, in two sentences."""
    tasks = len({demo.task for demo in demos})
    text = (
        f"{len(demos)} held-out demos of {tasks} task{'s' if tasks > 1 else ''}, {facts['windows_per_demo']} windows "
        f"each, from noise level {sampler.sigma_max:g} with guidance {sampler.guidance:g}; {facts['hardware']}, "
        f"{facts['date']}, commit {facts['commit']}."
    )
    one = "" if wrong_instructions(demos) else " One instruction only, so none is wrong: that control is left out."
    return text + one


def data_and_sampler(stage: dict[str, Any]) -> tuple[Any, Sampler]:
    """The datamodule of a stage's config, set up for all demos that were filmed, and the sampler of its videos.

    Raises:
        UserError: No demo is held out.
    """
    cli = StageRun(stage)
    data = cli.data_alone()
    data.latent_cache, data.video_only_tasks = None, []  # pictures are compared; tasks that were watched count too
    data.setup()
    if not len(data.val_set):
        raise UserError(
            "data.init_args.val_fraction: no demo is held out, so nothing can be measured; give an experiment with "
            "held-out demos with -c, or -- --data.init_args.val_fraction 0.1 if the network has not seen these demos."
        )
    arguments = cli.document["model"]["init_args"]
    described = arguments.get("video_sampler") or arguments.get("sampler")
    return data, build(described) if described else Sampler()


def require_same(checkpoint: Path, trained: Preprocessing, data: Preprocessing) -> None:
    """Refuse data that the network was not trained to see.

    Raises:
        UserError: Lists the keys.
    """
    here, there = ({name: getattr(one, name) for name in SEEN} for one in (data, trained))
    if wrong := differing_keys(here, there):
        raise UserError(f"{checkpoint}: was trained on other windows than the experiment's: {'; '.join(wrong)}.")
