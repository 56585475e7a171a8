"""What an experiment adds to converted weights: how to build the networks, what they see, how they are judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datamodules import ActionStatistics, Preprocessing
from datamodules.datamodule import DemoDataModule
from files.errors import UserError
from lightning_modules import Stage
from networks.checkpoints.layout import LABEL_BY_PART, NATIVE_PREFIX_BY_PART, part_of
from videopolicy.experiment.command_line import CommandLine
from videopolicy.experiment.files import read_part, stages_of_experiment
from videopolicy.experiment.skeleton import expected_preprocessing, without_weights
from videopolicy.experiment.stage_run import StageRun

Shapes = Mapping[str, tuple[int, ...]]


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

    def entries(self, path: str, shapes: Shapes) -> dict[str, Any]:
        """What the checkpoint needs beside its weights; ``state_dict`` is not among it.

        Args:
            path: The input, for messages.
            shapes: Shapes of the state dict by name.

        Raises:
            UserError: The experiment's networks are not those of the weights, or there are no statistics.
        """
        has_policy = all(_has(shapes, part) for part in ("adapter", "action_unet"))
        stage = stages_of_experiment(self.experiment)[-1 if has_policy else 0]
        config = without_weights(self.line.stage_config(self.experiment, stage))
        cli = StageRun(config)
        model: Stage
        with torch.device("meta"):
            model, data = cli.parts()
        preprocessing = self._preprocessing(data)
        with torch.device("meta"):
            model.attach(preprocessing)
        self._require_same(path, shapes, model, whole=has_policy)
        document: dict[str, Any] = {}
        model.on_save_checkpoint(document)
        if "rollout" in cli.config:
            document["rollout"] = cli.built("rollout").rollout.record()
        return document

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

    def _require_same(self, path: str, shapes: Shapes, model: Stage, whole: bool) -> None:
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        absent = [part for part in LABEL_BY_PART if _has(wanted, part) and not _has(shapes, part)]
        if not whole:  # a stage that is trained keeps the parts that the file does not have
            wanted = {name: shape for name, shape in wanted.items() if part_of(name, "native") not in absent}
        wrong = [
            f"{name}: {shapes.get(name, 'nothing')} in the file, {wanted.get(name, 'nothing')} in the experiment"
            for name in sorted({*shapes, *wanted})
            if shapes.get(name) != wanted.get(name)
        ]
        if wrong:
            more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise UserError(
                f"{path}: {len(wrong)} weights are not those of the experiment's networks: {'; '.join(wrong[:10])}"
                f"{more}. {_advice(shapes, wanted)}"
            )


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


def _has(shapes: Shapes, part: str) -> bool:
    return any(name.startswith(NATIVE_PREFIX_BY_PART[part]) for name in shapes)


def _advice(shapes: Shapes, wanted: Shapes) -> str:
    if _has(shapes, "condition_encoder") and not _has(wanted, "condition_encoder"):
        return (
            "The file has a condition encoder of its own: add --model.video experiments/networks/reference.yaml, or "
            "set separate_condition_encoder: true."
        )
    return "Give the experiment that these weights were trained with."
