"""Policies and video models out of checkpoints alone: no experiment file, no handoff, no training object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from datamodules import Preprocessing
from files.errors import UserError
from networks import VideoModel, build, read_checkpoint
from networks.inference import CompileMode, Precision, prepare_for_inference
from policies.feature_levels import FeatureLevels, FixedLevel, SharedLevels
from policies.policy import Policy
from policies.video_policy import VideoPolicy

_FLAT = {"video", "adapter", "action_unet", "sampler", "video_sampler", "taps"}  # of descriptions before version 0.2
_FLAT_LEVELS = {"noise_levels", "video_sigma", "standardize_features"}
_FLAT_LATER = {"video_steps", "video_sigma_end"}  # which the oldest do not have


def load_policy(
    checkpoint: str | Path,
    device: str | torch.device = "cpu",
    document: dict[str, Any] | None = None,
    precision: Precision = "float32",
    compile_mode: CompileMode | None = None,
    channels_last: bool = False,
) -> Policy:
    """Build a policy from its checkpoint, ready to act.

    Args:
        checkpoint: A ``.ckpt`` written by a stage that trains a policy.
        device: Where the policy runs.
        document: The file's content, if `read_checkpoint` has read it already.
        precision: Type of the weights of the networks that every replan runs.
        compile_mode: Compile these with `torch.compile`; ``reduce-overhead`` replays CUDA graphs on a GPU.
        channels_last: Keep their feature maps with the channels innermost.

    Raises:
        UserError: The file is missing, holds no policy, holds code instead of plain data, or its weights do not fit
            its own description.
    """
    document = document or read_checkpoint(checkpoint)
    if "policy" not in document and "preprocessing" not in document:
        raise UserError(
            f"{checkpoint}: holds weights without a description of the policy; convert it again with the experiment: "
            "videopolicy convert -c experiments/robocasa.yaml ...."
        )
    if "policy" not in document:
        raise UserError(
            f"{checkpoint}: no policy inside; it has {sorted(document)}. Give a checkpoint of the action stage, "
            "for instance runs/lift/action/checkpoints/last.ckpt."
        )
    policy = build_policy(document["policy"], Preprocessing.from_dict(document["preprocessing"]))
    missing, unexpected = policy.load_state_dict(document["state_dict"], strict=False)
    if missing or unexpected:
        raise UserError(f"{checkpoint}: weights do not fit: missing {missing[:5]}, unexpected {unexpected[:5]}.")
    policy = policy.to(device).eval()
    prepare_for_inference(policy.networks(), precision, channels_last, compile_mode)
    return policy


def build_policy(description: Mapping[str, Any], preprocessing: Preprocessing) -> Policy:
    """A policy with fresh weights.

    Args:
        description: `Policy.config` of the policy to rebuild, or that of an older version.
        preprocessing: What it was made for.

    Raises:
        UserError: A setting is missing or unknown, or a network refuses one.
    """
    policy = build(current_description(description), load_pretrained=False)
    if not isinstance(policy, Policy):
        raise UserError(f"policy: {description.get('class_path')!r} is no Policy.")
    if isinstance(policy, VideoPolicy):
        policy.video.freeze()
    policy.attach(preprocessing)
    return policy


def load_video_model(checkpoint: str | Path, device: str | torch.device = "cpu") -> tuple[VideoModel, Preprocessing]:
    """The video model of a checkpoint of any stage, frozen, and what it was trained to see.

    Raises:
        UserError: The file is missing, or holds no video model or no description of it.
    """
    document = read_checkpoint(checkpoint)
    policy = document.get("policy")
    description = document.get("network") or (policy and current_description(policy)["init_args"].get("video"))
    if not description or "preprocessing" not in document:
        raise UserError(f"{checkpoint}: no video model with its description inside; it has {sorted(document)}.")
    video: VideoModel = build(description, load_pretrained=False)
    weights = {n.removeprefix("video."): w for n, w in document["state_dict"].items() if n.startswith("video.")}
    video.load_state_dict(weights)
    return video.to(device).freeze(), Preprocessing.from_dict(document["preprocessing"])


def current_description(description: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's description as this version writes it.

    Raises:
        UserError: It is neither of this nor of an older version.
    """
    if "class_path" in description:
        return dict(description)
    found, needed = set(description), _FLAT | _FLAT_LEVELS
    wrong = [f"key {key!r} unknown" for key in sorted(found - needed - _FLAT_LATER)]
    if wrong := wrong + [f"key {key!r} missing" for key in sorted(needed - found)]:
        raise UserError(
            f"The checkpoint was made by another version: policy: {'; '.join(wrong)}. Use the version that made it."
        )
    features: FeatureLevels = SharedLevels()
    if description["noise_levels"] == "independent":
        features = FixedLevel(
            description["video_sigma"],
            description.get("video_steps", 0),
            description.get("video_sigma_end", 1.0),
            standardize=description["standardize_features"],
        )
    arguments = {name: description[name] for name in ("video", "adapter", "action_unet", "taps")}
    samplers = {name: description[name] for name in ("sampler", "video_sampler")}
    path = f"{VideoPolicy.__module__}.{VideoPolicy.__qualname__}"
    return {"class_path": path, "init_args": {**arguments, "features": features.config, **samplers}}
