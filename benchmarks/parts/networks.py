"""A stage or a policy of an experiment with random weights, and generated inputs for it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules import Preprocessing
from lightning_modules import PolicyStage
from networks.inference import CompileMode, Precision, prepare_for_inference
from policies import Policy
from simulators import EpisodeSpec, Observation, PolicyRequest
from videopolicy.experiment.command_line import CommandLine
from videopolicy.experiment.skeleton import random_stage

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = {"small": "lift.yaml", "medium": "libero_object.yaml", "full": "robocasa.yaml"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which networks, and where."""
    parser.add_argument("--size", choices=tuple(EXPERIMENTS), default="small", help="lift, libero_object or robocasa")
    parser.add_argument("--overlay", action="append", default=[], metavar="FILE", help="laid over the experiment")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def command_line(
    args: argparse.Namespace, stage: str, overlays: Sequence[str | Path] = (), changes: Sequence[tuple[str, Any]] = ()
) -> CommandLine:
    """The size's experiment with overlays (a setting's own last) and dotted keys, as `lightning fit` has them."""
    files = [ROOT / "experiments" / EXPERIMENTS[args.size], *args.overlay, *overlays]
    return CommandLine("fit", [str(path) for path in files], list(changes), stage)


def random_policy(
    line: CommandLine, device: torch.device, precision: Precision = "float32", mode: CompileMode | None = None
) -> Policy:
    """The experiment's policy before any training."""
    stage = random_stage(line, "action").to(device).eval()
    assert isinstance(stage, PolicyStage), "the stage action trains a policy"
    prepare_for_inference(stage.policy.networks(), precision, compile_mode=mode)
    return stage.policy


def policy_request(data: Preprocessing, want_prediction: bool = False) -> PolicyRequest:
    """What a simulator asks of a policy: grey pictures of every camera."""
    images = {camera: np.full((data.image_size, data.image_size, 3), 128, np.uint8) for camera in data.cameras}
    seen = Observation(images, {}, "a task", 0)
    return PolicyRequest(seen, EpisodeSpec("cost", "none", 0), replan=0, seed=0, want_prediction=want_prediction)
