"""Clips to look at: layout, captions, mp4 files and TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image, ImageDraw
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from rollouts import Prediction, Recording

MIN_TILE = 128  # pixels; smaller pictures are enlarged
CAPTION = 18  # pixels above each row
FPS = 4.0


def grid(rows: Sequence[tuple[str, Sequence[npt.NDArray[np.uint8]]]]) -> npt.NDArray[np.uint8]:
    """Lay captioned rows of clips out over one another.

    Args:
        rows: Caption, and one clip uint8 (T, H, W, 3) a camera.

    Returns:
        uint8 (T, H', W', 3) with even sides, as video codecs want them.
    """
    bands = []
    for caption, clips in rows:
        size = clips[0].shape[1]
        factor = max(1, -(-MIN_TILE // size))
        picture = np.concatenate([clip.repeat(factor, axis=1).repeat(factor, axis=2) for clip in clips], axis=2)
        bands.append(np.concatenate([_caption(caption, picture), picture], axis=1))
    result: npt.NDArray[np.uint8] = np.concatenate(bands, axis=1)
    return result[:, : result.shape[1] // 2 * 2, : result.shape[2] // 2 * 2]


def side_by_side(recording: Recording) -> npt.NDArray[np.uint8]:
    """A rollout with what the policy predicted below what happened.

    A prediction is shown to its end before the next one is taken up, so the lower row is an open-loop prediction
    over the whole video horizon, not a copy of the last observation.

    Args:
        recording: Pictures of one episode.

    Returns:
        uint8 (T, H', W', 3).
    """
    executed = [np.stack([frame[camera] for frame in recording.frames]) for camera in recording.cameras]
    rows: list[tuple[str, Sequence[npt.NDArray[np.uint8]]]] = [(f"executed: {', '.join(recording.cameras)}", executed)]
    if recording.predictions:
        shown = _shown_predictions(recording)
        predicted = [np.stack([frames[view] for frames in shown]) for view in range(len(recording.cameras))]
        rows.append(("predicted", [_like(clip, executed[0]) for clip in predicted]))
    return grid(rows)


def _shown_predictions(recording: Recording) -> list[npt.NDArray[np.uint8]]:
    """For every executed frame the predicted frames (V, H, W, 3) of that moment."""
    waiting = iter(recording.predictions)
    current: Prediction = next(waiting)
    coming = next(waiting, None)
    result = []
    for step in recording.steps:
        horizon = current.frames.shape[1]
        while coming is not None and step - current.step >= horizon * recording.stride and coming.step <= step:
            current, coming = coming, next(waiting, None)
        index = min((step - current.step) // recording.stride, horizon - 1)
        result.append(current.frames[:, index])
    return result


def _like(clip: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Bring a predicted clip to the size of the executed one, which may be rendered larger."""
    size = other.shape[1]
    if clip.shape[1] == size:
        return clip
    return np.stack([np.asarray(Image.fromarray(frame).resize((size, size))) for frame in clip])


def _caption(text: str, clip: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    strip = Image.new("RGB", (clip.shape[2], CAPTION), (24, 24, 24))
    ImageDraw.Draw(strip).text((4, 3), text, fill=(240, 240, 240))
    return np.broadcast_to(np.asarray(strip), (len(clip), CAPTION, clip.shape[2], 3))


def predicted_and_true(predicted: Tensor, true: Tensor) -> npt.NDArray[np.uint8]:
    """Predicted above recorded frames, cameras side by side.

    Args:
        predicted: uint8 (V, T, 3, H, W).
        true: The same.
    """
    rows = [("predicted", predicted), ("recorded", true)]
    return grid([(caption, list(clip.movedim(2, -1).cpu().numpy())) for caption, clip in rows])


def write_clip(path: Path, clip: npt.NDArray[np.uint8], fps: float = FPS) -> None:
    """Write an mp4 that browsers play.

    Args:
        path: The file; its folder is made.
        clip: uint8 (T, H, W, 3).
        fps: Frames a second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, clip, fps=fps, codec="libx264", plugin="FFMPEG", macro_block_size=2)


@rank_zero_only
def log_clip(loggers: Iterable[Logger], tag: str, clip: npt.NDArray[np.uint8], step: int, fps: float = FPS) -> None:
    """Show a clip under TensorBoard's Images, moving, and as a film strip that stands still; rank 0 alone logs.

    torch's own `add_video` needs a moviepy older than 2, so the animation is encoded here.
    """
    gif = iio.imwrite("<bytes>", clip, extension=".gif", duration=1000 / fps, loop=0)
    image = Summary.Image(height=clip.shape[1], width=clip.shape[2], colorspace=3, encoded_image_string=gif)
    strip = np.concatenate(list(clip[:: max(1, len(clip) // 8)]), axis=1)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            writer = logger.experiment
            writer.add_image(f"{tag}/strip", strip, step, dataformats="HWC")
            writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
