"""What the true future tells an action head, on demos whose actions are what the picture becomes next."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from benchmarks import true_future

EXPERIMENT = str(Path(__file__).resolve().parents[2] / "experiments" / "lift.yaml")


def test_a_future_that_shows_the_action_explains_it_and_a_current_picture_does_not(
    tmp_path: Path, robomimic_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    demos = robomimic_file(lengths=[24] * 12, action_dim=2)
    rng = np.random.default_rng(0)
    with h5py.File(demos, "r+") as file:
        for demo in file["data"].values():
            steps = rng.choice([-1.0, 1.0], len(demo["actions"]))
            demo["actions"][:] = steps[:, None]
            level = 128 + 12 * np.concatenate([[0], np.cumsum(steps)[:-1]])  # the next picture is lighter or darker
            for pictures in demo["obs"].values():
                if pictures.ndim == 4:
                    pictures[:] = level.clip(0, 255).astype(np.uint8)[:, None, None, None]
    small = {"paths": str(demos), "image_size": 16, "num_frames": 2, "frame_stride": 1, "action_horizon": 1}
    overlay = tmp_path / "small.yaml"
    overlay.write_text(yaml.safe_dump({"data": {"init_args": {**small, "colour_jitter": None}}}))

    words = ["-c", EXPERIMENT, "-c", str(overlay), "--action-demos", "8", "--seeds", "0", "--steps", "150"]
    assert true_future.main(words) == 0
    [row] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["action_demos"] == 8
    assert row["current picture"] > 0.9
    assert row["true future"] < 0.3
