"""A tiny published checkpoint filled by the parity rule, and the experiment whose networks it fits."""

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from networks.adapter import PAPER_BRANCH, PAPER_MERGE
from networks.checkpoints.autoencoder_keys import published_condition_encoder_weights, published_first_stage_weights
from networks.checkpoints.keys import PREFIX_BY_PART
from tests.networks.conftest import filled

UNET = "model.diffusion_model."
AUTOENCODER: dict[str, Any] = {"block_out_channels": (32, 32), "layers_per_block": 1, "latent_channels": 4}
TEXT = {"width": 32, "heads": 2, "layers": 1}
NARROW = {864: 96, 576: 72, 1280: 128, 960: 96, 720: 72, 540: 60, 420: 140}  # parity README, section 3


def shapes_of(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return {key: torch.zeros(()).expand(weight.shape) for key, weight in build().state_dict().items()}


def tiny_shapes(parity_dir: Path) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of the tiny joint network with tiny autoencoders and a tiny text tower."""
    with gzip.open(parity_dir / "reference_keys.json.gz", "rt") as file:
        joint = json.load(file)["tiny_joint_keys"]
    down = {"down_block_types": ("DownEncoderBlock2D",) * 2}
    image = {**AUTOENCODER, **down, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = shapes_of(lambda: AutoencoderKLTemporalDecoder(**AUTOENCODER, **down))
    vae |= {"quant_conv.weight": torch.eye(8)[:, :, None, None], "quant_conv.bias": torch.zeros(8)}
    parts = {
        "first_stage": published_first_stage_weights(vae, 2),
        "condition_encoder": published_condition_encoder_weights(shapes_of(lambda: AutoencoderKL(**image)), 2),
        "text": shapes_of(lambda: TextTransformer(**TEXT, output_dim=48)) | {"logit_scale": torch.zeros(())},
    }
    shapes = {UNET + key: tuple(shape) for key, shape in joint.items()}
    for part, weights in parts.items():
        shapes |= {PREFIX_BY_PART[part] + key: tuple(weight.shape) for key, weight in weights.items()}
    return shapes


@pytest.fixture(scope="session")
def reference_weights(parity_dir: Path) -> Mapping[str, Tensor]:
    """A tiny published stage-2 checkpoint; the rule counts the U-Net's names without their prefix."""
    shapes = tiny_shapes(parity_dir)
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
