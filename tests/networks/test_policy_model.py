"""The joint network against the published one, and its behaviour in small."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from networks.action_unet import ActionUNet
from networks.adapter import PAPER_BRANCH, PAPER_MERGE, AdapterStage, CNNAdapter
from networks.autoencoders import SVDAutoencoder
from networks.checkpoint_keys import action_unet_key, adapter_key, unet_key
from networks.component_config import build
from networks.conditioning import Conditioning
from networks.edm import mean_over_rows
from networks.errors import NetworkError
from networks.policy_model import PolicyModel
from networks.sampling import Sampler
from networks.text import SeededTextEncoder
from networks.video_model import VideoModel
from networks.video_unet import VideoUNet

Unit = Callable[[str, Sequence[int]], Tensor]
Fill = Callable[[Mapping[str, Sequence[int]]], dict[str, Tensor]]
Arrays = Callable[[str], dict[str, Tensor]]
TAPS = (9, 13, 16, 19, 22)
ADAPTER, ACTION = "vision_encoder.", "pose_pred_net."


def our_key(published: str) -> str:
    """Name in `PolicyModel` of a published key (without `model.diffusion_model.`)."""
    if published.startswith(ADAPTER):
        return "adapter." + adapter_key(published.removeprefix(ADAPTER))
    if published.startswith(ACTION):
        return "action_unet." + action_unet_key(published.removeprefix(ACTION))
    return "video.unet." + unet_key(published)


def joint_model(unet: VideoUNet, text_dim: int, **sizes: Any) -> PolicyModel:  # noqa: ANN401
    """Published layout around a U-Net: three cameras of eight frames."""
    video = VideoModel(
        unet, SVDAutoencoder(block_out_channels=(32, 32), layers_per_block=1), SeededTextEncoder(text_dim), 3, 8
    )
    shapes = unet.tap_shapes(32)
    adapter = CNNAdapter([shapes[tap] for tap in reversed(TAPS)], 3, 8, unet.emb_dim, **sizes.get("adapter", {}))
    action = ActionUNet(cond_dim=adapter.cond_dim, emb_dim=unet.emb_dim, **sizes.get("action", {}))
    return PolicyModel(video, adapter, action, TAPS)


def load_by_rule(model: PolicyModel, shapes: Mapping[str, Sequence[int]], fill: Fill) -> None:
    """Fill every weight in place, one at a time: the real network and a copy of it would take 15 GiB."""
    own = {k: v for k, v in model.state_dict().items() if k.startswith(("video.unet.", "adapter.", "action_unet."))}
    assert {our_key(key) for key in shapes} == own.keys()
    for key, shape in shapes.items():
        assert own[our_key(key)].shape == torch.Size(shape)
        own[our_key(key)].copy_(fill({key: shape})[key])


@pytest.fixture(scope="module")
def tiny(reference_keys: dict[str, Any], fill_by_rule: Fill) -> PolicyModel:
    """The parity folder's scaled-down network."""
    unet = VideoUNet(
        block_out_channels=(32, 64, 128, 128),
        num_attention_heads=(4, 8, 16, 16),
        cross_attention_dim=48,
        addition_time_embed_dim=32,
    )
    narrow = {864: 96, 576: 72, 1280: 128, 960: 96, 720: 72, 540: 60, 420: 140}

    def scaled(stage: AdapterStage) -> AdapterStage:
        groups = {10: 8}.get(stage.num_groups, stage.num_groups)
        changes = {"width": narrow[stage.width], "num_groups": groups}
        return AdapterStage(**{**vars(stage), **changes})

    adapter = {
        "tap_groups": 8,
        "branch_stages": [scaled(stage) for stage in PAPER_BRANCH],
        "merge_stages": [scaled(stage) for stage in PAPER_MERGE],
    }
    model = joint_model(unet, 48, adapter=adapter, action={"step_embed_dim": 64, "widths": (32, 64, 128)})
    load_by_rule(model, reference_keys["tiny_joint_keys"], fill_by_rule)
    return model


def conditioning(unit: Unit, name: str, num_samples: int) -> Conditioning:
    context = unit(f"{name}/crossattn", (num_samples, 1, 48))[:, None].expand(-1, 25, -1, -1)
    latents = unit(f"{name}/concat", (25 * num_samples, 4, 32, 32)).unflatten(0, (num_samples, 25))
    return Conditioning(latents, context, latents)


def test_joint_denoiser_is_the_published_one(tiny: PolicyModel, unit: Unit, parity_arrays: Arrays) -> None:
    arrays = parity_arrays("joint_tiny")
    sigma = arrays["den_sigma"]
    noisy_video = sigma.view(2, 1, 1, 1, 1) * unit("joint/noised_video", (50, 4, 32, 32)).unflatten(0, (2, 25))
    noisy_action = sigma.view(2, 1, 1) * unit("joint/noised_action", (64, 7)).unflatten(0, (2, 32))
    condition = conditioning(unit, "joint", 2)
    with torch.no_grad():
        video, action = tiny.denoise(noisy_video, noisy_action, sigma, condition)
        features, emb = tiny.video.features(noisy_video, sigma, condition, TAPS)
        adapted = tiny.adapter.forward_map(features, emb)
        once = tiny.denoise_action(noisy_action, sigma, features, emb)
    torch.testing.assert_close(video.flatten(0, 1), arrays["den_video"], atol=5e-5, rtol=0)
    torch.testing.assert_close(action.flatten(0, 1).double(), arrays["den_action"], atol=1e-3, rtol=0)
    torch.testing.assert_close(adapted, arrays["den_adapter"], atol=5e-3, rtol=0)
    torch.testing.assert_close(once, action, atol=1e-3, rtol=0)  # the pass that stops early serves as well


def test_loss_and_gradients_are_the_published_ones(
    tiny: PolicyModel, unit: Unit, parity_arrays: Arrays, parity_dir: Path
) -> None:
    arrays = parity_arrays("joint_tiny")
    clean, noise = (unit(f"loss/video_{kind}", (50, 4, 32, 32)).unflatten(0, (2, 25)) for kind in ("clean", "noise"))
    action, action_noise = (unit(f"loss/action_{kind}", (64, 7)).unflatten(0, (2, 32)) for kind in ("clean", "noise"))
    tiny.zero_grad()
    video_rows, action_rows = tiny.loss(
        clean, action, noise, action_noise, arrays["den_sigma"], conditioning(unit, "joint", 2)
    )
    rows = torch.cat([video_rows.flatten(), action_rows.flatten()])
    torch.testing.assert_close(rows.double(), arrays["loss_elements"], atol=1e-3, rtol=0)
    loss = mean_over_rows(video_rows, action_rows)
    torch.testing.assert_close(loss, arrays["loss_total"], atol=1e-4, rtol=0)
    loss.backward()
    gradients = {name: p.grad for name, p in tiny.named_parameters() if p.grad is not None}
    names = np.load(parity_dir / "joint_tiny.npz")["grad_names"].tolist()
    for name, norm, mean in zip(names, arrays["grad_l2"], arrays["grad_mean"], strict=True):
        gradient = gradients[our_key(name)].double()
        torch.testing.assert_close(gradient.norm(), norm, rtol=2e-3, atol=0)
        scale = norm / gradient.numel() ** 0.5
        torch.testing.assert_close(gradient.mean(), mean, rtol=0, atol=2e-3 * scale.item())
    for part, prefix in {"video_unet": "video.unet.", "adapter": "adapter.", "action": "action_unet."}.items():
        total = sum(g.double().square().sum() for name, g in gradients.items() if name.startswith(prefix)) ** 0.5
        torch.testing.assert_close(total, arrays[f"grad_total_l2_{part}"], rtol=2e-3, atol=0)


def test_four_guided_euler_steps_are_the_published_ones(tiny: PolicyModel, unit: Unit, parity_arrays: Arrays) -> None:
    arrays = parity_arrays("joint_tiny")
    steps: list[tuple[Tensor, ...]] = []
    sampler = Sampler(num_steps=4)
    plain = sampler.sample

    def recording(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
        return plain(*args, **kwargs, on_step=lambda _, state: steps.append(state))

    sampler.sample = recording  # type: ignore[method-assign]
    video, action = tiny.sample(
        conditioning(unit, "sampler", 1),
        unit("sampler/video_noise", (25, 4, 32, 32))[None],
        unit("sampler/action_noise", (32, 7))[None],
        sampler,
    )
    torch.testing.assert_close(video[0], arrays["sampler_video"], atol=2e-4, rtol=0)
    torch.testing.assert_close(action[0].double(), arrays["sampler_action"], atol=5e-3, rtol=0)
    for step, (video, action) in enumerate(steps):
        expected = arrays["sampler_action_trajectory"][step]
        torch.testing.assert_close(action[0].double(), expected, atol=5e-3, rtol=1e-4)
        std = arrays["sampler_video_trajectory_std"][step]
        torch.testing.assert_close(video.double().std(correction=0), std, atol=0, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # one and a half minutes alone, more beside other work
def test_real_size_network_is_the_published_one(
    unit: Unit,
    parity_arrays: Arrays,
    reference_keys: dict[str, Any],
    fill_by_rule: Fill,
    sampled: Callable[[Tensor, int], Tensor],
) -> None:
    """About 10 GiB and two minutes on two cores; the raw network, without EDM scalings."""
    arrays, prefix = parity_arrays("joint_full"), "model.diffusion_model."
    model = joint_model(VideoUNet(zero_init=False), 1024)
    full = reference_keys["full_size_keys"]
    shapes = {key.removeprefix(prefix): shape for key, shape in full.items() if key.startswith(prefix)}
    load_by_rule(model, shapes, fill_by_rule)
    context = unit("full/context", (1, 1, 1024))[:, None].expand(-1, 25, -1, -1)
    c_noise = arrays["sigma"].log() / 4
    ids = torch.tensor([[6.0, 100.0, 0.02]])
    with torch.no_grad():
        output = model.video.unet(unit("full/x", (25, 8, 32, 32))[None], c_noise, context, ids, taps=TAPS)
        features = [model.video.views(output.taps[tap]) for tap in reversed(TAPS)]
        adapted = model.adapter.forward_map(features, output.emb)
        action = model.action_unet(unit("full/action", (32, 7))[None], output.emb, adapted.flatten(1))
    torch.testing.assert_close(output.sample[0], arrays["video"], atol=1e-4, rtol=0)
    for tap in TAPS:
        feature = output.taps[tap][0]
        assert list(feature.shape) == arrays[f"tap{tap}_shape"].tolist()
        torch.testing.assert_close(sampled(feature, 2048), arrays[f"tap{tap}"], atol=3e-4, rtol=0)
    torch.testing.assert_close(adapted, arrays["adapter"], atol=2e-3, rtol=0)
    torch.testing.assert_close(action[0], arrays["action"], atol=3e-4, rtol=0)


# --- in small -------------------------------------------------------------------------------------------------------


def small_policy(**changes: Any) -> PolicyModel:  # noqa: ANN401
    torch.manual_seed(0)
    unet = VideoUNet(
        block_out_channels=(32, 32),
        layers_per_block=1,
        num_attention_heads=(2, 2),
        cross_attention_dim=16,
        addition_time_embed_dim=8,
        zero_init=False,
    )
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
    return PolicyModel(**{"video": video, "adapter": adapter, "action_unet": action, "taps": (5,)} | changes)


def small_conditioning(model: PolicyModel, n: int = 2) -> Conditioning:
    current = torch.rand(n, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return model.video.condition(current, ["lift", "stack", "open"][:n], seeds=range(n))


def noises(model: PolicyModel, n: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = model.video.latent_shape(16)
    return torch.randn(n, *shape, generator=generator), torch.randn(n, 8, 3, generator=generator)


def count_passes(model: PolicyModel) -> dict[str, list[int]]:
    passes: dict[str, list[int]] = {"video": [], "adapter": [], "action": []}
    for name, module in (("video", model.video.unet), ("adapter", model.adapter), ("action", model.action_unet)):
        module.register_forward_pre_hook(lambda _, args, name=name: passes[name].append(len(args[0])))
    return passes


def test_guidance_doubles_the_batch_and_one_does_not() -> None:
    model = small_policy()
    passes = count_passes(model)
    for guidance in (2.0, 1.0):
        model.sample(small_conditioning(model), *noises(model), Sampler(2, guidance=guidance))
    assert passes["video"] == passes["action"] == [4, 4, 2, 2]


def test_a_samples_chunk_does_not_depend_on_its_batch() -> None:
    model = small_policy()
    conditioning, (video_noise, action_noise) = small_conditioning(model), noises(model)
    _, together = model.sample(conditioning, video_noise, action_noise, Sampler(2))
    _, alone = model.sample(conditioning[1:], video_noise[1:], action_noise[1:], Sampler(2))
    torch.testing.assert_close(alone[0], together[1], atol=1e-4, rtol=1e-4)


def test_one_look_serves_every_action_step() -> None:
    model = small_policy()
    video_noise, action_noise = noises(model)
    passes = count_passes(model)
    features, emb = model.video.imagine_features(small_conditioning(model), 20.0, video_noise, model.taps)
    actions = model.sample_actions(features, emb, action_noise, Sampler(5, 20.0, 0.02, guidance=1.0))
    assert actions.shape == (2, 8, 3)
    assert passes["video"] == []  # the features-only pass ends before the whole network's
    assert len(passes["adapter"]) == 1
    assert passes["action"] == [2] * 5


def test_guidance_of_one_look_needs_unconditional_features() -> None:
    model = small_policy()
    conditioning, (video_noise, action_noise) = small_conditioning(model), noises(model)
    features, emb = model.video.imagine_features(conditioning, 20.0, video_noise, model.taps)
    others, _ = model.video.imagine_features(conditioning.unconditional(), 20.0, video_noise, model.taps)
    with pytest.raises(NetworkError, match="set the sampler's guidance to 1"):
        model.sample_actions(features, emb, action_noise, Sampler(2, guidance=2.0))
    guided = model.sample_actions(features, emb, action_noise, Sampler(1, 10.0, guidance=2.0), others)
    sampler = Sampler(1, 10.0, guidance=1.0)
    plain, without = (model.sample_actions(maps, emb, action_noise, sampler) for maps in (features, others))
    torch.testing.assert_close(guided, without + 2 * (plain - without), atol=1e-4, rtol=1e-4)


def test_a_frozen_video_network_gets_no_gradient_and_the_action_head_does() -> None:
    model = small_policy()
    model.video.freeze()
    model.train()
    conditioning, (video_noise, action_noise) = small_conditioning(model), noises(model)
    _, rows = model.loss(video_noise, action_noise, video_noise, action_noise, torch.ones(2), conditioning)
    rows.mean().backward()
    assert all(parameter.grad is None for parameter in model.video.parameters())
    for part in (model.adapter, model.action_unet):
        assert all(parameter.grad is not None for parameter in part.parameters())


def test_action_loss_weight_is_the_published_one() -> None:
    sigma = torch.tensor([0.1, 3.0])
    torch.testing.assert_close(small_policy().action_loss_weight(sigma), (sigma**2 + 1) / sigma**2)


def test_bfloat16_autocast_samples_close_to_float32() -> None:
    model = small_policy()
    conditioning, both = small_conditioning(model), noises(model)
    exact = model.sample(conditioning, *both, Sampler(2))
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.sample(conditioning, *both, Sampler(2))
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).abs().mean() < 0.1 * a.abs().mean()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "share"), [(None, 0.01), (torch.bfloat16, 0.1), (torch.float16, 0.05)])
def test_a_gpu_samples_what_the_cpu_does(dtype: torch.dtype | None, share: float) -> None:
    """Seeded noise is drawn on the CPU, so one seed is one episode wherever it runs."""
    model = small_policy()
    exact = model.sample(small_conditioning(model), *noises(model), Sampler(2))
    model.cuda()
    current = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).cuda() * 2 - 1
    conditioning = model.video.condition(current, ["lift", "stack"], seeds=range(2))
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        sampled = model.sample(conditioning, *(noise.cuda() for noise in noises(model)), Sampler(2))
    for a, b in zip(exact, sampled, strict=True):
        assert (a - b.cpu()).abs().mean() < share * a.abs().mean()


def test_config_rebuilds_the_policy() -> None:
    model = small_policy()
    config = json.loads(json.dumps(model.config))
    again = build(config)
    again.load_state_dict(model.state_dict())
    conditioning, both = small_conditioning(model), noises(model)
    sampled, same = (m.sample(conditioning, *both, Sampler(2))[1] for m in (model, again))
    assert torch.equal(sampled, same)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(NetworkError, match=r"no tap \[99\].* 0 to 7"):
        small_policy(taps=(99,))
    with pytest.raises(NetworkError, match=r"channels of adapter\.taps"):
        small_policy(taps=(4, 5))
    with pytest.raises(NetworkError, match=r"action_unet\.cond_dim is 7"):
        small_policy(action_unet=ActionUNet(3, 8, 7, 128, 8, (8, 16), 3, 4))
