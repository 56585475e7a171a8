"""The joint network in small; tests/networks/test_golden_joint.py compares it with the published one."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from files.errors import UserError
from networks.action_unet import ActionUNet
from networks.adapter import AdapterStage, CNNAdapter
from networks.autoencoders import SVDAutoencoder
from networks.conditioning import Conditioning
from networks.sampling import Sampler
from networks.text import SeededTextEncoder
from networks.video_model import VideoModel
from policies import VideoPolicy, build_policy
from tests.policy_parts import attached
from tests.stage_parts import tiny_unet


def small_policy(**changes: Any) -> VideoPolicy:  # noqa: ANN401
    torch.manual_seed(0)
    unet = tiny_unet()
    svd = SVDAutoencoder(block_out_channels=(32, 32), layers_per_block=1)
    video = VideoModel(unet, svd, SeededTextEncoder(16), num_views=2, num_frames=2)
    shapes = unet.tap_shapes(8)
    stage = AdapterStage(16, 2, expansion=2, num_blocks=1, space_stride=2)
    adapter = CNNAdapter(
        [shapes[5]], 2, 2, unet.emb_dim, tap_widths=[16], tap_groups=2, branch_stages=[stage], merge_stages=[stage],
        norm_groups=2,
    )  # fmt: skip
    action = ActionUNet(3, 8, adapter.cond_dim, unet.emb_dim, 8, (8, 16), 3, 4)
    torch.nn.init.normal_(action.final[-1].weight, std=0.1)  # a fresh one starts at zero and tells nothing apart
    policy = VideoPolicy(**{"video": video, "adapter": adapter, "action_unet": action, "taps": (5,)} | changes)
    return attached(policy, 16, action_dim=3, action_horizon=8)


def small_conditioning(model: VideoPolicy, n: int = 2) -> Conditioning:
    current = torch.rand(n, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return model.video.condition(current, ["lift", "stack", "open"][:n], seeds=range(n))


def noises(model: VideoPolicy, n: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = model.video.latent_shape(16)
    return torch.randn(n, *shape, generator=generator), torch.randn(n, 8, 3, generator=generator)


def count_passes(model: VideoPolicy) -> dict[str, list[int]]:
    passes: dict[str, list[int]] = {"video": [], "adapter": [], "action": []}
    for name, module in (("video", model.video.unet), ("adapter", model.adapter), ("action", model.action_unet)):
        module.register_forward_pre_hook(lambda _, args, name=name: passes[name].append(len(args[0])))
    return passes


def test_guidance_doubles_the_batch_and_one_does_not() -> None:
    model = small_policy()
    passes = count_passes(model)
    for guidance in (2.0, 1.0):
        model.joint.sample(small_conditioning(model), *noises(model), Sampler(2, guidance=guidance))
    assert passes["video"] == passes["action"] == [4, 4, 2, 2]


def test_a_samples_chunk_does_not_depend_on_its_batch() -> None:
    model = small_policy()
    conditioning, (video_noise, action_noise) = small_conditioning(model), noises(model)
    _, together = model.joint.sample(conditioning, video_noise, action_noise, Sampler(2))
    _, alone = model.joint.sample(conditioning[1:], video_noise[1:], action_noise[1:], Sampler(2))
    torch.testing.assert_close(alone[0], together[1], atol=1e-4, rtol=1e-4)


def test_one_look_serves_every_action_step() -> None:
    model = small_policy()
    video_noise, action_noise = noises(model)
    passes = count_passes(model)
    features, emb = model.video.features_of_noise(small_conditioning(model), 20.0, video_noise, model.taps)
    actions = model.joint.sample_actions(features, emb, action_noise, Sampler(5, 20.0, 0.02, guidance=1.0))
    assert actions.shape == (2, 8, 3)
    assert passes["video"] == []  # the features-only pass ends before the whole network's
    assert len(passes["adapter"]) == 1
    assert passes["action"] == [2] * 5


def test_guidance_of_one_look_needs_unconditional_features() -> None:
    model = small_policy()
    conditioning, (video_noise, action_noise) = small_conditioning(model), noises(model)
    features, emb = model.video.features_of_noise(conditioning, 20.0, video_noise, model.taps)
    others, _ = model.video.features_of_noise(conditioning.unconditional(), 20.0, video_noise, model.taps)
    with pytest.raises(UserError, match="set the sampler's guidance to 1"):
        model.joint.sample_actions(features, emb, action_noise, Sampler(2, guidance=2.0))
    guided = model.joint.sample_actions(features, emb, action_noise, Sampler(1, 10.0, guidance=2.0), others)
    sampler = Sampler(1, 10.0, guidance=1.0)
    plain, without = (model.joint.sample_actions(maps, emb, action_noise, sampler) for maps in (features, others))
    torch.testing.assert_close(guided, without + 2 * (plain - without), atol=1e-4, rtol=1e-4)


def test_a_frozen_video_network_gets_no_gradient_and_the_action_head_does() -> None:
    model = small_policy()
    model.video.freeze()
    model.train()
    conditioning, (video_noise, action_noise) = small_conditioning(model), noises(model)
    _, rows = model.joint.loss(video_noise, action_noise, video_noise, action_noise, torch.ones(2), conditioning)
    rows.mean().backward()
    assert all(parameter.grad is None for parameter in model.video.parameters())
    for part in (model.adapter, model.action_unet):
        assert all(parameter.grad is not None for parameter in part.parameters())


def test_action_loss_weight_is_the_published_one() -> None:
    sigma = torch.tensor([0.1, 3.0])
    torch.testing.assert_close(small_policy().joint.action_loss_weight(sigma), (sigma**2 + 1) / sigma**2)


def test_bfloat16_autocast_samples_close_to_float32() -> None:
    model = small_policy()
    conditioning, both = small_conditioning(model), noises(model)
    exact = model.joint.sample(conditioning, *both, Sampler(2))
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.joint.sample(conditioning, *both, Sampler(2))
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).abs().mean() < 0.1 * a.abs().mean()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "share"), [(None, 0.01), (torch.bfloat16, 0.1), (torch.float16, 0.05)])
def test_a_gpu_samples_what_the_cpu_does(dtype: torch.dtype | None, share: float) -> None:
    """Seeded noise is drawn on the CPU, so one seed is one episode wherever it runs."""
    model = small_policy()
    exact = model.joint.sample(small_conditioning(model), *noises(model), Sampler(2))
    model.cuda()
    current = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).cuda() * 2 - 1
    conditioning = model.video.condition(current, ["lift", "stack"], seeds=range(2))
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        sampled = model.joint.sample(conditioning, *(noise.cuda() for noise in noises(model)), Sampler(2))
    for a, b in zip(exact, sampled, strict=True):
        assert (a - b.cpu()).abs().mean() < share * a.abs().mean()


def test_config_rebuilds_the_policy() -> None:
    model = small_policy()
    again = build_policy(json.loads(json.dumps(model.config)), model.data)
    again.load_state_dict(model.state_dict())
    conditioning, both = small_conditioning(model), noises(model)
    sampled, same = (m.joint.sample(conditioning, *both, Sampler(2))[1] for m in (model, again))  # type: ignore[attr-defined]
    assert torch.equal(sampled, same)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"no tap \[99\]"):
        small_policy(taps=(99,))
    with pytest.raises(UserError, match=r"channels of adapter\.taps"):
        small_policy(taps=(4, 5))
    with pytest.raises(UserError, match=r"action_unet\.cond_dim is 7"):
        small_policy(action_unet=ActionUNet(3, 8, 7, 128, 8, (8, 16), 3, 4))
