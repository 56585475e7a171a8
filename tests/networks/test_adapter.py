"""The adapter against the published network's arrays, and in small."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from files.errors import UserError
from networks import TapShape
from networks.adapter import AdapterStage, CNNAdapter
from networks.component_config import build, describe
from tests.goldens import DTYPES, check, module_in, published_weights
from videopolicy.conversion.names import adapter_name

PAPER_TAPS = {
    22: TapShape(320, 32, 32),
    19: TapShape(640, 16, 16),
    16: TapShape(1280, 8, 8),
    13: TapShape(1280, 4, 4),
    9: TapShape(1280, 4, 4),
}
SMALL_TAPS = [TapShape(64, 8, 8), TapShape(128, 4, 4)]
SMALL: dict[str, Any] = {
    "tap_widths": (32, 64),
    "entry_widths": (32,),
    "tap_groups": 4,
    "branch_stages": (),
    "merge_stages": (
        AdapterStage(64, 4, expansion=2, num_blocks=1, time_stride=2, space_stride=2),
        AdapterStage(64, 4, expansion=2, num_blocks=1, time_stride=2),
    ),
    "norm_groups": 8,
}


def small_inputs(batch: int = 3, views: int = 2, frames: int = 4) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(1)
    features = [torch.randn(batch, views, frames, tap.channels, tap.height, tap.width) for tap in SMALL_TAPS]
    return features, torch.randn(batch, 16, 24)


@pytest.fixture
def small() -> CNNAdapter:
    torch.manual_seed(0)
    return CNNAdapter(SMALL_TAPS, num_views=2, num_frames=4, emb_dim=24, **SMALL)


def with_random_last_norms(adapter: CNNAdapter) -> CNNAdapter:
    for name, parameter in adapter.named_parameters():
        if name.endswith("conv3.1.weight"):
            torch.nn.init.normal_(parameter)
    return adapter


@pytest.mark.golden
@pytest.mark.parametrize("dtype", DTYPES)
def test_real_size_output_equals_the_published_network(
    dtype: torch.dtype,
    reference_keys: dict[str, Any],
    unit: Callable[..., Tensor],
    fill_by_rule: Callable[[dict[str, list[int]]], dict[str, Tensor]],
    parity_arrays: Callable[[str], dict[str, Tensor]],
    sampled: Callable[[Tensor, int], Tensor],
) -> None:
    prefix = "model.diffusion_model."
    names = {k.removeprefix(prefix): s for k, s in reference_keys["full_size_keys"].items() if "vision_encoder" in k}
    weights = {k.removeprefix("vision_encoder."): w for k, w in fill_by_rule(names).items()}
    with torch.device("meta"):
        adapter = CNNAdapter(list(PAPER_TAPS.values()), num_views=3, num_frames=8, emb_dim=1280)
    adapter.load_state_dict(published_weights(adapter, adapter_name, weights), assign=True)
    assert sum(p.numel() for p in adapter.parameters()) == 205_812_616
    adapter.to(dtype)
    features = [
        unit(f"adapter/tap{tap}", (1, s.channels, 24, s.height, s.width)).unflatten(2, (3, 8)).movedim(1, 3).to(dtype)
        for tap, s in PAPER_TAPS.items()
    ]
    arrays = parity_arrays("adapter_action_full")
    names_of_layers = [name.removeprefix("mid_") for name in arrays if name.startswith("mid_") and "shape" not in name]
    assert len(names_of_layers) == 7
    middle: dict[str, Tensor] = {}
    ours = {adapter_name(key): key for key in adapter.state_dict()}
    for name in names_of_layers:
        module = adapter.get_submodule(module_in(name, ours))
        module.register_forward_hook(lambda _m, _i, out, name=name: middle.update({name: out}))
    with torch.no_grad():
        found = adapter.forward_map(features, unit("adapter/vision_emb", (32, 1280))[None].to(dtype))
    check("adapter_action_full adapter_out", found, arrays["adapter_out"], 1e-4)
    assert len(middle) == len(names_of_layers)
    for name, value in middle.items():
        assert list(value.shape) == arrays[f"mid_{name}_shape"].tolist()
        check(f"adapter_action_full mid_{name}", sampled(value, 1024), arrays[f"mid_{name}"], 1e-4)
    assert adapter.cond_dim == 6720
    assert adapter.map_shape == (420, 1, 4, 4)


def test_scaled_down_widths_of_the_joint_parity_run_are_reached_by_arguments(reference_keys: dict[str, Any]) -> None:
    taps = [TapShape(32, 32, 32), TapShape(64, 16, 16), TapShape(128, 8, 8), TapShape(128, 4, 4), TapShape(128, 4, 4)]
    last = [AdapterStage(140, 7, expansion=2)] * 2 + [AdapterStage(140, 7, 2, num_blocks=4, time_stride=2)] * 3
    merge = [(128, 8), (96, 8), (72, 6), (60, 5), (140, 5)]
    with torch.device("meta"):
        adapter = CNNAdapter(
            taps,
            num_views=3,
            num_frames=8,
            emb_dim=128,
            tap_groups=8,
            branch_stages=[AdapterStage(96, 8), AdapterStage(72, 6)],
            merge_stages=[AdapterStage(*stage) for stage in merge] + last,
            norm_groups=14,
        )
    names = {k: s for k, s in reference_keys["tiny_joint_keys"].items() if k.startswith("vision_encoder.")}
    want = {k.removeprefix("vision_encoder."): s for k, s in names.items()}
    assert {adapter_name(key): list(weight.shape) for key, weight in adapter.state_dict().items()} == want


def test_output_size_is_cond_dim_and_map_shape(small: CNNAdapter) -> None:
    features, emb = small_inputs()
    assert small.map_shape == (64, 1, 2, 2)
    assert small(features, emb).shape == (3, small.cond_dim) == (3, 256)


@pytest.mark.parametrize(("views", "frames", "taps"), [(1, 1, 1), (3, 5, 2), (2, 3, 1)])
def test_any_number_of_views_frames_and_taps_is_built(views: int, frames: int, taps: int) -> None:
    shapes = SMALL_TAPS[:taps]
    settings = {**SMALL, "tap_widths": (32, 64)[:taps], "entry_widths": (32,)[: taps - 1]}
    adapter = CNNAdapter(shapes, views, frames, 24, **settings)
    features, emb = small_inputs(2, views, frames)
    assert adapter(features[:taps], emb).shape == (2, adapter.cond_dim)


def test_every_frame_and_view_reaches_the_output(small: CNNAdapter) -> None:
    features, emb = small_inputs(1)
    for feature in features:
        feature.requires_grad_()
    with_random_last_norms(small)(features, emb).square().sum().backward()
    for feature in features:
        assert feature.grad is not None
        assert (feature.grad.abs().amax((0, 3, 4, 5)) > 0).all()


def test_views_have_weights_of_their_own(small: CNNAdapter) -> None:
    features, emb = small_inputs()
    swapped = [feature.flip(1) for feature in features]
    assert not torch.allclose(small(features, emb), small(swapped, emb), atol=1e-2)


def test_row_t_of_the_embedding_is_for_frame_t(small: CNNAdapter) -> None:
    features, emb = small_inputs()
    with_random_last_norms(small)
    changed = emb.clone()
    changed[:, 4:] += 1.0
    assert torch.equal(small(features, emb), small(features, changed))
    changed[:, 3] += 1.0
    assert not torch.allclose(small(features, emb), small(features, changed))
    one = emb[:, :1]
    assert torch.equal(small(features, one), small(features, one.expand(-1, 16, -1)))
    assert torch.equal(small(features, one), small(features, one[:, 0]))


def test_blocks_start_as_their_shortcut(small: CNNAdapter) -> None:
    block = small.branches[0].get_submodule("stages.0.1")
    x = torch.randn(1, 32, 4, 4, 4)
    assert torch.equal(block(x, torch.randn(1, 4, 24)), torch.nn.functional.silu(x))


def test_maps_that_do_not_fit_are_refused(small: CNNAdapter) -> None:
    features, emb = small_inputs()
    with pytest.raises(UserError, match="built for"):
        small(features[:1], emb)
    with pytest.raises(UserError, match="built for"):
        small([feature[:, :1] for feature in features], emb)
    with pytest.raises(UserError, match="2 rows for 4 frames"):
        small(features, emb[:, :2])


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="fine to coarse"):
        CNNAdapter(SMALL_TAPS[::-1], 2, 4, 24, **SMALL)
    with pytest.raises(UserError, match="at least one of each"):
        CNNAdapter([], 2, 4, 24)
    with pytest.raises(UserError, match="tap_widths"):
        CNNAdapter(SMALL_TAPS, 2, 4, 24, **{**SMALL, "tap_widths": (32,)})
    with pytest.raises(UserError, match="not a multiple of its 40 groups"):
        CNNAdapter(SMALL_TAPS, 2, 4, 24)


def test_config_rebuilds_the_adapter(small: CNNAdapter) -> None:
    stored = json.loads(json.dumps(describe(small, small.config)))
    rebuilt = build(stored)
    rebuilt.load_state_dict(small.state_dict())
    features, emb = small_inputs()
    assert torch.equal(rebuilt(features, emb), small(features, emb))
