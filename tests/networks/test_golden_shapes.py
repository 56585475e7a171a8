"""The real-size networks against the shapes and counts in reference_keys.json.gz, on the meta device."""

from typing import Any

import pytest
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from networks import TapShape, VideoUNet
from networks.action_unet import ActionUNet
from networks.adapter import CNNAdapter
from networks.autoencoders import SVDAutoencoder
from tests.goldens import ACTION, ADAPTER, module_in
from videopolicy.conversion.names import action_unet_name, adapter_name

pytestmark = pytest.mark.golden
PAPER_TAPS = [TapShape(320, 32, 32), TapShape(640, 16, 16), TapShape(1280, 8, 8)] + [TapShape(1280, 4, 4)] * 2


def test_every_layer_has_the_published_input_and_output(reference_keys: dict[str, Any]) -> None:
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {"adapter": CNNAdapter(PAPER_TAPS, 3, 8, 1280), "action": ActionUNet()}
        maps = [torch.empty(1, 3, 8, tap.channels, tap.height, tap.width) for tap in PAPER_TAPS]
        emb, action, cond = torch.empty(1, 1280), torch.empty(1, 32, 7), torch.empty(1, 6720)
    ours = {ADAPTER + adapter_name(key): key for key in networks["adapter"].state_dict()}
    ours |= {ACTION + action_unet_name(key): key for key in networks["action"].state_dict()}
    found: dict[str, list[list[int]]] = {}
    for published in reference_keys["full_shapes"]:
        network, name = "adapter" if published.startswith(ADAPTER) else "action", module_in(published, ours)

        def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, published: str = published) -> None:
            found[published] = [list(inputs[0].shape), list(output.shape)]

        networks[network].get_submodule(name).register_forward_hook(record)
    networks["adapter"](maps, emb)
    networks["action"](action, emb, cond)
    assert len(found) == 74
    assert found == reference_keys["full_shapes"]


def test_every_network_has_the_published_number_of_parameters(reference_keys: dict[str, Any]) -> None:
    """Of the condition encoder, an image autoencoder, we build the encoder: its decoder is never used."""
    with torch.device("meta"):
        vae = SVDAutoencoder(separate_condition_encoder=True)
        networks: dict[str, list[nn.Module]] = {
            "video_unet": [VideoUNet()],
            "vision_encoder": [CNNAdapter(PAPER_TAPS, 3, 8, 1280)],
            "pose_pred_net": [ActionUNet()],
            "first_stage_encoder": [vae.vae.encoder],
            "first_stage_decoder": [vae.vae.decoder],
            "first_stage_model": [vae.vae.encoder, vae.vae.decoder],
        }
        text = TextTransformer(width=1024, heads=16, layers=24, output_dim=1024)
    networks["network"] = networks["video_unet"] + networks["vision_encoder"] + networks["pose_pred_net"]
    counts = {name: sum(p.numel() for module in part for p in module.parameters()) for name, part in networks.items()}
    published = reference_keys["parameters"]
    assert counts == {name: published[name] for name in counts}
    rest = sorted(set(published) - set(counts))
    assert [name[:22] for name in rest] == [f"conditioner.embedders.{i}"[:22] for i in range(5)]
    logit_scale = 1  # of the contrastive loss, which the text tower alone does not have
    assert sum(p.numel() for p in text.parameters()) + logit_scale == published[rest[0]]
    assert [published[name] for name in (rest[1], rest[2], rest[4])] == [0, 0, 0]
    assert published[rest[3]] == 83_653_863
