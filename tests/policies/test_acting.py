"""The policy answers each request on its own, through the training's preprocessing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import RobosuiteDataModule
from files.errors import UserError
from lightning_modules import ActionStage
from policies import FeatureLevels, FixedLevel, SharedLevels, load_policy
from simulators import EpisodeSpec, Observation, PolicyRequest
from tests.stage_parts import fit, quiet_trainer, tiny_action_stage, tiny_video_model, tiny_video_stage


def request(seed: int, data: RobosuiteDataModule, want_prediction: bool = False) -> PolicyRequest:
    rng = np.random.default_rng(seed)
    images = {camera: rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for camera in data.cameras}
    observation = Observation(images, {}, "lift the cube", 0)
    return PolicyRequest(observation, EpisodeSpec("robosuite", "Lift", seed), 0, seed, want_prediction)


@pytest.fixture(params=[FixedLevel, SharedLevels])
def stage(request: pytest.FixtureRequest, lift_data: RobosuiteDataModule) -> ActionStage:
    """An untrained action stage of either kind."""
    stage = tiny_action_stage(tiny_video_model(residual=False), features=request.param())
    stage.attach(lift_data.preprocessing)
    return stage


def test_answer_does_not_depend_on_the_rest_of_the_batch(stage: ActionStage, lift_data: RobosuiteDataModule) -> None:
    policy = stage.policy
    requests = [request(seed, lift_data) for seed in (1, 2, 3)]
    together = policy.act(requests)
    alone = [policy.act([one])[0] for one in requests]
    for a, b in zip(together, alone, strict=True):
        assert np.allclose(a.actions, b.actions, atol=1e-5)
    assert not np.allclose(together[0].actions, together[1].actions)


def test_actions_are_in_the_units_and_range_of_the_demos(stage: ActionStage, lift_data: RobosuiteDataModule) -> None:
    reply = stage.policy.act([request(0, lift_data)])[0]
    statistics = lift_data.preprocessing.statistics
    assert reply.actions.shape == (4, 7)
    assert reply.actions.dtype == np.float32
    assert (reply.actions >= np.array(statistics.minimum) - 1e-5).all()
    assert (reply.actions <= np.array(statistics.maximum) + 1e-5).all()


def test_predicted_frames_come_only_where_wanted(stage: ActionStage, lift_data: RobosuiteDataModule) -> None:
    first, second = stage.policy.act([request(0, lift_data), request(1, lift_data, want_prediction=True)])
    assert first.prediction is None
    assert second.prediction is not None
    assert second.prediction.shape == (2, 2, 16, 16, 3)
    assert second.prediction.dtype == np.uint8


def test_only_requests_that_want_a_prediction_run_the_video_sampler(
    stage: ActionStage, lift_data: RobosuiteDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[int] = []
    predict, decode = stage.video.predict_video, stage.video.decode
    monkeypatch.setattr(stage.video, "predict_video", lambda c, *more: (sampled.append(len(c)), predict(c, *more))[1])
    monkeypatch.setattr(stage.video, "decode", lambda latents: (sampled.append(len(latents)), decode(latents))[1])
    policy = stage.policy
    plain = policy.act([request(seed, lift_data) for seed in range(4)])
    assert sampled == []
    filmed = policy.act([request(seed, lift_data, want_prediction=seed in (1, 3)) for seed in range(4)])
    assert sampled == ([2, 2] if isinstance(stage.policy.features, FixedLevel) else [2])
    for one, other in zip(plain, filmed, strict=True):
        assert np.array_equal(one.actions, other.actions)
    assert [reply.prediction is not None for reply in filmed] == [False, True, False, True]
    alone = policy.act([request(3, lift_data, want_prediction=True)])[0].prediction
    assert np.abs(alone.astype(int) - filmed[3].prediction).max() <= 1
    assert not np.array_equal(filmed[1].prediction, filmed[3].prediction)


def test_policy_leaves_a_training_stage_in_training(stage: ActionStage, lift_data: RobosuiteDataModule) -> None:
    stage.train()
    stage.policy.act([request(0, lift_data)])
    assert stage.training
    assert stage.policy.adapter.training


@pytest.mark.parametrize("levels", [FixedLevel, SharedLevels])
def test_checkpoint_alone_gives_the_same_actions(
    tmp_path: Path, lift_data: RobosuiteDataModule, levels: type[FeatureLevels]
) -> None:
    stage = tiny_action_stage(tiny_video_model(residual=False), features=levels())
    trainer = quiet_trainer(tmp_path, 2)
    fit(trainer, stage, lift_data)
    trainer.save_checkpoint(tmp_path / "policy.ckpt")
    wanted = stage.policy.act([request(7, lift_data)])[0].actions
    found = load_policy(tmp_path / "policy.ckpt").act([request(7, lift_data)])[0].actions
    assert np.array_equal(found, wanted)


def test_checkpoint_of_the_video_stage_is_no_policy(tmp_path: Path, lift_data: RobosuiteDataModule) -> None:
    trainer = quiet_trainer(tmp_path, 1)
    fit(trainer, tiny_video_stage(), lift_data)
    trainer.save_checkpoint(tmp_path / "video.ckpt")
    with pytest.raises(UserError, match="no policy inside"):
        load_policy(tmp_path / "video.ckpt")


class Malicious:
    """Pickles as a call that would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.mark,))


def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"policy": Malicious(tmp_path / "owned")}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="pickled objects"):
        load_policy(tmp_path / "evil.ckpt")
    assert not (tmp_path / "owned").exists()


def test_missing_and_truncated_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        load_policy(tmp_path / "nowhere.ckpt")
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, tmp_path / "cut.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "cut.ckpt").read_bytes()[:-500])
    with pytest.raises(UserError, match="damaged"):
        load_policy(tmp_path / "cut.ckpt")
