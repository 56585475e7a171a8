"""Comparison with the arrays of tests/data/parity ("goldens"), in float64 and in float32.

`python -m pytest -m golden -rP` prints a line for every array; docs/fidelity.md's table is made of these lines.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

import torch
from torch import Tensor, nn

from networks.action_unet import ActionUNet
from networks.adapter import CNNAdapter
from networks.autoencoders import SVDAutoencoder
from networks.text import SeededTextEncoder
from networks.video_model import VideoModel
from networks.video_unet import VideoUNet
from policies import VideoPolicy
from tests.policy_parts import attached
from videopolicy.conversion.autoencoder_names import autoencoder_name, quant_conv
from videopolicy.conversion.names import action_unet_name, adapter_name, unet_name

Unit = Callable[[str, Sequence[int]], Tensor]
Fill = Callable[[Mapping[str, Sequence[int]]], dict[str, Tensor]]
Weights = dict[str, Tensor]
Arrays = Callable[[str], dict[str, Tensor]]

DTYPES = (torch.float32, torch.float64)
TAPS = (9, 13, 16, 19, 22)
ADAPTER, ACTION = "vision_encoder.", "pose_pred_net."
STORED = 1e-6  # of the largest value: what storing a float64 result as float32 leaves (6e-8), and a margin
AMPLIFIED = 5e-6  # the scaled-down adapter amplifies float32's last digit of the sinusoids about 20 times
FOLLOWED = 2e-5  # the same over four steps of sampling


def check(name: str, found: Tensor, golden: Tensor, float32: float, float64: float = STORED) -> None:
    """Compare and print.

    Args:
        name: File and array.
        found: Ours; its precision decides the limit.
        golden: The published network's.
        float32: Largest difference allowed of a float32 result (section 4 of the parity folder's README).
        float64: The same of a float64 result, as a share of the largest golden value.
    """
    found, golden = found.detach(), golden.double()
    assert found.shape == golden.shape, f"{name}: {tuple(found.shape)} found, {tuple(golden.shape)} wanted"
    difference = (found.double() - golden).abs().max().item()
    exact = found.dtype == torch.float64
    value, limit = (difference / golden.abs().max().item(), float64) if exact else (difference, float32)
    print(f"golden  {name:44s} {'float64 relative' if exact else 'float32 absolute'} {value:.1e}  limit {limit:.0e}")
    assert value <= limit, f"{name}: {found.dtype} differs by {value:.2e}, allowed is {limit:.0e}"


def our_keys(model: VideoPolicy) -> dict[str, str]:
    """Published key (without `model.diffusion_model.`) -> name in a `VideoPolicy` of the paper's depth."""
    parts = (
        ("", "video.unet.", model.video.unet, unet_name),
        (ADAPTER, "adapter.", model.adapter, adapter_name),
        (ACTION, "action_unet.", model.action_unet, action_unet_name),
    )
    return {prefix + name(key): own + key for prefix, own, part, name in parts for key in part.state_dict()}


def published_weights(network: nn.Module, name: Callable[[str], str], published: Mapping[str, Tensor]) -> Weights:
    """Published weights under a network's own keys; `name` gives the published one of a key."""
    own = {key: published[name(key)] for key in network.state_dict()}
    assert len(own) == len(published)
    return own


def published_autoencoder(vae: nn.Module, published: Mapping[str, Tensor]) -> Weights:
    """The same of an autoencoder, whose `quant_conv` and matrices the published one has otherwise."""
    levels = len(vae.encoder.down_blocks)  # type: ignore[arg-type]
    under = {autoencoder_name(key, levels): key for key in vae.state_dict()}
    identity = quant_conv(published["encoder.conv_out.weight"])
    whole = {"quant_conv.weight": identity[0], "quant_conv.bias": identity[1], **published}
    return {key: whole[name].reshape(vae.state_dict()[key].shape) for name, key in under.items()}


def module_in(published: str, ours_by_published: Mapping[str, str]) -> str:
    """Our name of a published module: what the names of its weights have in common."""
    names = [own.split(".")[:-1] for key, own in ours_by_published.items() if key.startswith(published + ".")]
    if not names:  # one without weights
        block, _, name = published.rpartition(".")
        assert name in ("residual_conv", "downsample")
        return f"{module_in(block, ours_by_published)}.shortcut"
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, zip(*names, strict=False)))


def load_by_rule(model: VideoPolicy, shapes: Mapping[str, Sequence[int]], fill: Fill) -> None:
    """Fill every weight in place, one at a time: the real network and a copy of it would take 15 GiB."""
    own, keys = model.state_dict(), our_keys(model)
    assert shapes.keys() == keys.keys()
    for key, shape in shapes.items():
        assert own[keys[key]].shape == torch.Size(shape)
        own[keys[key]].copy_(fill({key: shape})[key])


def joint_model(
    unet: VideoUNet,
    text_dim: int,
    adapter: Mapping[str, object] | None = None,
    action: Mapping[str, object] | None = None,
) -> VideoPolicy:
    """Published layout around a U-Net: three cameras of eight frames.

    Args:
        unet: Video U-Net.
        text_dim: Size of a text token.
        adapter: Widths of the adapter; None is the paper's.
        action: Widths of the action network; None is the paper's.
    """
    autoencoder = SVDAutoencoder(block_out_channels=(32, 32), layers_per_block=1)
    video = VideoModel(unet, autoencoder, SeededTextEncoder(text_dim), 3, 8)
    shapes = [unet.tap_shapes(32)[tap] for tap in reversed(TAPS)]
    maps = CNNAdapter(shapes, 3, 8, unet.emb_dim, **dict(adapter or {}))
    actions = ActionUNet(cond_dim=maps.cond_dim, emb_dim=unet.emb_dim, **dict(action or {}))
    policy = VideoPolicy(video, maps, actions, TAPS)
    return attached(policy, 64, action_dim=7, action_horizon=32)
