"""The action network against the published network's arrays, and in small."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

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


# --- Diffusion Policy's form ------------------------------------------------------------------------------------------


def by_formula(weights: dict[str, Tensor], noisy: Tensor, emb: Tensor, cond: Tensor) -> Tensor:
    """Diffusion Policy's ConditionalUnet1D of two levels, from its description: Mish, scale and shift by FiLM."""

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(functional.mish(x), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def conv(name: str, x: Tensor, **settings: int) -> Tensor:
        return functional.conv1d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **settings)

    def layer(name: str, x: Tensor) -> Tensor:
        x = conv(f"{name}.conv", x, padding=1)
        x = functional.group_norm(x, 4, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])
        return functional.mish(x)

    def block(name: str, x: Tensor) -> Tensor:
        scale, shift = linear(f"{name}.film.1", told)[..., None].chunk(2, dim=1)
        out = layer(f"{name}.second", scale * layer(f"{name}.first", x) + shift)
        return out + (conv(f"{name}.shortcut", x) if f"{name}.shortcut.weight" in weights else x)

    told = torch.cat([linear("step_encoder.1", emb), cond], dim=-1)
    high = block("down.0.1", block("down.0.0", noisy.transpose(1, 2)))
    low = block("down.1.1", block("down.1.0", conv("down.0.2", high, stride=2, padding=1)))
    low = torch.cat([block("mid.1", block("mid.0", low)), low], dim=1)
    low = block("up.0.1", block("up.0.0", low))
    up = functional.conv_transpose1d(low, weights["up.0.2.weight"], weights["up.0.2.bias"], stride=2, padding=1)
    return conv("final.1", layer("final.0", up)).transpose(1, 2)


def test_with_mish_it_is_diffusion_policys_network() -> None:
    unet = small(kernel_size=3, activation="Mish", zero_init=False)
    inputs = torch.randn(2, 8, 7), torch.randn(2, 12), torch.randn(2, 10)
    found = unet(*inputs)
    assert torch.allclose(found, by_formula(dict(unet.state_dict()), *inputs), atol=1e-5)
    assert found.abs().max() > 0.01  # it does not begin at zero


def test_an_older_description_is_that_of_the_defaults() -> None:
    assert "activation" not in small().config
    assert ActionUNet(**small(activation="Mish", zero_init=False).config).config["activation"] == "Mish"
    with pytest.raises(UserError, match="activation is 'ReLU'"):
        small(activation="ReLU")
