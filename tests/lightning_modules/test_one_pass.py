"""Independent noise levels: several draws a window, drawn or partly denoised video levels, what is refused."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import Batch, RobosuiteDataModule
from lightning_modules import ActionStage, VideoPolicy
from lightning_modules.policy import build_stage
from networks import Conditioning, LogNormalNoise, NetworkError
from tests.stage_parts import tiny_action_stage, tiny_video_model


def stage_and_batch(data: RobosuiteDataModule, **arguments: Any) -> tuple[ActionStage, Batch]:  # noqa: ANN401
    video = tiny_video_model(residual=False)
    video.condition_noise = 0.0
    stage = tiny_action_stage(video, condition_dropout=0.0, **arguments)
    stage.attach(data.preprocessing)
    torch.manual_seed(2)
    for weight in stage.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)  # fresh action networks give zero whatever the features say
    stage.log_dict = lambda *_, **__: None  # type: ignore[method-assign] # there is no Trainer
    batch = next(iter(data.window_loader("train", batch_size=4)))
    batch.frames = data.preprocessing.to_float(batch.frames)
    return stage, batch


def counted(calls: list[int], method: Callable[..., Any]) -> Callable[..., Any]:
    def call(first: Tensor, *rest: Any, **named: Any) -> Any:  # noqa: ANN401
        calls.append(len(first))
        return method(first, *rest, **named)

    return call


@pytest.mark.parametrize("mask_padding", [False, True])
def test_draws_in_one_step_give_the_mean_loss_and_gradient_of_separate_draws(
    lift_data: RobosuiteDataModule, mask_padding: bool
) -> None:
    stage, batch = stage_and_batch(lift_data, mask_padding=mask_padding)
    stage.double()
    for name in ("frames", "actions"):
        setattr(batch, name, getattr(batch, name).double())
    batch.action_is_pad[0, 2:] = True
    draws = 3
    sigma, noise = LogNormalNoise().sample(draws * len(batch)).double(), torch.randn(draws, *batch.actions.shape)
    noise = noise.double()

    def gradients(loss: Tensor) -> Tensor:
        stage.zero_grad()
        loss.backward()
        trained = [p for p in stage.parameters() if p.requires_grad]
        return torch.cat([p.grad.flatten() for p in trained if p.grad is not None])

    separate = [stage.loss(batch, s, n) for s, n in zip(sigma.chunk(draws), noise, strict=True)]
    mean = torch.stack(separate).mean()
    together = stage.loss(batch, sigma, noise.flatten(0, 1))
    assert together.item() == pytest.approx(mean.item(), rel=1e-9)
    expected = gradients(mean)
    assert expected.norm() > 0
    assert (gradients(together) - expected).norm() < 1e-6 * expected.norm()


def test_draws_share_features_and_one_pass_of_the_adapter(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, batch = stage_and_batch(lift_data, action_draws=5)
    video, adapter, action = [], [], []
    monkeypatch.setattr(stage.video.unet, "features", counted(video, stage.video.unet.features))
    stage.adapter.register_forward_pre_hook(lambda _, given: adapter.append(len(given[0][0])))
    stage.action_unet.register_forward_pre_hook(lambda _, given: action.append(len(given[0])))
    stage.training_step(batch, 0).backward()
    assert (video, adapter, action) == ([4], [4], [20])


def test_steps_down_to_a_lower_level_cost_one_pass_each(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, batch = stage_and_batch(lift_data, video_steps=2, video_sigma_end=0.5)
    plain, _ = stage_and_batch(lift_data)
    levels: list[float] = []
    for name in ("denoise", "features"):
        method = getattr(stage.video, name)

        def noted(noisy: Tensor, sigma: Tensor, *rest: Any, method: Callable[..., Any] = method) -> Any:  # noqa: ANN401
            levels.append(sigma[0].item())
            return method(noisy, sigma, *rest)

        monkeypatch.setattr(stage.video, name, noted)
    features, emb = stage.imagine(stage.conditioning(batch))
    middle = (0.5 * (20 ** (1 / 7) + 0.5 ** (1 / 7))) ** 7
    assert levels == pytest.approx([20.0, middle, 0.5], rel=1e-5)
    assert torch.equal(emb, stage.video.level_embedding(torch.full((4,), levels[-1])))
    looked, _ = plain.imagine(plain.conditioning(batch))
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(features, looked, strict=True))


def test_training_draws_a_level_a_window_and_validation_keeps_the_fixed_one(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, batch = stage_and_batch(lift_data, video_noise=LogNormalNoise(1.0, 1.5), video_sigma=7.0)
    seen: list[Tensor] = []
    look = stage.video.imagine_features

    def noted(conditioning: Conditioning, sigma: float | Tensor, *rest: Any) -> Any:  # noqa: ANN401
        seen.append(torch.as_tensor(sigma))
        return look(conditioning, sigma, *rest)

    monkeypatch.setattr(stage.video, "imagine_features", noted)
    stage.train().training_step(batch, 0)
    assert seen[0].shape == (4,)
    assert len(set(seen[0].tolist())) == 4
    stage.eval().batch_features(batch)
    assert seen[1].tolist() == 7.0


def test_a_distribution_of_one_level_gives_the_features_of_that_fixed_level(lift_data: RobosuiteDataModule) -> None:
    """The level of pure noise reaches the networks by its embedding alone: their input is the noise itself."""

    def looked(**arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        stage, batch = stage_and_batch(lift_data, **arguments)
        features, emb = stage.train().batch_features(batch)
        return torch.cat([part.flatten() for part in features]), emb

    drawn, fixed = looked(video_noise=LogNormalNoise(math.log(5.0), 0.0)), looked(video_sigma=5.0)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(drawn, fixed, strict=True))
    assert (drawn[1] - looked()[1]).abs().max() > 1e-3


def test_a_policy_is_rebuilt_with_its_steps_and_older_descriptions_have_none(lift_data: RobosuiteDataModule) -> None:
    stage, _ = stage_and_batch(lift_data, video_steps=2, video_sigma_end=0.5)
    config = stage.policy_config()
    rebuilt = VideoPolicy(build_stage(config, lift_data.preprocessing)).stage
    assert isinstance(rebuilt, ActionStage)
    assert (rebuilt.video_steps, rebuilt.video_sigma_end) == (2, 0.5)
    old = {name: value for name, value in config.items() if name not in ("video_steps", "video_sigma_end")}
    assert build_stage(old, lift_data.preprocessing).video_steps == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise_levels": "shared", "action_draws": 2}, "action_draws is set with noise_levels: shared"),
        ({"noise_levels": "shared", "video_steps": 1}, "video_steps is set with noise_levels: shared"),
        ({"noise_levels": "shared", "video_noise": LogNormalNoise()}, "video_noise is set with noise_levels: shared"),
        ({"action_draws": 0}, "needed are action_draws >= 1"),
        ({"video_steps": -1}, "needed are .* video_steps >= 0"),
        ({"video_steps": 1, "video_sigma_end": 30.0}, "must lie between 0 and video_sigma 20.0"),
        ({"video_noise": LogNormalNoise(), "video_steps": 1}, "video_steps needs a fixed one"),
        ({"video_noise": LogNormalNoise(), "standardize_features": True}, "standardize_features needs a fixed one"),
    ],
)
def test_settings_that_contradict_the_noise_levels_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        tiny_action_stage(**arguments)
