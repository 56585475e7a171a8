"""What a batch of windows is to a video model: condition and latents, from pictures or from what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules import Batch, Preprocessing
from files.differences import differing_keys
from files.errors import UserError
from networks import Conditioning, VideoModel


def draw_seeds(batch: Batch, training: bool) -> Sequence[int] | None:
    """Outside training the windows' numbers, so that an evaluation draws the same every time; None in training."""
    return None if training else batch.windows.tolist()


@torch.no_grad()
def conditioning_of(video: VideoModel, batch: Batch, seeds: Sequence[int] | None) -> Conditioning:
    """Condition latents and text tokens of a batch, from each camera's current frame and the instruction.

    Args:
        video: The video model.
        batch: B windows.
        seeds: One a window for the noise on the condition images; None draws from torch's global stream.
    """
    if batch.latents is not None:
        return video.condition_from_latents(batch.latents.condition.float(), batch.latents.text)
    result: Conditioning = video.condition(batch.frames[:, :, 0], batch.instructions, seeds)
    return result


@torch.no_grad()
def latents_of(video: VideoModel, batch: Batch, seeds: Sequence[int] | None) -> Tensor:
    """Latents (B, F, c, h, w) of the true frames, drawn from their posteriors; arguments as `conditioning_of`."""
    if batch.latents is not None:
        return video.latents_from_moments(batch.latents.moments.float(), seeds=seeds)
    return video.encode(batch.frames, seeds=seeds)


def encoded(video: VideoModel, batch: Batch, seeds: Sequence[int] | None) -> tuple[Tensor, Conditioning]:
    """Latents of the true frames, and what they are conditioned on."""
    return latents_of(video, batch, seeds), conditioning_of(video, batch, seeds)


def require_fit(video: VideoModel, preprocessing: Preprocessing) -> None:
    """Check that a video model has the views and frames of the data.

    Raises:
        UserError: The message lists the keys that differ.
    """
    found = {"num_views": video.num_views, "num_frames": video.num_frames}
    wanted = {"num_views": preprocessing.num_views, "num_frames": preprocessing.num_frames}
    if wrong := differing_keys(found, wanted):
        raise UserError(
            f"model.init_args.video does not fit the data (cameras {list(preprocessing.cameras)}): "
            + "; ".join(wrong)
            + ". Set both from the same place in the experiment file."
        )
