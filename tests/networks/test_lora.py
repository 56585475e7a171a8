"""Adapters beside a frozen U-Net, and the ordinary U-Net that they become."""

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from files.errors import UserError
from networks import LoRA, VideoUNet
from tests.stage_parts import tiny_video_model

WHOLE = LoRA(rank=3, alpha=6.0, whole=("conv_in", "attn2.to_v"))


def adapted(lora: LoRA, trained: bool = True) -> VideoUNet:
    """A tiny U-Net with adapters, as training might leave them."""
    unet = tiny_video_model().unet
    lora.install(unet.unet)
    if trained:
        torch.manual_seed(1)
        for weight in (p for p in unet.parameters() if p.requires_grad):
            nn.init.normal_(weight.data, std=0.05)
    return unet


def output(unet: VideoUNet) -> Tensor:
    torch.manual_seed(2)
    x, context = torch.randn(2, 5, 96, 4, 4), torch.randn(2, 1, 1, 16).expand(-1, 5, -1, -1)
    result: Tensor = unet(x, torch.tensor([-1.0, 0.5]), context, torch.ones(2, 3)).sample
    return result


def test_fresh_adapters_change_nothing() -> None:
    plain = output(tiny_video_model().unet)
    assert torch.allclose(output(adapted(LoRA(), trained=False)), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lora", [LoRA(rank=2), WHOLE], ids=["plain", "with whole layers"])
def test_merged_weights_compute_what_the_adapters_do(lora: LoRA) -> None:
    unet = adapted(lora)
    plain = tiny_video_model(seed=5).unet
    plain.load_state_dict(lora.merged(unet.state_dict()), strict=True)
    assert torch.allclose(output(plain), output(unet), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(output(plain), output(tiny_video_model().unet), atol=1e-2)


def test_merging_is_pefts_own() -> None:
    unet = adapted(WHOLE)
    ours = WHOLE.merged({name: value.clone() for name, value in unet.state_dict().items()})
    layers = [(name, module) for name, module in unet.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in layers:
        layer.merge()
        assert torch.equal(ours[f"{name}.weight"], layer.base_layer.weight)
    assert len(layers) > 20


def test_taking_apart_and_merging_again_is_exact() -> None:
    state = adapted(WHOLE).state_dict()
    again = WHOLE.separated(WHOLE.merged(state), WHOLE.apart(state))
    assert set(again) == set(state)
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_only_adapters_and_named_layers_are_trained() -> None:
    unet = adapted(WHOLE, trained=False)
    trained = {name for name, p in unet.named_parameters() if p.requires_grad}
    own = {name for name in trained if "lora_" not in name}
    assert own == {name for name, _ in unet.named_parameters() if ".attn2.to_v." in name or "unet.conv_in." in name}
    assert trained - own == {name for name, _ in unet.named_parameters() if "lora_" in name}
    assert not any(".attn2.to_v.lora_" in name for name in trained)  # trained itself, so without an adapter


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rank": 0}, "rank 0, alpha"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"targets": ()}, "at least one target"),
        ({"targets": ("to_quarry",)}, r"lora.targets: the video U-Net has no layer 'to_quarry'"),
        ({"whole": ("conv_on",)}, r"lora.whole: the video U-Net has no layer 'conv_on'"),
        ({"targets": ("conv_in",)}, r"lora.targets: conv_in is not a linear layer; name such layers in lora.whole"),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        LoRA(**arguments).install(tiny_video_model().unet.unet)  # type: ignore[arg-type]
