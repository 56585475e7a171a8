import dataclasses
import json

import numpy as np
import pytest
import torch

from datamodules.preprocessing import Preprocessing
from datamodules.statistics import ActionStatistics
from files.errors import UserError


@pytest.fixture
def preprocessing() -> Preprocessing:
    stats = ActionStatistics((0.0, -1.0), (1.0, 1.0))
    return Preprocessing(("hand", "left"), 4, 8, 4, 32, (0, 2), stats)


def test_bytes_and_floats_convert_without_loss(preprocessing: Preprocessing) -> None:
    all_bytes = torch.arange(256, dtype=torch.uint8)
    floats = preprocessing.to_float(all_bytes)
    assert floats[0] == -1
    assert floats[255] == 1
    assert torch.equal(preprocessing.to_uint8(floats), all_bytes)
    assert preprocessing.to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_cameras_come_in_the_configured_order_whatever_the_order_given(preprocessing: Preprocessing) -> None:
    images = {"left": np.full((4, 4, 3), 7, np.uint8), "extra": np.zeros((2, 2, 3), np.uint8)}
    images["hand"] = np.full((4, 4, 3), 9, np.uint8)
    views = preprocessing.stack(images)
    assert views.shape == (2, 3, 4, 4)
    assert views[:, 0, 0, 0].tolist() == [9, 7]


def test_channels_move_first_and_leading_axes_stay(preprocessing: Preprocessing) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    views = preprocessing.stack({"hand": clip, "left": clip[:, ::-1]})
    assert views.shape == (2, 5, 3, 4, 4)
    assert np.array_equal(views[0].permute(0, 2, 3, 1).numpy(), clip)


def test_shrinking_averages_instead_of_skipping_pixels(preprocessing: Preprocessing) -> None:
    """A checkerboard of 0 and 254 becomes flat grey; picking single pixels would give 0 or 254."""
    board = (np.indices((64, 64)).sum(0) % 2 * 254).astype(np.uint8)[..., None].repeat(3, -1)
    views = preprocessing.stack({"hand": board, "left": board})
    assert views.shape == (2, 3, 4, 4)
    assert (views.int() - 127).abs().max() <= 2


def test_a_missing_camera_lists_those_there(preprocessing: Preprocessing) -> None:
    with pytest.raises(UserError, match=r"no image of camera \['left'\].*\['hand', 'right'\]"):
        preprocessing.stack({"hand": np.zeros((4, 4, 3), np.uint8), "right": np.zeros((4, 4, 3), np.uint8)})


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 6, 3), np.uint8), np.zeros((4, 4, 1), np.uint8)]
)
def test_only_square_rgb_bytes_are_taken(preprocessing: Preprocessing, image: np.ndarray) -> None:
    with pytest.raises(UserError, match="camera hand"):
        preprocessing.stack({"hand": image, "left": image})


def test_preprocessing_survives_json(preprocessing: Preprocessing) -> None:
    copy = Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict())))
    assert copy == preprocessing
    assert dataclasses.asdict(copy) == dataclasses.asdict(preprocessing)
    assert (copy.num_views, copy.action_dim) == (2, 2)
