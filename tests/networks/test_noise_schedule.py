"""Steps between data and noise: the cosine schedule's formula, and back with the right noise."""

import math

import pytest
import torch
from torch import Tensor

from files.errors import UserError
from networks import NoiseSchedule, StepEmbedding


def kept(step: int, count: int = 100) -> float:
    """Share of the data's variance after a step of the squared cosine (Nichol and Dhariwal 2021, betas up to .999)."""

    def curve(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    return math.prod(1 - min(1 - curve((n + 1) / count) / curve(n / count), 0.999) for n in range(step + 1))


def test_noise_is_added_by_the_squared_cosine() -> None:
    clean, noise = torch.ones(3, 2), torch.full((3, 2), 2.0)
    found = NoiseSchedule().noisy(clean, noise, torch.tensor([0, 50, 99]))
    want = torch.tensor([math.sqrt(kept(step)) + 2 * math.sqrt(1 - kept(step)) for step in (0, 50, 99)])
    assert torch.allclose(found, want[:, None].expand(3, 2), atol=1e-5)


def right_answer(schedule: NoiseSchedule, clean: Tensor) -> object:
    """What a perfect network answers."""

    def predict(noisy: Tensor, steps: Tensor) -> Tensor:
        share = torch.tensor([kept(int(step)) for step in steps]).view(-1, 1, 1)
        noise = (noisy - share.sqrt() * clean) / (1 - share).sqrt()
        if schedule.prediction == "v_prediction":  # by its formula
            velocity = share.sqrt() * noise - (1 - share).sqrt() * clean
            assert torch.allclose(schedule.target(clean, noise, steps), velocity, atol=1e-5)
        return schedule.target(clean, noise, steps)

    return predict


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("num_steps", [16, 100])
def test_the_right_answer_leads_back_to_the_data(prediction: str, num_steps: int) -> None:
    schedule = NoiseSchedule("DDIMScheduler", num_steps=num_steps, prediction=prediction)  # type: ignore[arg-type]
    clean = torch.rand(2, 4, 3) * 2 - 1
    found = schedule.sample(right_answer(schedule, clean), torch.randn(2, 4, 3), [0, 1])  # type: ignore[arg-type]
    assert torch.allclose(found, clean, atol=1e-3)


def test_ddpm_ends_at_the_data_and_draws_by_the_seed_of_each_sample() -> None:
    schedule, clean, start = NoiseSchedule(), torch.zeros(3, 4, 3), torch.ones(3, 4, 3)
    exact = schedule.sample(right_answer(schedule, clean), start, [0, 1, 2])  # type: ignore[arg-type]
    assert exact.abs().max() < 0.02  # the last step's own noise is small
    nothing = torch.zeros_like
    together = schedule.sample(lambda x, _: nothing(x), start, [5, 6, 5])
    alone = schedule.sample(lambda x, _: nothing(x), start[:1], [6])
    assert torch.equal(together[1:2], alone)
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])


def test_a_step_is_embedded_by_the_published_waves() -> None:
    embedding = StepEmbedding(dim=8)
    rate = torch.exp(torch.arange(4) * -math.log(10_000) / 3)
    waves = torch.cat([(7 * rate).sin(), (7 * rate).cos()])[None]
    assert embedding(torch.tensor([7])).shape == (1, embedding.emb_dim)
    assert torch.allclose(embedding(torch.tensor([7])), embedding.linear(waves), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": "EulerDiscreteScheduler"}, "'EulerDiscreteScheduler' is none of DDPMScheduler, DDIMSch"),
        ({"num_steps": 101}, "num_steps is 101 and num_train_steps 100"),
    ],
)
def test_a_setting_out_of_range_is_one_sentence(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        NoiseSchedule(**settings)  # type: ignore[arg-type]
