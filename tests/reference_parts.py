"""A tiny published checkpoint filled by the parity rule, and the experiment whose networks it fits."""

import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from networks import build
from networks.action_unet import ActionUNet
from networks.adapter import PAPER_BRANCH, PAPER_MERGE, AdapterStage, CNNAdapter
from tests.networks.conftest import filled
from videopolicy.conversion.layout import expected_weights

UNET = "model.diffusion_model."
AUTOENCODER: dict[str, Any] = {"block_out_channels": (32, 32), "layers_per_block": 1, "latent_channels": 4}
TEXT = {"width": 32, "heads": 2, "layers": 1}
NARROW = {864: 96, 576: 72, 1280: 128, 960: 96, 720: 72, 540: 60, 420: 140}  # parity README, section 3


@cache
def reference_model() -> SimpleNamespace:
    """The tiny networks of the published layout on the meta device."""
    described = tiny_reference_networks()
    described["video"]["init_args"] |= {"num_views": 3, "num_frames": 8}
    with torch.device("meta"):
        video = build(described["video"])
        arguments = dict(described["adapter"]["init_args"])
        for name in ("branch_stages", "merge_stages"):
            arguments[name] = [AdapterStage(**stage) for stage in arguments[name]]
        shapes = [video.unet.tap_shapes(32)[tap] for tap in (22, 19, 16, 13, 9)]
        adapter = CNNAdapter(shapes, 3, 8, video.unet.emb_dim, **arguments)
        sizes = {"cond_dim": adapter.cond_dim, "emb_dim": video.unet.emb_dim}
        action_unet = ActionUNet(**sizes, **described["action_unet"]["init_args"])
    return SimpleNamespace(video=video, adapter=adapter, action_unet=action_unet)


@pytest.fixture(scope="session")
def reference_weights(parity_dir: Path) -> Mapping[str, Tensor]:
    """A tiny published stage-2 checkpoint; the rule counts the U-Net's names without their prefix."""
    with gzip.open(parity_dir / "reference_keys.json.gz", "rt") as file:
        joint = json.load(file)["tiny_joint_keys"]
    shapes = {w.published: w.published_shape for w in expected_weights(reference_model()) if w.published is not None}
    networks = {name.removeprefix(UNET): list(shape) for name, shape in shapes.items() if name.startswith(UNET)}
    assert networks == joint, "the networks are the published ones"
    weights = filled({key.removeprefix(UNET): shape for key, shape in shapes.items()})
    return {key: weights[key.removeprefix(UNET)] for key in shapes}


def first_stage_only(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same as a stage-1 checkpoint: without adapter and action network."""
    return {key: w for key, w in weights.items() if not key.startswith((UNET + "vision_", UNET + "pose_"))}


def tiny_reference_networks() -> dict[str, Any]:
    """`model.init_args` of the action stage for these weights; the video stage takes its `video`."""

    def stages(published: tuple[Any, ...]) -> list[dict[str, Any]]:
        groups = {10: 8}
        return [
            {**vars(stage), "width": NARROW[stage.width], "num_groups": groups.get(stage.num_groups, stage.num_groups)}
            for stage in published
        ]

    unet = {
        "in_channels": 8,
        "out_channels": 4,
        "block_out_channels": [32, 64, 128, 128],
        "layers_per_block": 2,
        "num_attention_heads": [4, 8, 16, 16],
        "cross_attention_dim": 48,
        "addition_time_embed_dim": 32,
        "gradient_checkpointing": False,
    }
    autoencoder = {"separate_condition_encoder": True, **AUTOENCODER, "block_out_channels": [32, 32]}
    adapter = {"tap_groups": 8, "branch_stages": stages(PAPER_BRANCH), "merge_stages": stages(PAPER_MERGE)}
    return {
        "video": {
            "class_path": "networks.VideoModel",
            "init_args": {
                "unet": {"class_path": "networks.VideoUNet", "init_args": {**unet, "pretrained": None}},
                "autoencoder": {
                    "class_path": "networks.SVDAutoencoder",
                    "init_args": {**autoencoder, "pretrained": None},
                },
                "text_encoder": {
                    "class_path": "networks.SeededTextEncoder",
                    "init_args": {"embed_dim": 48, **TEXT},
                },
            },
        },
        "adapter": {"class_path": "networks.CNNAdapter", "init_args": adapter},
        "action_unet": {
            "class_path": "networks.ActionUNet",
            "init_args": {"step_embed_dim": 64, "widths": [32, 64, 128]},
        },
    }
