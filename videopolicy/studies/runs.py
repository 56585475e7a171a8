"""The runs of a study: a row, a number of action demos and a training seed each; and the stages 1 that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from files.errors import UserError
from files.hashes import json_sha256
from files.writing import write_text
from videopolicy.experiment.files import TWO_STAGES, Config, merge, plain, stage_config, stages_of_experiment
from videopolicy.studies.definition import Study, with_run

FIXED = [("run_dir", "RUN")]  # ${run_dir} stands in configs, and where a run lies changes nothing
FREE = ("name", "source", "groups", "episodes_per_task", "timeout_s")  # keys of a protocol that change no episode


@dataclass(frozen=True)
class Stage1:
    """A video stage that one or several runs read.

    Attributes:
        key: Of its resolved config: runs whose video stages are equal share one.
        experiment: To train it from.
        is_trained: Whether it has steps to train.
    """

    key: str
    experiment: Config
    is_trained: bool = True


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Attributes:
        row: Of the study.
        action_demos: Demos of each task that have actions; None for all.
        seed: Of the training, and of the draw of these demos.
        experiment: To train it from.
        stage1: The video stage that it reads; None for an experiment in one stage.
        fingerprint: Of all that its results depend on, episodes and code apart; runs of equal ones are one run.
        blind: What acts in place of a trained policy; None: nothing does.
    """

    row: str
    action_demos: int | None
    seed: int
    experiment: Config
    stage1: Stage1 | None
    fingerprint: str
    blind: str | None = None

    @property
    def k(self) -> str:
        """The number of action demos in words."""
        return words(self.action_demos)

    @property
    def name(self) -> str:
        """What it is called in file names."""
        return f"{self.row}_k{self.k}_seed{self.seed}"

    @property
    def stage(self) -> str:
        """The stage whose policy is rolled out."""
        return stages_of_experiment(self.experiment)[-1]

    def folder(self, output: Path) -> Path:
        """Its run directory."""
        return output / "runs" / self.row / f"k{self.k}" / f"seed{self.seed}"


def words(action_demos: int | None) -> str:
    """A number of action demos as tables and file names have it."""
    return "all" if action_demos is None else str(action_demos)


def runs_of(study: Study) -> list[Run]:
    """All runs, those of the first seed first, so that a study that is stopped has whole seeds.

    Raises:
        UserError: A row's experiment cannot be resolved.
    """
    points = [(seed, k, row) for seed in study.seeds for k in study.action_demos for row in study.experiments]
    return [_run(study, row, k, seed) for seed, k, row in points]


def _run(study: Study, row: str, k: int | None, seed: int) -> Run:
    experiment = with_run(study.experiments[row], k, seed)
    protocol = {key: value for key, value in plain(study.protocol).items() if key not in FREE}
    if blind := study.blind.get(row):
        content = {"policy": blind, "protocol": protocol, "variation": study.variation}
        content |= {"demos": demos_of(experiment)} if blind == "replay" else {}
        return Run(row, k, seed, experiment, None, json_sha256(content, 16), blind)
    try:
        stages = stages_of_experiment(experiment)
        configs = {stage: stage_config(experiment, stage, FIXED) for stage in stages}
    except UserError as error:
        raise UserError(f"study {study.name}: rows.{row}: {error}") from None
    stage1 = _stage1(experiment, configs["video"]) if stages == TWO_STAGES else None
    content = {"configs": configs, "protocol": protocol, "variation": study.variation}
    return Run(row, k, seed, experiment, stage1, json_sha256(content, 16))


def demos_of(experiment: Config) -> str:
    """The file or folder of an experiment's demos, which blind replay plays."""
    return str(plain(experiment)["data"]["init_args"]["paths"])


def _stage1(experiment: Config, config: Config) -> Stage1:
    """The video stage of a two-stage experiment, without what only the action stage reads."""
    data = dict(config["data"]["init_args"])
    watched = {"action_demos": None, "video_demos": data.get("video_demos")}
    watched["demo_seed"] = data.get("demo_seed") if watched["video_demos"] is not None else None
    seen = {**config, "data": {**config["data"], "init_args": data | watched}}
    is_trained = (config.get("trainer") or {}).get("max_steps") != 0
    return Stage1(json_sha256(seen, 12), merge(experiment, {"data": {"init_args": watched}}), is_trained)


def share(runs: Sequence[Run], index: int, count: int) -> list[Run]:
    """The runs of one of several machines: those that share a stage 1 stay together, and numbers are about equal.

    Args:
        runs: All runs.
        index: Of the machine, from 1 on.
        count: Machines.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.stage1.key if run.stage1 else run.name, []).append(run)
    parts: list[list[Run]] = [[] for _ in range(count)]
    for members in sorted(groups.values(), key=len, reverse=True):
        min(parts, key=len).extend(members)
    chosen = {run.name for run in parts[index - 1]}
    return [run for run in runs if run.name in chosen]


def write_composed(experiment: Config, folder: Path) -> Path:
    """An experiment as a file in the folder of its run, which `lightning fit -c` takes."""
    path = folder / "experiment.yaml"
    text = "# Composed by videopolicy study; `lightning fit -c` takes it.\n"
    write_text(path, text + yaml.safe_dump(plain(experiment), sort_keys=False))
    return path
