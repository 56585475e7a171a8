"""The baseline: loss and samples with known answers, several observations, checkpoints and a rollout."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules import Batch, RobosuiteDataModule
from files.errors import UserError
from lightning_modules import PolicyStage
from networks import KeypointEncoder, NoiseSchedule, SeededTextEncoder
from policies import DiffusionPolicy, load_policy
from simulators import EpisodeSpec, Observation, PolicyRequest
from tests.policies.test_acting import request
from tests.stage_parts import fit, lift_datamodule, quiet_trainer, tiny_action_stage, tiny_action_unet
from videopolicy.evaluation.sampling_overrides import SamplingOverrides

encoder = partial(KeypointEncoder, crop_size=12, widths=(16,), num_blocks=1, num_keypoints=4, feature_dim=5)
unet = partial(tiny_action_unet, activation="Mish", zero_init=False)


def tiny_policy(**settings: Any) -> DiffusionPolicy:  # noqa: ANN401
    torch.manual_seed(0)
    text = SeededTextEncoder(embed_dim=16, width=16, heads=2, layers=1)
    schedule = NoiseSchedule("DDIMScheduler", num_steps=4)
    return DiffusionPolicy(text, **{"encoder": encoder, "action_unet": unet, "schedule": schedule, **settings})


def tiny_stage(**settings: Any) -> PolicyStage:  # noqa: ANN401
    return PolicyStage(tiny_policy(**settings), partial(torch.optim.Adam, lr=1e-3), num_predicted=2)


@pytest.fixture
def two_seen(robomimic_file: Callable[..., Path]) -> RobosuiteDataModule:
    """Two observations and the place of the gripper."""
    return lift_datamodule(robomimic_file(), num_observations=2, proprio=["robot0_eef_pos"])


def batch_of(data: RobosuiteDataModule, count: int = 4) -> Batch:
    data.setup()
    batch = Batch.collate([data.train_set[index] for index in range(count)])
    return data.on_after_batch_transfer(batch, 0)


def answering(policy: DiffusionPolicy, answer: Callable[[Tensor, Tensor], Tensor]) -> DiffusionPolicy:
    """A policy whose network is a formula."""
    policy.predict = lambda noisy, steps, conditioning: answer(noisy, steps)  # type: ignore[method-assign]
    return policy


def right_noise(policy: DiffusionPolicy, actions: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The noise that is in actions which are known: the noisy ones are linear in it."""

    def answer(noisy: Tensor, steps: Tensor) -> Tensor:
        zero = torch.zeros_like(actions)
        return (noisy - policy.schedule.noisy(actions, zero, steps)) / policy.schedule.noisy(zero, zero + 1, steps)

    return answer


@pytest.mark.parametrize("training", [True, False])
def test_a_network_that_knows_the_noise_has_no_loss(lift_data: RobosuiteDataModule, training: bool) -> None:
    policy = tiny_policy()
    policy.attach(lift_data.preprocessing)
    policy.train(training)
    batch = batch_of(lift_data)
    answering(policy, right_noise(policy, batch.actions))
    assert policy.loss(batch)["loss"] < 1e-6
    answering(policy, lambda noisy, steps: torch.zeros_like(noisy))
    assert policy.loss(batch)["loss"] == pytest.approx(1.0, abs=0.3)  # unit noise that nothing is known of


def test_a_network_that_knows_the_noise_gives_the_demos_actions_back(lift_data: RobosuiteDataModule) -> None:
    policy = tiny_policy(schedule=NoiseSchedule("DDIMScheduler", num_steps=16))
    policy.attach(lift_data.preprocessing)
    batch = batch_of(lift_data)
    answering(policy, right_noise(policy, batch.actions))
    assert torch.allclose(policy.eval().sample_batch(batch)[0], batch.actions, atol=1e-3)


def test_padding_can_be_left_out_of_the_loss(lift_data: RobosuiteDataModule) -> None:
    batch = batch_of(lift_data)
    batch.action_is_pad[:, 2:] = True
    for mask, loss in ((True, 0.0), (False, 0.5)):
        policy = tiny_policy(mask_padding=mask).eval()
        policy.attach(lift_data.preprocessing)
        wrong = torch.zeros(4, 1)
        wrong[2:] = 1.0  # only where nothing was recorded
        right = right_noise(policy, batch.actions)
        answering(policy, lambda noisy, steps, right=right, wrong=wrong: right(noisy, steps) + wrong)  # type: ignore[misc]
        assert policy.loss(batch)["loss"] == pytest.approx(loss, abs=1e-5)


def test_an_answer_depends_on_its_seed_and_observation_alone(lift_data: RobosuiteDataModule) -> None:
    for scheduler in ("DDPMScheduler", "DDIMScheduler"):
        policy = tiny_policy(schedule=NoiseSchedule(scheduler, num_steps=4))
        policy.attach(lift_data.preprocessing)
        requests = [request(seed, lift_data) for seed in (1, 2, 3)]
        torch.manual_seed(1)
        together = policy.act(requests)
        torch.manual_seed(2)
        alone = [policy.act([one])[0] for one in requests]
        for a, b in zip(together, alone, strict=True):
            assert np.allclose(a.actions, b.actions, atol=1e-5)
        assert not np.allclose(together[0].actions, together[1].actions)


def test_pictures_proprioception_and_words_reach_the_network(two_seen: RobosuiteDataModule) -> None:
    policy = tiny_policy().eval()
    policy.attach(two_seen.preprocessing)
    batch = batch_of(two_seen)
    assert batch.past_frames is not None
    assert batch.proprio is not None
    conditioning = policy.condition(batch.observations, [])
    assert conditioning.shape == (4, 2 * (2 * 5 + 3) + 16)
    assert policy.action_unet.cond_dim == conditioning.shape[1]
    for changed in (
        {"frames": batch.frames + 0.5 * torch.rand_like(batch.frames)},
        {"past_frames": batch.past_frames + 0.5 * torch.rand_like(batch.past_frames)},
        {"proprio": batch.proprio + 1},
        {"instructions": ["stack the cubes"] * 4},
    ):
        other = Batch(**{**vars(batch), **changed})
        assert not torch.allclose(policy.condition(other.observations, []), conditioning)


def test_a_policy_that_looks_at_the_current_pictures_alone_refuses_more(two_seen: RobosuiteDataModule) -> None:
    with pytest.raises(UserError, match=r"num_observations is 2 .* but a VideoPolicy sees the current pictures alone"):
        tiny_action_stage().attach(two_seen.preprocessing)


def seen_at(step: int, past: list[Observation], data: RobosuiteDataModule) -> Observation:
    images = {camera: np.full((16, 16, 3), 10 * step, np.uint8) for camera in data.cameras}
    return Observation(images, {"eef_pos": np.full(3, step, np.float32)}, "lift the cube", step, past=past)


def test_rollouts_show_it_the_step_before_and_at_the_start_the_first_twice(two_seen: RobosuiteDataModule) -> None:
    policy = tiny_policy()
    policy.attach(two_seen.preprocessing)
    seen = policy._observed([seen_at(0, [], two_seen), seen_at(8, [seen_at(7, [], two_seen)], two_seen)])
    assert ((seen.frames[:, 0, :, 0, 0, 0] + 1) * 12.75).round().tolist() == [[0, 0], [7, 8]]
    scaled = two_seen.preprocessing.proprio_statistics
    assert scaled is not None
    want = scaled.normalize(torch.tensor([[0.0, 0.0], [7.0, 8.0]])[..., None].expand(2, 2, 3))
    assert torch.allclose(seen.proprio, want)
    with pytest.raises(AssertionError, match="1 observations at step 8"):
        policy._observed([seen_at(8, [], two_seen)])
    blind = Observation(seen_at(0, [], two_seen).images, {"total": np.zeros(1)}, "", 0)
    with pytest.raises(UserError, match=r"no proprioception \['eef_pos'\].*reports \['total'\]"):
        policy.act([PolicyRequest(blind, EpisodeSpec("robosuite", "Lift", 0), 0, 0)])


def test_its_checkpoint_alone_acts_as_it_did(tmp_path: Path, two_seen: RobosuiteDataModule) -> None:
    stage, trainer = tiny_stage(), quiet_trainer(tmp_path, 3)
    fit(trainer, stage, two_seen)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    judged = trainer.validate(stage, datamodule=two_seen, verbose=False)[0]
    assert {"val/loss", "val/action_error"} <= set(judged)
    assert judged == trainer.validate(stage, datamodule=two_seen, verbose=False)[0]
    asked = [PolicyRequest(seen_at(0, [], two_seen), EpisodeSpec("robosuite", "Lift", 0), 0, 7)]
    policy = load_policy(tmp_path / "last.ckpt")
    assert np.array_equal(policy.act(asked)[0].actions, stage.policy.act(asked)[0].actions)
    assert policy.data == two_seen.preprocessing
    half = load_policy(tmp_path / "last.ckpt", precision="bfloat16")
    assert {weight.dtype for network in half.networks() for weight in network.parameters()} == {torch.bfloat16}
    assert np.allclose(half.act(asked)[0].actions, stage.policy.act(asked)[0].actions, atol=0.1)
    narrow = tiny_stage(encoder=partial(encoder, feature_dim=6))
    with pytest.raises(UserError, match="feature_dim: 5 here, 6 wanted"):
        fit(quiet_trainer(tmp_path, 5), narrow, two_seen, ckpt_path=tmp_path / "last.ckpt")


def test_the_gradient_reaches_all_networks_but_the_text_tower(two_seen: RobosuiteDataModule) -> None:
    policy = tiny_policy()
    policy.attach(two_seen.preprocessing)
    policy.train().loss(batch_of(two_seen))["loss"].backward()
    moved = {name for name, weight in policy.named_parameters() if weight.grad is not None and weight.grad.any()}
    trained = {id(weight) for weight in policy.parameter_groups()[0]["params"]}
    names = {name for name, weight in policy.named_parameters() if id(weight) in trained}
    without = {
        name for name in names if name.endswith("maps.bias")
    }  # shifts a whole map, which softmax takes out again
    assert names - without <= moved
    assert {name.split(".")[0] for name in moved} == {"encoder", "step_embedding", "action_unet"}


def test_steps_and_scheduler_are_changed_at_evaluation(lift_data: RobosuiteDataModule) -> None:
    policy = tiny_policy()
    policy.attach(lift_data.preprocessing)
    SamplingOverrides(action_steps=7, action_scheduler="DDPMScheduler").apply(policy)
    assert (policy.schedule.num_steps, policy.schedule.scheduler) == (7, "DDPMScheduler")
    with pytest.raises(UserError, match=r"guidance: .* DiffusionPolicy"):
        SamplingOverrides(guidance=2.0).apply(policy)
