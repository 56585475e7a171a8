"""A replan in the published order of work, in ours, and with any of our shortcuts alone."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.parts.alternation import Contender, Run
from benchmarks.parts.random_stage import weight_bytes
from networks import Conditioning, Sampler, seeded_noise
from networks.inference import prepare_for_inference
from networks.sampling import guided

EXACT = {
    "one_token": "cross-attention to one token without queries, keys and softmax",
    "once_a_replan": "ids, text and the levels of all steps embedded once",
    "both_halves": "both halves of guidance in one batch",
    "no_decode": "no film decoded",
}
BY_DEVICE = {
    "bfloat16": "weights in bfloat16",
    "float16": "weights in float16",
    "channels_last": "channels innermost",
    "compile": "torch.compile",
}
MEANING = EXACT | BY_DEVICE
ALL = frozenset(EXACT)


class Replans:
    """Replans of one stage from one picture, with the same noise.

    Args:
        stage: With weights, attached, with shared noise levels; in float32, and left as it is.
        half: Type of the products of `published` (autocast), None for float32.
    """

    def __init__(self, stage: Any, half: torch.dtype | None) -> None:  # noqa: ANN401 - an action stage
        self.stage, self.half = stage.eval(), half

    def copy(self, precision: str, channels_last: bool = False, mode: str | None = None) -> Any:  # noqa: ANN401
        """The stage with its networks prepared; what inference leaves alone is the same object."""
        video = self.stage.video
        kept = {id(part): part for part in (video.autoencoder, video.text_encoder)}
        stage = copy.deepcopy(self.stage, kept)
        prepare_for_inference(stage.network, precision, channels_last, mode)  # type: ignore[arg-type]
        return stage

    def published(self, name: str = "published", on: frozenset[str] = frozenset()) -> Contender:
        """The published order, with some shortcuts if so wanted, in float32 weights."""
        return Contender(name, lambda: self.run_of(on))

    def run_of(self, on: frozenset[str]) -> Run:
        """Replans in this order of work."""
        autocast = torch.autocast(self.stage.device.type, self.half) if self.half is not None else nullcontext()
        return lambda _: replan(self.stage, on, autocast)

    def size_of(self, stage: Any) -> int:  # noqa: ANN401
        """Bytes of the networks that a copy does not share."""
        return weight_bytes([stage.video.unet, stage.adapter, stage.action_unet])


def conditions(stage: Any) -> Conditioning:  # noqa: ANN401
    """Conditions from one fixed picture a camera."""
    data = stage.data
    size = (1, data.num_views, 3, data.image_size, data.image_size)
    pictures = torch.rand(size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    given: Conditioning = stage.video.condition(pictures.to(stage.device), ["lift the cube"], seeds=[0])
    return given


@torch.inference_mode()
def replan(stage: Any, on: frozenset[str], autocast: AbstractContextManager[Any]) -> Tensor:  # noqa: ANN401
    """One action chunk, with the film denoised beside it.

    Args:
        stage: An action stage with shared noise levels.
        on: Names in `EXACT`; with none of them, the published order of work.
        autocast: Around the networks' passes.
    """
    network, video, sampler = stage.network, stage.video, stage.sampler
    video.unet.attend_always("one_token" not in on)
    given = conditions(stage)
    cases = [given.with_unconditional()] if "both_halves" in on else [given, given.unconditional()]
    with autocast:
        constants = [video.constants(case) if "once_a_replan" in on else None for case in cases]
    film = seeded_noise(video.latent_shape(stage.data.image_size), [0], "video", stage.device)
    chunk = seeded_noise((stage.data.action_horizon, stage.data.action_dim), [0], "action", stage.device)

    def denoise(noisy: tuple[Tensor, ...], sigma: Tensor, emb: Tensor | None = None) -> tuple[Tensor, ...]:
        outputs = []
        for case, constant in zip(cases, constants, strict=True):
            repeats = len(case) // len(sigma)
            inputs = [torch.cat([x] * repeats) for x in (*noisy, sigma)]
            at = None if constant is None or emb is None else constant.at(emb)
            with autocast:
                outputs.append(network.denoise(*inputs, case, at))
        return tuple(guided(torch.cat(parts), sampler.guidance) for parts in zip(*outputs, strict=True))

    level = sampler.first_level(film)
    start = (
        video.preconditioning.pure_noise(film, level, given.anchor),
        network.action_preconditioning.pure_noise(chunk, level),
    )
    embed = {"embed": video.level_embedding} if "once_a_replan" in on else {}
    latents, actions = sampler.sample(denoise, start, **embed)
    if "no_decode" not in on:
        video.decode(latents)
    video.unet.attend_always(False)
    return actions


@torch.inference_mode()
def exact(stage: Any) -> Tensor:  # noqa: ANN401
    """What a rollout of a shared-level policy runs."""
    actions: Tensor = stage.sample_jointly(conditions(stage), [0])[0]
    return actions


@torch.inference_mode()
def one_pass(stage: Any) -> Tensor:  # noqa: ANN401
    """What a rollout of an independent-level policy runs."""
    shared = stage.sampler
    stage.sampler = Sampler(shared.num_steps, sigma_max=20.0, sigma_min=0.02, guidance=1.0)
    try:
        actions: Tensor = stage.sample_independently(conditions(stage), [0])
    finally:
        stage.sampler = shared
    return actions
