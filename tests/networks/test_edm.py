import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from files.errors import UserError
from networks.component_config import build
from networks.edm import EDMPreconditioning, Preconditioning, ResidualPreconditioning, c_noise, mean_over_rows
from tests.goldens import DTYPES, check

LEVELS = torch.tensor([0.002, 0.5, 10.0, 700.0])


def fitted_residual(shape: tuple[int, ...] = (3, 2, 4, 4)) -> ResidualPreconditioning:
    preconditioning = ResidualPreconditioning(floor=0.03)
    cond = torch.randn(64, *shape)
    preconditioning.update(cond + 0.4 * torch.rand(shape) * torch.randn(64, *shape), cond)
    preconditioning.finish()
    return preconditioning


@pytest.mark.golden
@pytest.mark.parametrize("dtype", DTYPES)
def test_scalings_are_the_published_ones(parity_arrays: Callable[[str], dict[str, Tensor]], dtype: torch.dtype) -> None:
    arrays = parity_arrays("joint_tiny")
    sigma = arrays["den_sigma"].to(dtype)
    c_skip, c_out, c_in = (value.flatten() for value in EDMPreconditioning().scalings(sigma, 5))
    for name, value in {"c_skip": c_skip, "c_out": c_out, "c_in": c_in, "c_noise": c_noise(sigma)}.items():
        check(f"joint_tiny {name}", value, arrays[name], 1e-6)


def test_published_loss_weight() -> None:
    expected = (LEVELS**2 + 1) / LEVELS**2
    torch.testing.assert_close(EDMPreconditioning().loss_weight(LEVELS, 1), expected)


@pytest.mark.parametrize("preconditioning", [EDMPreconditioning(), EDMPreconditioning(0.3), fitted_residual()])
def test_perfect_denoiser_has_zero_loss_at_every_noise_level(preconditioning: Preconditioning) -> None:
    """c_skip and c_out must cancel exactly for the ideal network output (Karras et al. 2022, eq. 7)."""
    clean, cond = torch.randn(2, 4, 3, 2, 4, 4, dtype=torch.float64)
    noisy = clean + LEVELS.view(-1, 1, 1, 1, 1) * torch.randn_like(clean)
    c_skip, c_out, _ = preconditioning.scalings(LEVELS.double(), 5)
    center = preconditioning.center(cond)
    ideal = (clean - center - c_skip * (noisy - center)) / c_out
    denoised = preconditioning.denoised(ideal, noisy, LEVELS.double(), cond)
    assert preconditioning.row_losses(denoised, clean, LEVELS.double()).max() < 1e-15


@pytest.mark.parametrize("kind", ["edm", "residual"])
def test_network_input_and_target_have_unit_variance_at_every_level(kind: str) -> None:
    shape = (3, 2, 4, 4)
    cond = torch.randn(4096, *shape)
    if kind == "edm":
        preconditioning: Preconditioning = EDMPreconditioning(0.4)
        clean = 0.4 * torch.randn(4096, *shape)
    else:
        clean = cond + (0.1 + torch.rand(shape)) * torch.randn_like(cond)
        preconditioning = ResidualPreconditioning(floor=1e-6)
        preconditioning.update(clean, cond)
        preconditioning.finish()
    for level in LEVELS:
        sigma = level.expand(4096)
        noisy = clean + level * torch.randn_like(clean)
        c_skip, c_out, _ = preconditioning.scalings(sigma.double(), 5)
        center = preconditioning.center(cond)
        target = (clean - center - c_skip * (noisy - center).double()) / c_out
        assert target.var().item() == pytest.approx(1, abs=0.03)
        assert preconditioning.net_input(noisy, sigma, cond).var().item() == pytest.approx(1, abs=0.03)


def test_loss_is_the_raw_networks_squared_error() -> None:
    preconditioning = fitted_residual()
    clean, cond, output = torch.randn(3, 4, 3, 2, 4, 4, dtype=torch.float64)
    sigma = LEVELS.double()
    noisy = clean + sigma.view(-1, 1, 1, 1, 1) * torch.randn_like(clean)
    c_skip, c_out, _ = preconditioning.scalings(sigma, 5)
    target = (clean - cond - c_skip * (noisy - cond)) / c_out
    losses = preconditioning.row_losses(preconditioning.denoised(output, noisy, sigma, cond), clean, sigma)
    torch.testing.assert_close(losses, (output - target).square().flatten(2).mean(-1))


def test_network_sees_pure_noise_as_it_was_drawn() -> None:
    cond, noise = torch.randn(2, 4, 3, 2, 4, 4)
    for preconditioning in (EDMPreconditioning(), fitted_residual()):
        noisy = preconditioning.pure_noise(noise, LEVELS, cond)
        torch.testing.assert_close(preconditioning.net_input(noisy, LEVELS, cond), noise, atol=2e-3, rtol=1e-3)


def test_rows_of_video_and_action_count_alike() -> None:
    assert mean_over_rows(torch.ones(2, 25), torch.zeros(2, 32)).item() == pytest.approx(25 / 57)


def test_residual_std_is_root_mean_square_with_floor_whatever_the_batches() -> None:
    clean, cond = torch.randn(2, 10, 3, 2, 4, 4)
    cond[:, 0] = clean[:, 0]  # row 0 never moves
    preconditioning = ResidualPreconditioning(floor=0.05)
    for part in (slice(0, 3), slice(3, 10)):
        preconditioning.update(clean[part], cond[part])
    preconditioning.finish()
    expected = ((clean - cond).square().mean(0) + 0.05**2).sqrt()
    torch.testing.assert_close(preconditioning.std, expected)
    torch.testing.assert_close(preconditioning.std[0], torch.full((2, 4, 4), 0.05))


def test_residual_preconditioning_refuses_to_run_unfitted() -> None:
    preconditioning = ResidualPreconditioning()
    assert not preconditioning.fitted
    with pytest.raises(UserError, match="before it was fitted"):
        preconditioning.net_input(torch.randn(1, 2, 3, 4, 4), LEVELS[:1], torch.randn(1, 2, 3, 4, 4))
    with pytest.raises(UserError, match="no data to fit"):
        preconditioning.finish()
    with pytest.raises(UserError, match="nothing to fit"):
        EDMPreconditioning().finish()


def test_fitted_statistics_travel_in_the_state_dict() -> None:
    source, target = fitted_residual(), torch.nn.Sequential(ResidualPreconditioning())
    target.load_state_dict({f"0.{name}": value for name, value in source.state_dict().items()})
    assert torch.equal(target[0].std, source.std)
    assert target[0].fitted


def test_unfitted_state_dict_loads_too() -> None:
    fresh = ResidualPreconditioning()
    fresh.load_state_dict(ResidualPreconditioning().state_dict())
    assert not fresh.fitted


def test_half_precision_inputs_are_computed_in_float32() -> None:
    noisy = (700 * torch.randn(1, 2, 3)).half()
    denoised = EDMPreconditioning().denoised(torch.randn(1, 2, 3).half(), noisy, torch.tensor([700.0]))
    assert denoised.dtype == torch.float32
    assert EDMPreconditioning().net_input(noisy, torch.tensor([700.0])).dtype == torch.float32


@pytest.mark.parametrize("preconditioning", [EDMPreconditioning(0.7), ResidualPreconditioning(0.1)])
def test_config_rebuilds_the_preconditioning(preconditioning: Preconditioning) -> None:
    config = json.loads(json.dumps(preconditioning.config))
    assert build(config).config == preconditioning.config


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="sigma_data is 0"):
        EDMPreconditioning(0.0)
    with pytest.raises(UserError, match="floor is -1"):
        ResidualPreconditioning(-1.0)
