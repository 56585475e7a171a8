"""Networks on the meta device: the paper's parameter counts, and no weights asked for."""

from pathlib import Path

import pytest

from lightning_modules import ActionStage
from videopolicy.errors import CommandError
from videopolicy.skeleton import skeleton

ROOT = Path(__file__).resolve().parents[2]


def test_robocasa_has_the_papers_parameter_counts_and_takes_no_memory() -> None:
    stage = skeleton([ROOT / "experiments" / "robocasa.yaml"], "action")
    assert isinstance(stage, ActionStage)
    networks = (stage.video.unet, stage.adapter, stage.action_unet)
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    assert counts == [1_524_623_082, 205_812_616, 161_359_111]
    assert {tensor.device.type for tensor in stage.state_dict().values()} == {"meta"}


def test_an_image_size_that_only_the_demos_know_is_asked_for() -> None:
    with pytest.raises(CommandError, match=r"image_size is not set.*--data\.image_size"):
        skeleton([ROOT / "experiments" / "robocasa.yaml"], "video", [("data.image_size", None)])
