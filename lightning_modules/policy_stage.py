"""What the stages that act have in common: video network, adapter and action network, built for the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules import Batch, Preprocessing
from lightning_modules.stage import Stage
from networks import (
    ActionUNet,
    CNNAdapter,
    Conditioning,
    LogNormalNoise,
    NetworkError,
    PolicyModel,
    Sampler,
    TapShape,
    VideoModel,
    config_of,
    seeded_noise,
)
from networks.conditioning import DropoutScope

NETWORK_KEYS = ("video", "adapter", "action_unet", "taps")  # of `policy_config`: what weights depend on
AdapterFactory = Callable[[Sequence[TapShape], int, int, int], CNNAdapter]
ActionUNetFactory = Callable[[int, int, int, int], ActionUNet]


class PolicyStage(Stage):
    """Base of `ActionStage` and `JointStage`: what a rollout needs, whichever way it was trained.

    Args:
        video: The video model.
        adapter: Makes the adapter from tap shapes, views, frames and embedding size.
        action_unet: Makes the action U-Net from action size, horizon, conditioning size and embedding size.
        taps: Feature taps to read, by position over the U-Net's input and output blocks.
        optimizer: Called with the parameter groups of the stage.
        lr_scheduler: Called with the optimizer.
        lr_scales: Factors on the optimizer's rate for the adapter and for the action U-Net.
        noise: Distribution of the noise level in training.
        condition_dropout: See `Stage`.
        dropout_scope: See `Stage`.
        mask_padding: Leave padded action steps out of the loss.
        sampler: How actions, and with shared levels videos, are sampled.
    """

    def __init__(
        self,
        video: VideoModel,
        adapter: AdapterFactory,
        action_unet: ActionUNetFactory,
        taps: Sequence[int],
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        lr_scales: tuple[float, float],
        noise: LogNormalNoise | None,
        condition_dropout: float,
        dropout_scope: DropoutScope,
        mask_padding: bool,
        sampler: Sampler | None,
    ) -> None:
        super().__init__(video, optimizer, lr_scheduler, noise, condition_dropout, dropout_scope, sampler)
        self.taps = tuple(taps)
        self.lr_scales = lr_scales
        self.mask_padding = mask_padding
        self._factories = (adapter, action_unet)
        self._network: tuple[PolicyModel, ...] = ()  # in a tuple, or every weight would be registered twice

    def attach(self, preprocessing: Preprocessing) -> None:
        """Build adapter and action U-Net for the data's cameras, frames, image size and actions."""
        super().attach(preprocessing)
        if self._network:
            return
        shapes, emb_dim = self.tap_shapes(), self.video.unet.emb_dim
        make_adapter, make_action_unet = self._factories
        adapter = make_adapter(shapes, preprocessing.num_views, preprocessing.num_frames, emb_dim)
        action_unet = make_action_unet(
            preprocessing.action_dim, preprocessing.action_horizon, adapter.cond_dim, emb_dim
        )
        self.adapter, self.action_unet = adapter, action_unet
        self._network = (PolicyModel(self.video, adapter, action_unet, self.taps),)

    def tap_shapes(self) -> list[TapShape]:
        """Channels and sizes of the features that are read, fine to coarse.

        Raises:
            NetworkError: The U-Net has no such tap.
        """
        available = self.video.unet.tap_shapes(self.video.latent_size(self.data.image_size))
        if unknown := sorted(set(self.taps) - set(available)):
            raise NetworkError(
                f"model.init_args.taps: no tap {unknown} in this U-Net; it has {sorted(available)}. Choose among these."
            )
        return [available[tap] for tap in sorted(self.taps, reverse=True)]

    @property
    def network(self) -> PolicyModel:
        """The joint network; only valid once attached."""
        assert self._network, "configure_model or attach comes first"
        return self._network[0]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Adapter and action U-Net, each with its own factor on the learning rate."""
        modules = (self.network.adapter, self.network.action_unet)
        return [
            {"params": list(module.parameters()), "lr_scale": scale}
            for module, scale in zip(modules, self.lr_scales, strict=True)
        ]

    # --- losses and errors ----------------------------------------------------------------------------------------

    def mean_action_loss(self, rows: Tensor, batch: Batch) -> Tensor:
        """Mean of the losses of action steps (B, A): of all, or with `mask_padding` of those that were recorded."""
        if not self.mask_padding:
            return rows.mean()
        real = (~batch.action_is_pad).float()
        return (rows * real).sum() / real.sum().clamp(min=1.0)

    def log_action_error(self, actions: Tensor, batch: Batch) -> None:
        """Log how far sampled actions are from the demos', in the demos' units: the mean over recorded steps.

        Args:
            actions: Sampled and still normalised (B, A, D).
            batch: What they were sampled for.
        """
        predicted, true = (self.data.denormalize_actions(value.float()) for value in (actions, batch.actions))
        real = (~batch.action_is_pad).float()
        total, counts = ((predicted - true).abs().mean(dim=-1) * real).sum(dim=0), real.sum(dim=0)
        for step, (error, count) in enumerate(zip(total / counts.clamp(min=1.0), counts.tolist(), strict=True)):
            self.log(f"val_action_error/step_{step:02d}", error, batch_size=int(count), sync_dist=True)
        mean = total.sum() / counts.sum().clamp(min=1.0)
        self.log("val/action_error", mean, batch_size=int(counts.sum()), sync_dist=True)

    # --- sampling -------------------------------------------------------------------------------------------------

    def sample(
        self, conditioning: Conditioning, seeds: Sequence[int], filmed: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Sample as a rollout does.

        Args:
            conditioning: Conditions of B samples.
            seeds: One a sample; an answer depends on nothing else.
            filmed: Positions of the N samples whose predicted video is looked at; the others' is not sampled, unless it
                has to be for their actions.

        Returns:
            Normalised action chunks (B, A, D), and video latents (N, F, c, h, w), None for N = 0.
        """
        actions, video = self.sample_jointly(conditioning, seeds)
        return actions, video[list(filmed)] if filmed else None

    @torch.no_grad()
    def sample_jointly(self, conditioning: Conditioning, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Denoise action chunk (B, A, D) and video latents (B, F, c, h, w) together (the paper)."""
        action_shape = (self.data.action_horizon, self.data.action_dim)
        video_noise = seeded_noise(self.video.latent_shape(self.data.image_size), seeds, "video", self.device)
        action_noise = seeded_noise(action_shape, seeds, "action", self.device)
        video, action = self.network.sample(conditioning, video_noise, action_noise, self.sampler, seeds)
        return action, video

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add how to build the policy without the experiment file."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["policy"] = self.policy_config()

    def network_config(self) -> dict[str, Any]:
        """The policy's networks, and where they are joined."""
        return {key: value for key, value in self.policy_config().items() if key in NETWORK_KEYS}

    def policy_config(self) -> dict[str, Any]:
        """Plain description of the networks and of sampling, read by `load_policy`."""
        parts = {
            "video": self.video,
            "adapter": self.network.adapter,
            "action_unet": self.network.action_unet,
            "sampler": self.sampler,
        }
        return {name: config_of(part) for name, part in parts.items()} | {"taps": list(self.taps)}
