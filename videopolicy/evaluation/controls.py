"""What a success rate is compared with at no cost of training: networks that learned nothing, and blind replay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datamodules import Preprocessing
from datamodules.demo_files import find_files
from datamodules.hdf5 import open_demo_file
from datamodules.readers import RobomimicReader, demo_group, demo_names, detect_reader
from networks.randomness import isolated_stream, stream_seed
from policies import Policy, build_policy


@torch.no_grad()
def forget_training(policy: Policy, document: Mapping[str, Any]) -> None:
    """Draw what the last stage trained anew, the same numbers at every call; what was frozen stays.

    Args:
        policy: Loaded from the checkpoint; its weights are replaced.
        document: Content of the checkpoint.
    """
    with isolated_stream(stream_seed(0, "untrained")):
        fresh = build_policy(document["policy"], Preprocessing.from_dict(document["preprocessing"]))
    trained = {id(weight) for group in fresh.parameter_groups() for weight in group["params"]}
    weights = dict(policy.named_parameters())
    for name, weight in fresh.named_parameters():
        if id(weight) in trained:
            weights[name].copy_(weight)


def demo_actions(path: Path) -> dict[str, list[npt.NDArray[Any]]]:
    """Task -> recorded action sequences (L, D) of all its demos, in a file or in all files of a folder.

    Raises:
        UserError: A file cannot be read, or there is none.
    """
    actions: dict[str, list[npt.NDArray[Any]]] = {}
    for name in find_files(path):
        with open_demo_file(name) as file:
            task = (detect_reader(file) or RobomimicReader()).task(file)
            actions.setdefault(task, []).extend(
                np.asarray(demo_group(file, demo)["actions"]) for demo in demo_names(file)
            )
    return actions
