"""Clips show what happened and what was imagined at the same moment."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch

from callbacks.clips import CAPTION, MIN_TILE, predicted_and_true, side_by_side, write_clip
from rollouts import Prediction, Recording


def recording(stride: int = 2) -> Recording:
    """Executed frames are as bright as their step; predictions are 100 brighter, with a horizon of 3 frames."""
    steps = [0, 2, 4, 6, 8]
    frames = [{"left": np.full((8, 8, 3), step, np.uint8)} for step in steps]
    predictions = [
        Prediction(p, np.stack([np.full((8, 8, 3), 100 + p + stride * k, np.uint8) for k in range(3)])[None])
        for p in (0, 2, 4, 6, 8)
    ]
    return Recording(["left"], steps, frames, predictions, stride)


def test_each_prediction_is_shown_to_its_end_at_the_right_moment() -> None:
    clip = side_by_side(recording())
    executed = clip[:, CAPTION + 4, 4, 0]
    predicted = clip[:, 2 * CAPTION + MIN_TILE + 4, 4, 0]
    assert executed.tolist() == [0, 2, 4, 6, 8]
    assert predicted.tolist() == [100, 102, 104, 106, 108]  # made at 0, shown until 4; made at 6, shown from 6


def test_recording_without_predictions_shows_what_happened() -> None:
    clip = side_by_side(Recording(["left"], [0], [{"left": np.zeros((8, 8, 3), np.uint8)}], [], 2))
    assert clip.shape == (1, CAPTION + MIN_TILE, MIN_TILE, 3)


def test_predicted_stands_above_recorded() -> None:
    bright, dark = (torch.full((2, 3, 3, 8, 8), value, dtype=torch.uint8) for value in (200, 50))
    clip = predicted_and_true(bright, dark)
    assert clip.shape == (3, 2 * (CAPTION + MIN_TILE), 2 * MIN_TILE, 3)
    assert clip[0, CAPTION + 4, 4, 0] == 200
    assert clip[0, 2 * CAPTION + MIN_TILE + 4, 4, 0] == 50


def test_mp4_has_every_frame(tmp_path: Path) -> None:
    clip = side_by_side(recording())
    write_clip(tmp_path / "videos" / "clip.mp4", clip)
    read = iio.imread(tmp_path / "videos" / "clip.mp4", plugin="FFMPEG")
    assert read.shape == clip.shape
