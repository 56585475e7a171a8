"""Tiny networks for the scripts that compare settings."""

from pathlib import Path

import pytest
import yaml

from tests.videopolicy.conftest import tiny_overlay

ROOT = Path(__file__).resolve().parents[2]
SLIM = {"block_out_channels": [32, 32, 32], "layers_per_block": 1}


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """An overlay of lift with an autoencoder that has a posterior to cache."""
    overlay = tiny_overlay(ROOT / "experiments" / "lift.yaml", tmp_path, 2)
    video = overlay["model"]["init_args"]["video"]["init_args"]
    video["unet"]["init_args"] |= {"in_channels": 8, "out_channels": 4}
    video["autoencoder"] = {"class_path": "networks.SVDAutoencoder", "init_args": SLIM}
    video["preconditioning"] = {"class_path": "networks.EDMPreconditioning"}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(overlay))
    return str(path)
