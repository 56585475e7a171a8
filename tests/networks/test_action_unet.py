"""The action network against the published network's arrays, and in small."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from files.errors import UserError
from networks.action_unet import ActionUNet
from tests.goldens import DTYPES, check, published_weights
from videopolicy.conversion.names import action_unet_name


def small(**settings: Any) -> ActionUNet:  # noqa: ANN401
    torch.manual_seed(0)
    sizes = {"action_horizon": 8, "cond_dim": 10, "emb_dim": 12, "step_embed_dim": 6, "widths": (16, 32)}
    return ActionUNet(**{**sizes, "num_groups": 4, **settings})


@pytest.mark.golden
@pytest.mark.parametrize("dtype", DTYPES)
def test_real_size_output_equals_the_published_network(
    dtype: torch.dtype,
    reference_keys: dict[str, Any],
    unit: Callable[..., Tensor],
    fill_by_rule: Callable[[dict[str, list[int]]], dict[str, Tensor]],
    parity_arrays: Callable[[str], dict[str, Tensor]],
) -> None:
    prefix = "model.diffusion_model."
    names = {k.removeprefix(prefix): s for k, s in reference_keys["full_size_keys"].items() if "pose_pred_net" in k}
    weights = {k.removeprefix("pose_pred_net."): w for k, w in fill_by_rule(names).items()}
    with torch.device("meta"):
        unet = ActionUNet()
    unet.load_state_dict(published_weights(unet, action_unet_name, weights), assign=True)
    assert sum(p.numel() for p in unet.parameters()) == 161_359_111
    arrays = parity_arrays("adapter_action_full")
    with torch.no_grad():
        cond = arrays["adapter_out"].to(dtype).flatten(1)
        inputs = [unit("action/sample", (1, 32, 7)), unit("action/pose_emb", (1, 1280)), cond]
        found = unet.to(dtype)(*(x.to(dtype) for x in inputs))
    check("adapter_action_full action_out", found, arrays["action_out"], 1e-4)


def test_scaled_down_widths_of_the_joint_parity_run_are_reached_by_arguments(reference_keys: dict[str, Any]) -> None:
    with torch.device("meta"):
        unet = ActionUNet(7, 32, cond_dim=2240, emb_dim=128, step_embed_dim=64, widths=(32, 64, 128))
    names = {k: s for k, s in reference_keys["tiny_joint_keys"].items() if k.startswith("pose_pred_net.")}
    want = {k.removeprefix("pose_pred_net."): s for k, s in names.items()}
    assert {action_unet_name(key): list(weight.shape) for key, weight in unet.state_dict().items()} == want


@pytest.mark.parametrize(("horizon", "widths"), [(8, (16, 32)), (5, (16,)), (12, (8, 16, 16))])
def test_output_has_the_shape_of_the_chunk(horizon: int, widths: tuple[int, ...]) -> None:
    unet = small(action_dim=3, action_horizon=horizon, widths=widths)
    assert unet(torch.randn(2, horizon, 3), torch.randn(2, 12), torch.randn(2, 10)).shape == (2, horizon, 3)


def test_network_starts_with_a_zero_output() -> None:
    found = small()(torch.randn(2, 8, 7), torch.randn(2, 12), torch.randn(2, 10))
    assert torch.equal(found, torch.zeros(2, 8, 7))


def test_condition_and_level_change_the_output() -> None:
    unet = small()
    torch.nn.init.normal_(unet.final[-1].get_parameter("weight"))
    noisy, emb, cond = torch.randn(1, 8, 7), torch.randn(1, 12), torch.randn(1, 10)
    found = unet(noisy, emb, cond)
    assert not torch.allclose(found, unet(noisy, emb + 1, cond))
    assert not torch.allclose(found, unet(noisy, emb, cond + 1))


def test_a_small_network_learns_one_chunk() -> None:
    unet = small()
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-2)
    noisy, emb, cond, want = torch.randn(1, 8, 7), torch.randn(1, 12), torch.randn(1, 10), torch.randn(1, 8, 7)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (unet(noisy, emb, cond) - want).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-2


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="choose a multiple of 4"):
        ActionUNet(action_horizon=30)
    with pytest.raises(UserError, match="no multiples of num_groups"):
        small(widths=(16, 30))
    with pytest.raises(UserError, match="odd"):
        small(kernel_size=4)


def test_inputs_that_do_not_fit_are_refused() -> None:
    unet = small()
    with pytest.raises(UserError, match=r"built for \(8, 7\)"):
        unet(torch.randn(1, 8, 6), torch.randn(1, 12), torch.randn(1, 10))
    with pytest.raises(UserError, match="cond_dim is 10"):
        unet(torch.randn(1, 8, 7), torch.randn(1, 12), torch.randn(1, 11))


def test_config_rebuilds_the_network() -> None:
    unet = small()
    rebuilt = ActionUNet(**json.loads(json.dumps(unet.config)))
    rebuilt.load_state_dict(unet.state_dict())
