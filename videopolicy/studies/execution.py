"""From the runs of a study that are missing to the commands that make them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from files.errors import UserError
from files.writing import write_text
from rollouts import EpisodeResult
from videopolicy.evaluation.request import EvaluationRequest
from videopolicy.evaluation.results_directory import Evaluation, read_evaluation
from videopolicy.evaluation.threads import num_cores
from videopolicy.experiment.files import plain, stage_config
from videopolicy.experiment.run_directory import StageDirectory
from videopolicy.hardware import hardware
from videopolicy.studies.definition import Study
from videopolicy.studies.results import Level, Outcomes, RunResult, result_path, write_result
from videopolicy.studies.runs import Run, Stage1, demos_of, write_composed
from videopolicy.studies.schedule import Command, Task
from videopolicy.versions import git_commit

LIGHTNING = (sys.executable, "-m", "videopolicy.lightning_cli", "fit")
EVALUATE = (sys.executable, "-m", "videopolicy.main")
MAX_JOBS = 4  # on a CPU, unless told: every job takes gigabytes of memory


def environments(jobs: int | None) -> list[dict[str, str]]:
    """What every slot adds to the environment: a GPU of its own where there are several, or its share of the cores.

    Args:
        jobs: So many slots; None: one a GPU, or else one a core. A single one has the whole machine.
    """
    num_gpus = torch.cuda.device_count()
    count = jobs or num_gpus or min(num_cores(), MAX_JOBS)
    if count == 1:
        return [{}]
    if num_gpus:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = shown.split(",") if shown else [str(index) for index in range(num_gpus)]
        return [{"CUDA_VISIBLE_DEVICES": names[slot % len(names)]} for slot in range(count)]
    threads = str(max(num_cores() // count, 1))
    return [{"OMP_NUM_THREADS": threads, "LP_NUM_THREADS": threads} for _ in range(count)]  # LP: of software OpenGL


def tasks_of(study: Study, runs: Sequence[Run], output: Path) -> list[Task]:
    """What is to be run, every stage 1 right before the first run that reads it.

    Args:
        study: The study.
        runs: Those that are missing.
        output: The study's folder.
    """
    protocol = output / "protocol.yaml"
    write_text(protocol, yaml.safe_dump(plain(study.protocol), sort_keys=False))
    tasks: list[Task] = []
    stages1: dict[str, Task] = {}
    for run in runs:
        if run.stage1 is not None and run.stage1.key not in stages1:
            stages1[run.stage1.key] = _stage1_task(run.stage1, output)
            tasks.append(stages1[run.stage1.key])
        tasks.append(_run_task(study, run, output, protocol, stages1))
    return tasks


def _stage1_task(stage1: Stage1, output: Path) -> Task:
    folder = output / "stage1" / stage1.key
    directory = StageDirectory(folder, "video")

    def commands() -> list[Command]:
        if directory.finished() and directory.handoff_manifest({}).is_file():
            return []
        resumed = directory.path.exists()
        path = write_composed(stage1.experiment, folder)
        words = (*LIGHTNING, "-c", str(path), "--stage", "video", "--run_dir", str(folder))
        return [Command("video", words, resumed)]

    return Task(f"stage 1 {stage1.key}", commands, folder / "log.txt")


def _run_task(study: Study, run: Run, output: Path, protocol: Path, stages1: Mapping[str, Task]) -> Task:
    folder = run.folder(output)
    stage1 = None if run.stage1 is None else stages1[run.stage1.key]
    last = StageDirectory(folder, run.stage).last

    def commands() -> list[Command]:
        resumed = last.parent.exists() or any(place.exists() for _, place in places)
        evaluations = [_evaluation(study, run, last, protocol, place, level) for level, place in places]
        rollouts = [Command("evaluation", call, resumed) for call in evaluations]
        if run.blind is not None:
            return rollouts
        path = write_composed(run.experiment, folder)
        words = [*LIGHTNING, "-c", str(path), "--stage", run.stage, "--run_dir", str(folder)]
        if run.stage1 is not None:
            words += ["--handoff", str(output / "stage1" / run.stage1.key / "handoff")]
        return [Command("action", words, resumed), *rollouts]

    def finish(seconds: dict[str, float]) -> str | None:
        times = {**(stage1.seconds if stage1 else {}), **seconds}
        try:
            result = _result(run, [(level, read_evaluation(place)) for level, place in places], times)
            write_result(result_path(output, run), result)
        except UserError as error:
            return str(error)
        if run.blind is None:
            _remove_features(run, folder)
        return None

    places = [(level, folder / "evaluations" / f"{study.variation or 'standard'}_{level:g}") for level in study.levels]
    return Task(run.name, commands, folder / "log.txt", None if stage1 is None else stage1.name, finish)


def _evaluation(study: Study, run: Run, checkpoint: Path, protocol: Path, place: Path, level: float) -> list[str]:
    """One process that rolls out and one that draws take turns, so an evaluation keeps about one core busy."""
    acting: dict[str, Any] = {"checkpoint": checkpoint}
    if run.blind is not None:
        acting = {"policy": run.blind}
        if run.blind == "replay":
            acting["demos"] = Path(demos_of(run.experiment))
    request = EvaluationRequest(
        **acting,
        protocol=str(protocol),
        episodes=study.episodes,
        variation={study.variation: level} if study.variation and level else {},
        workers=1,
        videos=study.videos,
        output=place,
    )
    return [*EVALUATE, *request.command()[1:]]


def _result(run: Run, found: Sequence[tuple[float, Evaluation]], seconds: dict[str, float]) -> RunResult:
    return RunResult(
        row=run.row,
        action_demos=run.action_demos,
        seed=run.seed,
        fingerprint=run.fingerprint,
        stage1=run.stage1.key if run.stage1 else None,
        levels=[Level(level, _outcomes(evaluation.results)) for level, evaluation in found],
        seconds={part: round(value, 1) for part, value in seconds.items()},
        commit=git_commit(),
        hardware=hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")).partition(",")[0],
        warnings=list(dict.fromkeys(w for _, part in found for w in part.summary_file.get("warnings", []))),
    )


def _outcomes(results: Sequence[EpisodeResult]) -> Outcomes:
    outcomes: Outcomes = {}
    for result in sorted(results, key=lambda result: result.seed):
        outcomes.setdefault(result.task, {})[str(result.seed)] = result.success
    return outcomes


def _remove_features(run: Run, folder: Path) -> None:
    """Cached features are as large as the demos, and nobody reads those of a finished run."""
    config = stage_config(run.experiment, run.stage, [("run_dir", str(folder))])
    cache = Path((config.get("features") or {}).get("folder") or "/")
    if folder in cache.parents:
        shutil.rmtree(cache, ignore_errors=True)


# --- how long it takes ------------------------------------------------------------------------------------------------


def hours_of(study: Study, results: Sequence[RunResult]) -> Callable[[Run, str], float]:
    """Hours of a part of a run: what it took in finished runs of its row, or else what the study's head says."""

    def hours(run: Run, part: str) -> float:
        known = [result.seconds[part] for result in results if result.row == run.row and part in result.seconds]
        if known:
            return sum(known) / len(known) / 3600
        if (part == "video" and not (run.stage1 and run.stage1.is_trained)) or (part == "action" and run.blind):
            return 0.0
        times = len(study.levels) if part == "evaluation" else 1
        return float(getattr(study.cost, part)) * times

    return hours
