"""The video U-Net against the published network's arrays, and its taps."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from files.errors import UserError
from networks import TapShape, VideoUNet
from tests.goldens import ACTION, ADAPTER, DTYPES, TAPS, check, published_weights
from videopolicy.conversion.names import unet_name

TINY: dict[str, Any] = {
    "block_out_channels": (32, 64, 128, 128),
    "num_attention_heads": (4, 8, 16, 16),
    "cross_attention_dim": 48,
    "addition_time_embed_dim": 32,
}
SMALL: dict[str, Any] = {
    "in_channels": 6,
    "out_channels": 3,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "num_attention_heads": (2, 4),
    "cross_attention_dim": 16,
    "addition_time_embed_dim": 8,
}


@pytest.fixture(scope="module")
def published_tiny(
    reference_keys: dict[str, Any], fill_by_rule: Callable[[dict[str, list[int]]], dict[str, Tensor]]
) -> Callable[[torch.dtype], VideoUNet]:
    keys = {k: s for k, s in reference_keys["tiny_joint_keys"].items() if not k.startswith((ADAPTER, ACTION))}
    unet = VideoUNet(**TINY)
    unet.load_state_dict(published_weights(unet, unet_name, fill_by_rule(keys)))
    return lambda dtype: copy.deepcopy(unet).requires_grad_(False).to(dtype)


def published_inputs(
    unit: Callable[..., Tensor], size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch = 2 if size == 16 else 1
    x = unit(f"unet/x/{size}", (batch * 25, 8, size, size)).unflatten(0, (batch, 25))
    context = unit(f"unet/context/{size}", (batch, 1, 48))[:, None].repeat(1, 25, 1, 1)
    sigma = torch.tensor([0.7, 12.0], dtype=dtype)[:batch]
    ids = torch.tensor([[6.0, 100.0, 0.02]], dtype=dtype).repeat(batch, 1)
    return x.to(dtype), 0.25 * sigma.log(), context.to(dtype), ids


@pytest.mark.golden
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [16, 32])
def test_output_and_taps_equal_the_published_network(
    size: int,
    dtype: torch.dtype,
    published_tiny: Callable[[torch.dtype], VideoUNet],
    unit: Callable[..., Tensor],
    parity_arrays: Callable[[str], dict[str, Tensor]],
    sampled: Callable[[Tensor, int], Tensor],
) -> None:
    arrays, unet = parity_arrays("unet_tiny"), published_tiny(dtype)
    x, timestep, context, ids = published_inputs(unit, size, dtype)
    check(f"unet_tiny l{size}_timestep", timestep, arrays[f"l{size}_timestep"], 1e-7)
    sinusoids = unet.unet.add_time_proj(ids.flatten()).reshape(len(ids), -1)
    check(f"unet_tiny l{size}_vector", sinusoids, arrays[f"l{size}_vector"], 0.0)  # float32 in the published code too
    result = unet(x, timestep, context, ids, taps=TAPS)
    check(f"unet_tiny l{size}_out", result.sample.flatten(0, 1), arrays[f"l{size}_out"], 5e-5)
    assert tuple(result.taps) == TAPS
    for tap, feature in result.taps.items():
        want, found = arrays[f"l{size}_tap{tap}"], feature.flatten(0, 1)
        assert found.shape == tuple(arrays[f"l{size}_tap{tap}_shape"].tolist())
        found = found if bool(arrays[f"l{size}_tap{tap}_is_full"]) else sampled(found, want.numel())
        check(f"unet_tiny l{size}_tap{tap}", found, want, 3e-4)


@pytest.mark.golden
@pytest.mark.parametrize("dtype", DTYPES)
def test_frames_with_their_own_context_equal_the_published_network(
    dtype: torch.dtype,
    published_tiny: Callable[[torch.dtype], VideoUNet],
    unit: Callable[..., Tensor],
    parity_arrays: Callable[[str], dict[str, Tensor]],
) -> None:
    x, timestep, context, ids = published_inputs(unit, 16, dtype)
    context[0, [0, 3, 20]] = 0
    want = parity_arrays("unet_tiny")["l16_framewise_context_out"]
    found = published_tiny(dtype)(x, timestep, context, ids).sample.flatten(0, 1)
    check("unet_tiny l16_framewise_context_out", found, want, 5e-5)


def small_inputs(size: int | tuple[int, int] = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, width = (size, size) if isinstance(size, int) else size
    torch.manual_seed(0)
    return torch.randn(2, 5, 6, height, width), torch.randn(2), torch.randn(2, 5, 1, 16), torch.ones(2, 3)


@pytest.fixture
def small() -> VideoUNet:
    torch.manual_seed(0)
    return VideoUNet(**SMALL, zero_init=False)


@pytest.mark.parametrize("size", [8, (7, 10)])
def test_every_tap_has_the_shape_that_tap_shapes_announces(small: VideoUNet, size: int | tuple[int, int]) -> None:
    shapes = small.tap_shapes(size)
    assert sorted(shapes) == list(range(small.num_taps))
    result = small(*small_inputs(size), taps=range(small.num_taps))
    for tap, shape in shapes.items():
        assert result.taps[tap].shape == (2, 5, shape.channels, shape.height, shape.width)


def test_published_taps_have_the_published_shapes() -> None:
    with torch.device("meta"):
        shapes = VideoUNet().tap_shapes(32)
    assert len(shapes) == 24
    assert [shapes[tap] for tap in TAPS] == [
        TapShape(1280, 4, 4),
        TapShape(1280, 4, 4),
        TapShape(1280, 8, 8),
        TapShape(640, 16, 16),
        TapShape(320, 32, 32),
    ]


def test_features_equal_the_taps_of_the_whole_pass(small: VideoUNet) -> None:
    inputs = small_inputs()
    whole = small(*inputs, taps=(2, 5))
    features, emb = small.features(*inputs, taps=(2, 5))
    assert all(torch.equal(features[tap], whole.taps[tap]) for tap in (2, 5))
    assert torch.equal(emb, whole.emb)
    assert torch.equal(emb, small.time_embedding(inputs[1]))


def test_features_run_no_block_past_the_last_tap(small: VideoUNet) -> None:
    ran: list[str] = []
    for name in ("down_blocks.1.resnets.0", "mid_block.resnets.0", "up_blocks.0.resnets.0", "up_blocks.1.resnets.0"):
        small.unet.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    small.features(*small_inputs(), taps=(2,))
    assert ran == []
    small.features(*small_inputs(), taps=(4, 3))
    assert ran == ["down_blocks.1.resnets.0", "mid_block.resnets.0", "up_blocks.0.resnets.0"]


def test_an_unknown_tap_is_refused_with_those_there(small: VideoUNet) -> None:
    with pytest.raises(UserError, match=r"no tap \[8\]; VideoUNet has taps 0 to 7"):
        small.features(*small_inputs(), taps=(3, 8))
    with pytest.raises(UserError, match=r"no tap \[-1\]"):
        small(*small_inputs(), taps=(-1,))


def test_a_width_that_diffusers_cannot_group_is_refused() -> None:
    with pytest.raises(UserError, match="multiple of 32"):
        VideoUNet(block_out_channels=(40, 64), num_attention_heads=(2, 4))
    with pytest.raises(UserError, match="num_attention_heads has 4 entries"):
        VideoUNet(block_out_channels=(32, 64))


def test_network_starts_with_a_zero_output_when_trained_from_scratch() -> None:
    unet = VideoUNet(**SMALL)
    assert unet(*small_inputs()).sample.abs().max() == 0


def test_a_saved_network_is_loaded_with_its_weights(small: VideoUNet, tmp_path: Path) -> None:
    small.unet.save_pretrained(tmp_path / "pipeline" / "unet")
    for source in (tmp_path / "pipeline", tmp_path / "pipeline" / "unet"):
        loaded = VideoUNet.from_pretrained(str(source))
        assert loaded.config == small.config
        assert torch.equal(loaded(*small_inputs()).sample, small(*small_inputs()).sample)
    rebuilt = VideoUNet(**json.loads(json.dumps(small.config)), pretrained=str(tmp_path / "pipeline"))
    assert all(torch.equal(a, b) for a, b in zip(rebuilt.parameters(), small.parameters(), strict=True))


def test_a_saved_network_of_other_widths_is_refused(small: VideoUNet, tmp_path: Path) -> None:
    small.unet.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"in_channels 6 \(not 8\)"):
        VideoUNet(**{**SMALL, "in_channels": 8}, pretrained=str(tmp_path))
    with pytest.raises(UserError, match="cannot load"):
        VideoUNet(pretrained=str(tmp_path / "nothing"))


def test_every_weight_has_a_gradient_the_same_with_gradient_checkpointing() -> None:
    """DDP waits for all of them, also for queries and keys, which the one token leaves without effect."""
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        unet = VideoUNet(**SMALL, gradient_checkpointing=checkpointing, zero_init=False)
        sample = unet(*small_inputs()).sample
        sample.square().mean().backward()
        gradients = [p.grad for p in unet.parameters() if p.grad is not None]
        assert len(gradients) == len(list(unet.parameters()))
        results.append((sample.detach(), gradients))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_features_compile_without_a_graph_break(small: VideoUNet) -> None:
    compiled = torch.compile(small.features, fullgraph=True, backend="eager")
    with torch.no_grad():
        features, _ = compiled(*small_inputs(), taps=(4, 6))
        want, _ = small.features(*small_inputs(), taps=(4, 6))
    assert all(torch.allclose(features[tap], want[tap], atol=1e-5) for tap in (4, 6))


def test_parameter_count_is_the_published_one(reference_keys: dict[str, Any]) -> None:
    with torch.device("meta"):
        unet = VideoUNet()
    assert sum(p.numel() for p in unet.parameters()) == reference_keys["parameters"]["video_unet"] == 1_524_623_082


def test_every_norm_of_a_res_block_has_the_trained_epsilon() -> None:
    with torch.device("meta"):
        norms = {n: m for n, m in VideoUNet().named_modules() if isinstance(m, torch.nn.GroupNorm)}
    res_norms = [norm for name, norm in norms.items() if "res_block" in name]
    transformer_norms = [norm for name, norm in norms.items() if "attentions" in name]
    assert len(res_norms) == 88
    assert all(norm.eps == 1e-5 for norm in res_norms)
    assert all(norm.eps == 1e-6 for norm in transformer_norms)
