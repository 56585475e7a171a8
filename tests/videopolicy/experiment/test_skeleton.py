"""Networks on the meta device: nothing is loaded, and what only the demos know is asked for."""

from pathlib import Path

import pytest

from files.errors import UserError
from videopolicy.experiment.skeleton import skeleton

ROOT = Path(__file__).resolve().parents[3]


def test_an_image_size_that_only_the_demos_know_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"image_size is not set.*--data\.image_size"):
        skeleton([ROOT / "experiments" / "robocasa.yaml"], "video", [("data.image_size", None)])
