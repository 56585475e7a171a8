"""One context token needs no attention: same outputs and gradients as with it, computed once for all steps."""

import pytest
import torch
from torch import Tensor

from networks.conditioning import Conditioning
from networks.sampling import Sampler
from networks.video_model import VideoModel
from networks.video_unet import VideoUNet
from tests.networks.test_video_model import TEXTS, tiny_model

B, F = 2, 7


def unet(dtype: torch.dtype = torch.float64, **changes: object) -> VideoUNet:
    torch.manual_seed(0)
    net = VideoUNet(
        in_channels=8,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        num_attention_heads=(2, 4),
        cross_attention_dim=16,
        addition_time_embed_dim=8,
        transformer_layers_per_block=2,
        zero_init=False,
        **changes,  # type: ignore[arg-type]
    )
    return net.to(dtype)


def inputs(num_tokens: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    context = torch.randn(B, F, num_tokens, 16, dtype=dtype)
    context[0, 3] = 0  # a dropped frame: the frames' tokens differ
    ids = torch.tensor([[6.0, 100.0, 0.02]], dtype=dtype).expand(B, -1)
    return torch.randn(B, F, 8, 8, 8, dtype=dtype), torch.tensor([0.3, 1.2], dtype=dtype), context, ids


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("num_tokens", [1, 3])
def test_output_and_taps_are_those_of_attention(dtype: torch.dtype, limit: float, num_tokens: int) -> None:
    net, (x, level, context, ids) = unet(dtype), inputs(num_tokens, dtype)
    with torch.no_grad():
        plain = net(x, level, context, ids, taps=(2, 5))
        constants = net.constants(context, ids)
        once = net(x, level, context, None, taps=(2, 5), constants=constants.at(net.time_embedding(level)))
        net.attend_always(True)
        attended = net(x, level, context, ids, taps=(2, 5))
    for found in (plain, once):
        for tensor, wanted in zip(
            (found.sample, *found.taps.values()), (attended.sample, *attended.taps.values()), strict=True
        ):
            assert ((tensor - wanted).abs().max() / wanted.abs().max()).item() < limit


def test_every_position_and_no_other_frame_sees_a_frames_token() -> None:
    """The shortcut must not spread a token over frames: spatial attention reads each frame's own."""
    net, (x, level, context, ids) = unet(), inputs()
    changed = context.clone()
    changed[1, 4] += 1.0  # neither the first frame's, which the temporal blocks read
    with torch.no_grad():
        outputs = []
        for always in (False, True):
            net.attend_always(always)
            outputs.append(net(x, level, changed, ids).sample - net(x, level, context, ids).sample)
    assert outputs[0][0].abs().max() == 0
    assert outputs[0][1].abs().max() > 1e-3
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradients_are_those_of_attention_and_zero_where_the_token_decides_all(gradient_checkpointing: bool) -> None:
    net, (x, level, context, ids) = unet(gradient_checkpointing=gradient_checkpointing), inputs()
    gradients = []
    for always in (False, True):
        net.attend_always(always)
        net.zero_grad()
        net(x, level, context, ids).sample.square().mean().backward()
        gradients.append({name: p.grad for name, p in net.named_parameters()})
    ours, attended = gradients
    assert all(gradient is not None for gradient in ours.values())  # DDP waits for all of them
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, attended[name], rtol=1e-8, atol=1e-13, msg=name)
    unused = [name for name in ours if any(part in name for part in ("attn2.to_q", "attn2.to_k", ".norm2.weight"))]
    unused = [name for name in unused if "transformer_blocks" in name]
    assert len(unused) > 10
    assert all(not ours[name].any() for name in unused)
    assert all(ours[name].any() for name in ours if "attn2.to_v" in name or "attn2.to_out.0.weight" in name)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_training_takes_the_same_path(optimizer: type[torch.optim.Optimizer]) -> None:
    """AdamW decays a weight with a zero gradient, and leaves one without gradient alone: ours is zero, as published."""
    x, level, context, ids = inputs()
    losses, weights = [], []
    for always in (False, True):
        net = unet(always_attends=always)
        steps = optimizer(net.parameters(), lr=1e-3)  # type: ignore[call-arg]
        for _ in range(3):
            steps.zero_grad()
            loss = net(x, level, context, ids).sample.square().mean()
            loss.backward()
            steps.step()
            losses.append(loss.item())
        weights.append(dict(net.named_parameters()))
    assert losses[:3] == pytest.approx(losses[3:], rel=1e-9)
    for name, weight in weights[0].items():
        if "attn2.to_q" in name or "attn2.to_k" in name:
            torch.testing.assert_close(weight, weights[1][name], rtol=1e-12, atol=1e-12)


def test_no_query_key_or_softmax_is_computed() -> None:
    net, (x, level, context, ids) = unet(), inputs()
    called: list[str] = []
    for name, module in net.named_modules():
        if "attn2.to_q" in name or "attn2.to_k" in name or name.endswith("attn2"):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    net(x, level, context, ids)
    assert not called
    net.attend_always(True)
    net(x, level, context, ids)
    assert len(called) > 10


def conditioning() -> tuple[VideoModel, Conditioning, Tensor]:
    model = tiny_model().double()
    generator = torch.Generator().manual_seed(1)
    current = torch.rand(2, 2, 3, 16, 16, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(2, *model.latent_shape(16), generator=generator, dtype=torch.float64)
    return model, model.condition(current, TEXTS, range(len(TEXTS))), noise


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "DDIMScheduler"])
def test_sampling_embeds_ids_text_and_levels_once_and_gives_what_each_step_would(
    guidance: float, scheduler: str
) -> None:
    model, given, noise = conditioning()
    sampler = Sampler(3, guidance=guidance, scheduler=scheduler)
    calls = {"levels": 0, "ids": 0, "tokens": 0}

    def counting(name: str) -> object:
        def add(*_: object) -> None:
            calls[name] += 1

        return add

    net = model.unet.unet
    net.time_embedding.register_forward_hook(counting("levels"))
    net.add_embedding.register_forward_hook(counting("ids"))
    net.mid_block.attentions[0].transformer_blocks[0].attn2.to_v.register_forward_hook(counting("tokens"))
    once = model.predict_video(given, sampler, noise)
    assert calls == {"levels": 1, "ids": 1, "tokens": 1}
    again = step_by_step(model, given, sampler, noise)
    assert min(calls.values()) > 3
    assert ((once - again).abs().max() / again.abs().max()).item() < 1e-6  # sinusoids are float32, in both


def step_by_step(model: VideoModel, given: Conditioning, sampler: Sampler, noise: Tensor) -> Tensor:
    """Sampling that computes everything anew at every step, with attention, and the two cases one after the other."""
    model.unet.attend_always(True)
    without = given.unconditional()

    def denoise(noisy: tuple[Tensor, ...], sigma: Tensor) -> tuple[Tensor, ...]:
        conditional = model.denoise(noisy[0], sigma, given)
        unconditional = model.denoise(noisy[0], sigma, without)
        return (unconditional + sampler.guidance * (conditional - unconditional),)

    start = model.preconditioning.pure_noise(noise, sampler.first_level(noise), given.anchor)
    return sampler.sample(denoise, (start,))[0]
