"""A training step in the published order of work, in ours, and with any of our shortcuts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.parts.alternation import Contender, Run
from benchmarks.parts.random_stage import cached
from datamodules import Batch
from networks import VideoModel
from networks.inference import compiled, to_channels_last
from videopolicy.profiling.stage_cost import acts

EXACT = {
    "one_token": "cross-attention to one token without queries, keys and softmax",
    "no_graph": "no autograd graph over the frozen U-Net",
    "last_tap": "the frozen U-Net stops after the last tap",
    "fused_adam": "Adam as one fused kernel",
}
CACHE = {"latent_cache": "latents and text from a cache"}
FEATURES = {"feature_cache": "independent levels: features from a cache"}
BY_DEVICE = {
    "bf16": "products in bfloat16",
    "channels_last": "channels innermost in the U-Net",
    "no_checkpointing": "activations kept rather than computed again",
    "compile": "torch.compile of the U-Net",
}
INDEPENDENT = "independent"  # not a shortcut: independent noise levels, which a cache of features needs
WALKED = "walked"  # not a shortcut: the published order, with gradients for the frozen weights too
MEANING = EXACT | CACHE | FEATURES | BY_DEVICE
OF_ACTION_STAGE = {"no_graph", "last_tap", "feature_cache"}


class Steps:
    """Optimisation steps of one stage, in any order of work, from the same weights and the same noise.

    Args:
        stage: With weights, attached.
        batch: With pictures, on the stage's device.
        half: Whether every step is in bfloat16 (autocast), or only those with the shortcut of that name.
    """

    def __init__(self, stage: Any, batch: Batch, half: bool = False) -> None:  # noqa: ANN401 - either stage
        self.stage, self.half = stage.train(), half
        # This noise is drawn when a cache is filled. Without it, steps with and without a cache draw the same numbers.
        stage.video.condition_noise = 0.0
        self.batch = batch
        self.latents = cached(stage, batch) if self.has_latents else None
        self.features: list[Tensor] = []
        self.start = {name: p.detach().cpu().clone() for name, p in self.trained()}
        self.checkpointing = stage.video.unet.gradient_checkpointing
        self.plain = {name: getattr(stage.video.unet, name) for name in ("forward", "features")}
        self.fast: dict[str, Callable[..., Any]] = {}
        self.graph: list[Tensor] = []

    @property
    def has_latents(self) -> bool:
        """Whether there is anything to cache."""
        return hasattr(self.stage.video.autoencoder, "vae")

    def exact(self) -> frozenset[str]:
        """Shortcuts that give the same numbers within rounding and need nothing prepared."""
        return frozenset(name for name in EXACT if acts(self.stage) or name not in OF_ACTION_STAGE)

    def trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        """What the optimizer gets."""
        given = {id(p) for group in self.stage.parameter_groups() for p in group["params"]}
        return [(name, p) for name, p in self.stage.named_parameters() if id(p) in given]

    def contender(self, name: str, on: frozenset[str]) -> Contender:
        """The step with these shortcuts."""
        return Contender(name, lambda: self.prepare(on))

    def prepare(self, on: frozenset[str]) -> Run:
        """Go back to the first weights; a run is then one optimisation step and gives its loss."""
        stage, unet = self.stage, self.stage.video.unet
        stage.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, parameter in self.trained():
                parameter.copy_(self.start[name])
        if acts(stage):
            unet.requires_grad_("no_graph" not in on)
        unet.gradient_checkpointing = self.checkpointing and "no_checkpointing" not in on
        if "channels_last" in on:
            to_channels_last(unet)
        else:
            for parameter in unet.parameters():
                parameter.data = parameter.data.contiguous()
        optimizer = stage.configure_optimizers()
        optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
        for group in optimizer.param_groups:
            if "fused" in group and "fused_adam" in on:
                group["fused"] = True  # otherwise torch chooses, on a GPU a loop over lists of tensors
        batch = self.latents if "latent_cache" in on or "feature_cache" in on else self.batch

        def step(number: int) -> float:
            torch.manual_seed(1000 + number)
            stage.zero_grad(set_to_none=True)
            with self.order(on):
                batch.features = self.features_of_batch() if "feature_cache" in on else None
                with self.autocast(on):
                    loss = stage.training_step(batch, number)
                loss.backward()
                self.graph.clear()
            optimizer.step()
            return float(loss.detach())

        return step

    def autocast(self, on: frozenset[str]) -> AbstractContextManager[Any]:
        """Half precision, where it is asked for."""
        half = self.half or "bf16" in on
        return torch.autocast(self.stage.device.type, torch.bfloat16) if half else nullcontext()

    @contextmanager
    def order(self, on: frozenset[str]) -> Iterator[None]:
        """Inside, the stage works in the order that these shortcuts leave."""
        stage, unet = self.stage, self.stage.video.unet
        unet.attend_always("one_token" not in on)
        if "compile" in on:
            for name, plain in self.plain.items():
                self.fast[name] = self.fast.get(name) or compiled(plain, "default")
                setattr(unet, name, self.fast[name])
        if acts(stage):
            stage.video.features = lambda *args: self.video_features(on, *args)
        if "feature_cache" in on or INDEPENDENT in on:
            stage.noise_levels, dropout, stage.condition_dropout = "independent", stage.condition_dropout, 0.0
        try:
            yield
        finally:
            unet.attend_always(False)
            for name in self.plain if "compile" in on else ():
                delattr(unet, name)
            if acts(stage):
                del stage.video.features
            if "feature_cache" in on or INDEPENDENT in on:
                stage.noise_levels, stage.condition_dropout = "shared", dropout

    def video_features(self, on: frozenset[str], *args: Any) -> tuple[list[Tensor], Tensor]:  # noqa: ANN401
        """What `VideoModel.features` returns, by way of a graph and of the whole network where that is the order."""
        video, keeps_graph = self.stage.video, "no_graph" not in on
        with torch.set_grad_enabled(keeps_graph):
            if "last_tap" in on:
                features, emb = VideoModel.features(video, *args)
            else:
                _, features, emb = video.denoise_with_features(*args)
        if not keeps_graph or WALKED in on:
            return features, emb
        self.graph += features  # alive until the backward pass is over, which does not enter it
        return [feature.detach() for feature in features], emb.detach()

    def features_of_batch(self) -> list[Tensor]:
        """Features as `FeatureCache` keeps them: float16 in the machine's memory."""
        if not self.features:
            conditioning = self.stage.conditioning(self.latents)
            self.features = [feature.half().cpu() for feature in self.stage.imagine(conditioning)[0]]
        return self.features
