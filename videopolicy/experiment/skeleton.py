"""A stage without its data and published weights: on shapes alone, or with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datamodules import ActionStatistics, Preprocessing
from datamodules.datamodule import DemoDataModule
from files.errors import UserError
from lightning_modules import ActionStage, Stage
from networks import ResidualPreconditioning
from videopolicy.experiment.command_line import CommandLine
from videopolicy.experiment.files import Config
from videopolicy.experiment.stage_run import StageRun

ARM_AND_GRIPPER = tuple(range(7))  # what every source records that names no action dimensions of its own


def skeleton(
    configs: Sequence[str | Path],
    stage: str,
    overrides: Sequence[tuple[str, Any]] = (),
    statistics: ActionStatistics | None = None,
) -> Stage:
    """A stage on the meta device, as `lightning fit` would build it: every shape, no memory, no download, no demos.

    Args:
        configs: Experiment files, merged left to right.
        stage: The stage to build.
        overrides: Dotted keys and values, as on the command line.
        statistics: Action statistics to put in; None puts in -1 to 1.

    Raises:
        UserError: The experiment cannot be used, or leaves the image size to the demos.
    """
    line = CommandLine("fit", [str(path) for path in configs], list(overrides), stage)
    with torch.device("meta"):
        model = _attached(line, stage, statistics)
    return model.to("meta")  # diffusers makes a few of its parameters on the CPU whatever the context says


def random_stage(line: CommandLine, stage: str) -> Stage:
    """A stage with random weights (always the same) that computes without having seen data."""
    torch.manual_seed(0)
    model = _attached(line, stage)
    make_computable(model)
    return model


def complete_config(line: CommandLine, stage: str) -> Config:
    """A stage's config, defaults included, without weights to load."""
    return _parsed(line, stage).document


def make_computable(stage: Any) -> None:  # noqa: ANN401 - only an action stage has a standardizer
    """Give a stage that has seen no data what it measures on data: spreads of one, features left as they are."""
    preconditioning = stage.video.preconditioning
    if isinstance(preconditioning, ResidualPreconditioning) and not preconditioning.fitted:
        preconditioning.std = torch.ones(stage.video.latent_shape(stage.data.image_size), device=stage.device)
    if isinstance(stage, ActionStage):
        stage.policy.standardizer = None


def _attached(line: CommandLine, stage: str, statistics: ActionStatistics | None = None) -> Stage:
    model: Stage
    model, data = _parsed(line, stage).parts()
    model.attach(expected_preprocessing(data, statistics))
    return model


def _parsed(line: CommandLine, stage: str) -> StageRun:
    return StageRun(without_weights(line.stage_config(line.experiment(), stage)))


def expected_preprocessing(data: DemoDataModule, statistics: ActionStatistics | None = None) -> Preprocessing:
    """What a datamodule's windows will look like, from its settings alone.

    Raises:
        UserError: ``image_size`` is left to the demos.
    """
    if data.image_size is None:
        raise UserError(
            "data.init_args.image_size is not set, so only the demos know it; add --data.image_size, for instance 256."
        )
    dims = tuple(data.action_dims or data.default_action_dims or ARM_AND_GRIPPER)
    return Preprocessing(
        cameras=tuple(data.cameras),
        image_size=data.image_size,
        num_frames=data.num_frames,
        frame_stride=data.frame_stride,
        action_horizon=data.action_horizon,
        action_dims=dims,
        num_observations=data.num_observations,
        statistics=statistics or ActionStatistics((-1.0,) * len(dims), (1.0,) * len(dims)),
    )


def without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config in which no part names weights to load (``pretrained``, ``condition_pretrained``)."""

    def clear(value: Any) -> Any:  # noqa: ANN401 - any YAML value
        if isinstance(value, Mapping):
            return {key: None if str(key).endswith("pretrained") else clear(item) for key, item in value.items()}
        return [clear(item) for item in value] if isinstance(value, list) else value

    cleared: dict[str, Any] = clear(config)
    return cleared
