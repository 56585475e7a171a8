"""The trained policy as a rollout sees it: simulator observations in, raw action chunks out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules import Preprocessing
from lightning_modules.action_stage import ActionStage
from lightning_modules.differences import unknown_or_missing
from lightning_modules.policy_stage import PolicyStage
from networks import Conditioning, NetworkError, build, read_checkpoint
from networks.inference import CompileMode, Precision, prepare_for_inference
from simulators import PolicyReply, PolicyRequest

_PARTS = ("video", "adapter", "action_unet", "sampler", "video_sampler")
_NEEDED = (*_PARTS, "taps", "noise_levels", "video_sigma", "standardize_features")


class VideoPolicy:
    """Answer batches of observations with action chunks, through the training's own preprocessing.

    Args:
        stage: An action or joint stage whose data is attached; it is used as it stands, so a callback may judge the
            weights of a running training.
    """

    def __init__(self, stage: PolicyStage) -> None:
        self.stage = stage

    @torch.inference_mode()
    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        """Sample one action chunk a request.

        Noise is seeded by the request alone, so an answer does not depend on which other requests share the batch.

        Args:
            requests: Observations with a picture of every camera the policy was trained on.

        Returns:
            Actions in the demos' units (A, D), and where wanted predicted frames uint8 (V, T, H, W, 3).
        """
        was_training = self.stage.training
        self.stage.eval()
        try:
            wanted = [index for index, request in enumerate(requests) if request.want_prediction]
            seeds = [request.seed for request in requests]
            actions, latents = self.stage.sample(self._conditioning(requests), seeds, wanted)
            predictions = self._predictions(len(requests), wanted, latents)
        finally:
            self.stage.train(was_training)
        raw = self.stage.data.denormalize_actions(actions.float().clamp(-1.0, 1.0)).cpu().numpy()
        return [
            PolicyReply(actions=chunk.astype(np.float32), prediction=prediction)
            for chunk, prediction in zip(raw, predictions, strict=True)
        ]

    def _conditioning(self, requests: Sequence[PolicyRequest]) -> Conditioning:
        data = self.stage.data
        pictures = torch.stack([data.stack(request.observation.images) for request in requests])
        instructions = [request.observation.instruction for request in requests]
        current = data.to_float(pictures.to(self.stage.device))
        seeds = [request.seed for request in requests]
        return self.stage.video.condition(current, instructions, seeds=seeds)

    def _predictions(
        self, num_requests: int, wanted: Sequence[int], latents: Tensor | None
    ) -> list[npt.NDArray[np.uint8] | None]:
        predictions: list[npt.NDArray[np.uint8] | None] = [None] * num_requests
        if latents is None:
            return predictions
        frames = self.stage.data.to_uint8(self.stage.video.decode(latents).float())
        for index, clip in zip(wanted, frames.movedim(-3, -1).cpu().numpy(), strict=True):
            predictions[index] = clip
        return predictions


def load_policy(
    checkpoint: str | Path,
    device: str | torch.device = "cpu",
    document: dict[str, Any] | None = None,
    precision: Precision = "float32",
    compile_mode: CompileMode | None = None,
    channels_last: bool = False,
) -> VideoPolicy:
    """Build a policy from an action-stage checkpoint alone; no experiment file or handoff is needed.

    Args:
        checkpoint: A ``.ckpt`` written by an action stage.
        device: Where the policy runs.
        document: The file's content, if `read_checkpoint` has read it already.
        precision: Type of the weights of video U-Net, adapter and action U-Net.
        compile_mode: Compile these three with `torch.compile`; ``reduce-overhead`` replays CUDA graphs on a GPU.
        channels_last: Keep their feature maps with the channels innermost.

    Raises:
        NetworkError: The file is missing, is no action-stage checkpoint, holds code instead of plain data, or its
            weights do not fit its own description.
    """
    document = document or read_checkpoint(checkpoint)
    if "policy" not in document and "preprocessing" not in document:
        raise NetworkError(
            f"{checkpoint}: holds weights without a description of the policy; convert it again with the experiment: "
            "videopolicy convert -c experiments/robocasa.yaml ...."
        )
    if "policy" not in document:
        raise NetworkError(
            f"{checkpoint}: no policy inside; it has {sorted(document)}. Give a checkpoint of the action stage, "
            "for instance runs/lift/action/checkpoints/last.ckpt."
        )
    stage = build_stage(document["policy"], Preprocessing.from_dict(document["preprocessing"]))
    missing, unexpected = stage.load_state_dict(document["state_dict"], strict=False)
    if missing or unexpected:
        raise NetworkError(f"{checkpoint}: weights do not fit: missing {missing[:5]}, unexpected {unexpected[:5]}.")
    policy = VideoPolicy(stage.to(device).eval())
    prepare_for_inference(stage.network, precision, channels_last, compile_mode)
    return policy


def build_stage(config: dict[str, Any], preprocessing: Preprocessing) -> ActionStage:
    """An action stage with fresh weights from its description.

    Args:
        config: `ActionStage.policy_config` of the stage to rebuild.
        preprocessing: Data the stage was trained on.

    Raises:
        NetworkError: A setting is missing or unknown, or a network refuses one.
    """
    if wrong := unknown_or_missing(config, _NEEDED, ("video_steps", "video_sigma_end")):  # older files lack these two
        raise NetworkError(
            f"The checkpoint was made by another version: policy: {wrong}. Use the version that made it."
        )
    parts = {name: build(config[name], load_pretrained=False) for name in _PARTS}
    adapter, action_unet = parts["adapter"], parts["action_unet"]
    stage = ActionStage(
        video=parts["video"],
        adapter=lambda *_: adapter,
        action_unet=lambda *_: action_unet,
        taps=config["taps"],
        noise_levels=config["noise_levels"],
        video_sigma=config["video_sigma"],
        video_steps=config.get("video_steps", 0),
        video_sigma_end=config.get("video_sigma_end", 1.0),
        standardize_features=config["standardize_features"],
        sampler=parts["sampler"],
        video_sampler=parts["video_sampler"],
    )
    stage.attach(preprocessing)
    return stage
