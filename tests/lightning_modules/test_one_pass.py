"""Independent noise levels: several draws a window, drawn or partly denoised video levels, what is refused."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import Batch, RobosuiteDataModule
from files.errors import UserError
from lightning_modules import ActionStage
from networks import Conditioning, LogNormalNoise
from policies import FeatureLevels, FixedLevel, ObservationFeatures, RandomLevel, VideoPolicy, build_policy
from policies.video_inputs import conditioning_of
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

    separate = [stage.policy.action_loss(batch, s, n) for s, n in zip(sigma.chunk(draws), noise, strict=True)]
    mean = torch.stack(separate).mean()
    together = stage.policy.action_loss(batch, sigma, noise.flatten(0, 1))
    assert together.item() == pytest.approx(mean.item(), rel=1e-9)
    expected = gradients(mean)
    assert expected.norm() > 0
    assert (gradients(together) - expected).norm() < 1e-6 * expected.norm()


def test_draws_share_features_and_one_pass_of_the_adapter(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, batch = stage_and_batch(lift_data, features=FixedLevel(draws=5))
    video, adapter, action = [], [], []
    monkeypatch.setattr(stage.video.unet, "features", counted(video, stage.video.unet.features))
    stage.policy.adapter.register_forward_pre_hook(lambda _, given: adapter.append(len(given[0][0])))
    stage.policy.action_unet.register_forward_pre_hook(lambda _, given: action.append(len(given[0])))
    stage.training_step(batch, 0).backward()
    assert (video, adapter, action) == ([4], [4], [20])


def test_steps_down_to_a_lower_level_cost_one_pass_each(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, batch = stage_and_batch(lift_data, features=FixedLevel(steps=2, sigma_end=0.5))
    plain, _ = stage_and_batch(lift_data)
    levels: list[float] = []
    for name in ("denoise", "features"):
        method = getattr(stage.video, name)

        def noted(noisy: Tensor, sigma: Tensor, *rest: Any, method: Callable[..., Any] = method) -> Any:  # noqa: ANN401
            levels.append(sigma[0].item())
            return method(noisy, sigma, *rest)

        monkeypatch.setattr(stage.video, name, noted)
    features, emb = stage.policy.features_of_noise(conditioning_of(stage.video, batch, None))
    middle = (0.5 * (20 ** (1 / 7) + 0.5 ** (1 / 7))) ** 7
    assert levels == pytest.approx([20.0, middle, 0.5], rel=1e-5)
    assert torch.equal(emb, stage.video.level_embedding(torch.full((4,), levels[-1])))
    looked, _ = plain.policy.features_of_noise(conditioning_of(plain.video, batch, None))
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(features, looked, strict=True))


def test_training_draws_a_level_a_window_and_validation_keeps_the_fixed_one(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, batch = stage_and_batch(lift_data, features=RandomLevel(LogNormalNoise(1.0, 1.5), 7.0))
    seen: list[Tensor] = []
    look = stage.video.features_of_noise

    def noted(conditioning: Conditioning, sigma: float | Tensor, *rest: Any) -> Any:  # noqa: ANN401
        seen.append(torch.as_tensor(sigma))
        return look(conditioning, sigma, *rest)

    monkeypatch.setattr(stage.video, "features_of_noise", noted)
    stage.train().training_step(batch, 0)
    assert seen[0].shape == (4,)
    assert len(set(seen[0].tolist())) == 4
    stage.eval().policy.batch_features(batch)
    assert seen[1].tolist() == 7.0


def test_a_distribution_of_one_level_gives_the_features_of_that_fixed_level(lift_data: RobosuiteDataModule) -> None:
    """The level of pure noise reaches the networks by its embedding alone: their input is the noise itself."""

    def looked(levels: FeatureLevels) -> tuple[Tensor, Tensor]:
        stage, batch = stage_and_batch(lift_data, features=levels)
        features, emb = stage.train().policy.batch_features(batch)
        return torch.cat([part.flatten() for part in features]), emb

    drawn, fixed = looked(RandomLevel(LogNormalNoise(math.log(5.0), 0.0))), looked(FixedLevel(5.0))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(drawn, fixed, strict=True))
    assert (drawn[1] - looked(FixedLevel())[1]).abs().max() > 1e-3


def test_a_policy_is_rebuilt_with_its_levels(lift_data: RobosuiteDataModule) -> None:
    for levels in (
        FixedLevel(9.0, 2, 0.5, standardize=True),
        RandomLevel(LogNormalNoise(), 3.0, draws=2),
        ObservationFeatures(9.0, 2, standardize=True),
    ):
        stage, _ = stage_and_batch(lift_data, features=levels)
        rebuilt = build_policy(stage.policy.config, lift_data.preprocessing)
        assert isinstance(rebuilt, VideoPolicy)
        assert rebuilt.features.config == levels.config


def test_observation_features_are_the_latents_and_words_of_now_at_every_tap(
    lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, batch = stage_and_batch(lift_data, features=ObservationFeatures())
    monkeypatch.setattr(stage.video.unet, "forward", None)  # the video network is never asked
    features, _ = stage.policy.batch_features(batch)
    conditioning = conditioning_of(stage.video, batch, None)
    latents = stage.video.views(conditioning.latents)  # (B, V, T, 48, 4, 4)
    assert [(shape.channels, shape.height) for shape in stage.policy.tap_shapes()] == [(48 + 16, 4), (4 * 48 + 16, 2)]
    fine, coarse = features
    assert torch.equal(fine[..., :48, :, :], latents)
    assert torch.equal(coarse[..., :192, 0, 1], latents[..., :2, 2:].flatten(-3)), "four pixels are the channels of one"
    for feature in features:
        assert torch.equal(feature[0, 0, 0, -16:, 0, 0], conditioning.context[0, 0, 0])
    loss = stage.training_step(batch, 0)
    loss.backward()
    assert all(weight.grad is None for weight in stage.video.parameters())
    assert stage.policy.sample_batch(batch)[0].shape == batch.actions.shape


@pytest.mark.parametrize("levels", ["shared", "independent"])
def test_descriptions_of_older_checkpoints_are_read(lift_data: RobosuiteDataModule, levels: str) -> None:
    stage, _ = stage_and_batch(lift_data)
    arguments = stage.policy.config["init_args"]
    old = {name: value for name, value in arguments.items() if name != "features"}
    old |= {"noise_levels": levels, "video_sigma": 7.0, "standardize_features": levels != "shared"}
    policy = build_policy(old, lift_data.preprocessing)
    assert isinstance(policy, VideoPolicy)
    expected = {} if levels == "shared" else FixedLevel(7.0, standardize=True).config["init_args"]
    assert policy.features.config["init_args"] == expected
    with pytest.raises(UserError, match="another version: policy: key 'film' unknown; key 'taps' missing"):
        build_policy({name: value for name, value in old.items() if name != "taps"} | {"film": 1}, stage.data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 0}, "draws >= 1"),
        ({"sigma": 0.0}, "sigma > 0"),
        ({"steps": -1}, "steps >= 0"),
        ({"steps": 1, "sigma_end": 30.0}, "sigma_end 30.0, sigma 20.0"),
    ],
)
def test_levels_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FixedLevel(**arguments)
