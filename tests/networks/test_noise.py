import pytest
import torch

from files.errors import UserError
from networks.noise import LogNormalNoise, ReadLevelNoise, partly_denoised, seeded_noise


def test_log_of_the_levels_has_the_published_mean_and_deviation() -> None:
    logs = LogNormalNoise().sample(100_000).log()
    assert logs.mean().item() == pytest.approx(1.0, abs=0.02)
    assert logs.std().item() == pytest.approx(1.6, abs=0.02)


def test_a_share_of_the_samples_is_at_the_level_that_is_read_and_the_rest_is_log_normal() -> None:
    levels = ReadLevelNoise(level=20.0, share=0.25, mean=-1.0, std=0.5).sample(100_000)
    assert (levels == 20.0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    logs = levels[levels != 20.0].log()
    assert (logs.mean().item(), logs.std().item()) == (pytest.approx(-1.0, abs=0.01), pytest.approx(0.5, abs=0.01))
    assert (ReadLevelNoise(share=1.0).sample(100) == 20.0).all()


def test_a_share_is_a_share() -> None:
    with pytest.raises(UserError, match=r"share 1\.5; needed are"):
        ReadLevelNoise(share=1.5)


def test_a_samples_noise_depends_on_its_own_seed_only() -> None:
    together = seeded_noise((2, 3), [7, 8, 9], "video")
    assert torch.equal(seeded_noise((2, 3), [8], "video")[0], together[1])
    assert not torch.equal(together[0], together[1])
    assert together.shape == (3, 2, 3)


def test_negative_deviation_is_refused() -> None:
    with pytest.raises(UserError, match="std is -1"):
        LogNormalNoise(std=-1.0)


def test_euler_steps_of_a_known_denoiser_leave_the_last_levels_share_of_the_noise() -> None:
    clean, noise = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    seen: list[float] = []

    def denoise(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(sigma[0].item())
        assert torch.allclose(noisy, clean + sigma.view(-1, 1, 1) * noise, atol=1e-5)
        return clean

    partly = partly_denoised(denoise, clean + 20 * noise, [20.0, 5.0, 0.5])
    assert seen == [20.0, 5.0]
    assert torch.allclose(partly, clean + 0.5 * noise, atol=1e-5)
