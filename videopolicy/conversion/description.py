"""What networks the weights of a file are of, and what an experiment adds to them to make a whole checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from datamodules import ActionStatistics, Preprocessing
from datamodules.datamodule import DemoDataModule
from files.errors import UserError
from lightning_modules import Stage
from networks import build
from policies.checkpoint import current_description
from videopolicy.conversion.layout import LABEL_BY_PART, part_of
from videopolicy.conversion.source import Source
from videopolicy.experiment.command_line import CommandLine
from videopolicy.experiment.files import read_part, stages_of_experiment
from videopolicy.experiment.skeleton import expected_preprocessing, without_weights
from videopolicy.experiment.stage_run import StageRun


class Description:
    """An experiment's side of a conversion, read before the weights are.

    Args:
        configs: Experiment files, merged left to right.
        video: A part file to put in place of the experiment's video model, or None.
        statistics: A JSON file with action statistics, or None: measure the experiment's demos.

    Raises:
        UserError: A file cannot be used.
    """

    def __init__(self, configs: Sequence[Path], video: Path | None, statistics: Path | None) -> None:
        overrides = [] if video is None else [("model.video", read_part(video))]
        self.line = CommandLine("fit", [str(path) for path in configs], overrides)
        self.experiment = self.line.experiment()
        self.statistics = None if statistics is None else read_statistics(statistics)
        self._rollout: dict[str, Any] = {}

    def networks(self, acts: bool, whole: bool) -> Stage:
        """The experiment's stage on the meta device.

        Args:
            acts: The stage with the action network rather than the first one.
            whole: With the range of the actions, for `entries`.

        Raises:
            UserError: The experiment cannot be used, or there are no statistics.
        """
        stage = stages_of_experiment(self.experiment)[-1 if acts else 0]
        config = without_weights(self.line.stage_config(self.experiment, stage))
        run = StageRun(config)
        if whole and "rollout" in run.config:
            self._rollout = {"rollout": run.built("rollout").rollout.record()}
        model: Stage
        with torch.device("meta"):
            model, data = run.parts()
        preprocessing = self._preprocessing(data) if whole else expected_preprocessing(data)
        with torch.device("meta"):
            model.attach(preprocessing)
        return model

    def entries(self, path: str, names: Sequence[str], model: Stage) -> dict[str, Any]:
        """What the checkpoint needs beside its weights; ``state_dict`` is not among it.

        Args:
            path: The input, for messages.
            names: Of the weights in the state dict.
            model: From `networks`.

        Raises:
            UserError: The experiment's networks have other weights.
        """
        there = {part_of(name, "native") for name in names}
        wanted = set(model.state_dict())
        if "adapter" not in there:  # a stage that is trained keeps the parts that the file does not have
            absent = set(LABEL_BY_PART) - there
            wanted = {name for name in wanted if part_of(name, "native") not in absent}
        if wrong := sorted(wanted ^ set(names)):
            more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise UserError(
                f"{path}: {len(wrong)} weights are only in one of the file and the experiment's networks: "
                f"{', '.join(wrong[:10])}{more}. Give the experiment that these weights were trained with."
            )
        document: dict[str, Any] = {}
        model.on_save_checkpoint(document)
        return document | self._rollout

    def _preprocessing(self, data: DemoDataModule) -> Preprocessing:
        if self.statistics is not None:
            return expected_preprocessing(data, self.statistics)
        try:
            return data.preprocessing
        except UserError as error:
            raise UserError(
                f"{self.line.configs[0]}: the range of the actions is in no published checkpoint and could not be "
                f"measured ({error}) Give --statistics FILE with "
                '{"minimum": [...], "maximum": [...]}, or put the demos where data.init_args.paths says.'
            ) from error


def networks_of(source: Source, video: Path | None) -> Any:  # noqa: ANN401 - as `expected_weights` takes them
    """The networks of a file without an experiment: those that it describes itself, or a video model alone.

    Args:
        source: The file.
        video: The part file of a video model, or None.

    Raises:
        UserError: Neither says what they are.
    """
    policy = source.description.get("policy")
    network = {"video": source.description.get("network")}
    described: Mapping[str, Any] = current_description(policy)["init_args"] if policy else network
    if video is not None:
        part = without_weights(read_part(video))
        part["init_args"] = {**part.get("init_args", {}), "num_views": 1, "num_frames": 1}  # they change no shape
        described = {**described, "video": part}
    if not isinstance(described.get("video"), Mapping):
        raise UserError(
            f"{source.path}: does not say of what networks its weights are; give the experiment that they were trained "
            "with (-c experiments/robocasa.yaml), or for a video network alone its part file (--model.video "
            "experiments/networks/svd.yaml)."
        )
    parts = [name for name in ("video", "adapter", "action_unet") if name in described]
    with torch.device("meta"):
        return SimpleNamespace(**{name: build(described[name], load_pretrained=False) for name in parts})


def read_statistics(path: Path) -> ActionStatistics:
    """Action statistics from a JSON file: two lists, or the file that is kept beside demos.

    Raises:
        UserError: It is not there, or holds something else.
    """
    try:
        content = json.loads(path.read_text())
        values = {"method": "minmax", "constant": "error", **content.get("statistics", content)}
        statistics = ActionStatistics.from_dict(values)
        same_length = len(statistics.minimum) == len(statistics.maximum) > 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: no action statistics ({type(error).__name__}: {error}); write "
            '{"minimum": [...], "maximum": [...]} with a number an action dimension.'
        ) from error
    if not same_length:
        raise UserError(
            f"{path}: {len(statistics.minimum)} minima and {len(statistics.maximum)} maxima; give one of each an "
            "action dimension."
        )
    return statistics
