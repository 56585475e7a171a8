import json
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from files.errors import UserError
from networks.component_config import build
from networks.sampling import SCHEDULERS, Sampler, guided

MEAN, STD = torch.tensor([0.5, -1.0]), 0.5


def ideal(noisy: tuple[Tensor, ...], sigma: Tensor) -> tuple[Tensor, ...]:
    """The best denoiser of Gaussian data."""
    s = sigma.view(-1, 1)
    return tuple(MEAN + (x - MEAN) * STD**2 / (s**2 + STD**2) for x in noisy)


def exact_solution(start: Tensor, sigma_max: float) -> Tensor:
    """Where the probability flow of Gaussian data ends."""
    return MEAN + (start - MEAN) * STD / (sigma_max**2 + STD**2) ** 0.5


@pytest.mark.golden
@pytest.mark.parametrize("num_steps", [4, 30])
def test_levels_are_the_published_ones(parity_arrays: Callable[[str], dict[str, Tensor]], num_steps: int) -> None:
    """Theirs went through float32 powers, so they are 2e-6 away from the formula; ours are its values, rounded."""
    expected = parity_arrays("joint_tiny")[f"sigmas_{num_steps}"]
    found = Sampler(num_steps).sigmas()
    share = ((found - expected)[:-1] / expected[:-1]).abs().max().item()
    print(f"golden  joint_tiny sigmas_{num_steps} relative {share:.1e}  limit 1e-05")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.float64, 1e-14)])
def test_euler_is_the_textbook_step(dtype: torch.dtype, rtol: float) -> None:
    """Step x + (sigma_next - sigma) (x - D) / sigma, Karras et al. 2022, algorithm 2 without churn."""
    sampler = Sampler(num_steps=7, sigma_max=80.0)
    x = start = 80 * torch.randn(5, 2, dtype=dtype)
    sigmas = sampler.sigmas().to(dtype)
    for sigma, following in pairwise(sigmas):
        (clean,) = ideal((x,), sigma.expand(5))
        x = x + (following - sigma) * (x - clean) / sigma
    torch.testing.assert_close(sampler.sample(ideal, (start,))[0], x, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_samples_the_distribution(scheduler: str) -> None:
    sampler = Sampler(num_steps=100, sigma_max=80.0, scheduler=scheduler)
    levels = []

    def denoise(noisy: tuple[Tensor, ...], sigma: Tensor) -> tuple[Tensor, ...]:
        levels.append(sigma[0].item())
        return ideal(noisy, sigma)

    start = 80 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    (samples,) = sampler.sample(denoise, (start,), seeds=range(4000))
    torch.testing.assert_close(samples.mean(0), MEAN, atol=0.04, rtol=0)
    torch.testing.assert_close(samples.std(0), torch.full((2,), STD), atol=0.06, rtol=0)
    assert levels[0] == pytest.approx(80, rel=1e-3)
    assert levels[-1] == pytest.approx(0.002, rel=2e-2)
    if scheduler != "DDPMScheduler":  # the one that adds noise
        torch.testing.assert_close(samples, exact_solution(start, 80), atol=0.15, rtol=0)


@pytest.mark.parametrize(
    "scheduler", ["HeunDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]
)
def test_second_order_schedulers_come_closer_than_euler(scheduler: str) -> None:
    start = 700 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    errors = [
        (Sampler(scheduler=name).sample(ideal, (start,))[0] - exact_solution(start, 700)).abs().max()
        for name in (scheduler, "EulerDiscreteScheduler")
    ]
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_two_tensors_are_sampled_as_each_alone(scheduler: str) -> None:
    sampler = Sampler(num_steps=5, scheduler=scheduler)
    first, second = 700 * torch.randn(2, 3, 2)
    together = sampler.sample(ideal, (first, second))
    for alone, joint in zip((first, second), together, strict=True):
        assert torch.equal(sampler.sample(ideal, (alone,))[0], joint)


STOCHASTIC = [
    Sampler(4, scheduler="DDPMScheduler"),
    Sampler(4, scheduler="DPMSolverMultistepScheduler", scheduler_options={"algorithm_type": "sde-dpmsolver++"}),
]


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=lambda sampler: sampler.scheduler)
def test_a_stochastic_scheduler_draws_from_the_stream_of_each_sample(sampler: Sampler) -> None:
    start = 700 * torch.randn(1, 2).repeat(3, 1)
    (together,) = sampler.sample(ideal, (start,), seeds=[5, 6, 7])
    state = torch.get_rng_state()
    (alone,) = sampler.sample(ideal, (start[:1],), seeds=[6])
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers_that_are_not_called_stochastic_draw_nothing(scheduler: str) -> None:
    sampler, state = Sampler(4, scheduler=scheduler), torch.get_rng_state()
    sampler.sample(ideal, (torch.ones(2, 2),), seeds=[0, 1])
    assert torch.equal(torch.get_rng_state(), state)
    if not sampler.is_stochastic:
        assert torch.equal(*(sampler.sample(ideal, (torch.ones(2, 2),))[0] for _ in range(2)))


def test_a_stochastic_scheduler_without_seeds_is_refused() -> None:
    with pytest.raises(AssertionError, match="DDPMScheduler draws noise"):
        Sampler(4, scheduler="DDPMScheduler").sample(ideal, (torch.ones(2, 2),))


def test_guidance_formula() -> None:
    clean = torch.tensor([[3.0], [1.0]])  # conditional, unconditional
    assert guided(clean, 2.0).item() == 5.0
    assert guided(clean, 1.0).item() == 3.0


def test_unknown_scheduler_lists_those_there_are() -> None:
    with pytest.raises(UserError, match="no scheduler 'Euler'; choose one of EulerDiscreteScheduler, Heun"):
        Sampler(scheduler="Euler")


def test_misspelt_scheduler_option_is_refused() -> None:
    with pytest.raises(UserError, match=r"no option \['solver_odrer'\]"):
        Sampler(scheduler="DPMSolverMultistepScheduler", scheduler_options={"solver_odrer": 3})


def test_option_reaches_the_scheduler() -> None:
    start = 700 * torch.randn(8, 2)
    name = "DPMSolverMultistepScheduler"
    first_order = Sampler(9, scheduler=name, scheduler_options={"solver_order": 1}).sample(ideal, (start,))[0]
    assert not torch.equal(first_order, Sampler(9, scheduler=name).sample(ideal, (start,))[0])


@pytest.mark.parametrize("wrong", [{"num_steps": 0}, {"sigma_min": 0.0}, {"sigma_max": 0.001}, {"rho": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="needed are"):
        Sampler(**wrong)  # type: ignore[arg-type]


def test_config_rebuilds_the_sampler() -> None:
    sampler = Sampler(10, 20.0, 0.02, guidance=1.0, scheduler="HeunDiscreteScheduler")
    assert build(json.loads(json.dumps(sampler.config))).config == sampler.config
