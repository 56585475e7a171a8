"""The method in one stage: video network and action head learn together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules import Batch
from files.errors import UserError
from networks import Conditioning, VideoModel, seeded_noise
from policies.policy import mean_action_loss
from policies.video_inputs import draw_seeds, encoded
from policies.video_policy import VideoPolicy


class JointPolicy(VideoPolicy):
    """A `VideoPolicy` with shared levels whose video model is trained on the same loss (paper: .57 for .63).

    The actions' gradient flows through the features into the video U-Net. It is rolled out, and described in a
    checkpoint, as the `VideoPolicy` that it is.

    Args:
        video: The video model, which is trained.
        video_weight: Weight of the video rows' mean in the loss that is trained, the rest goes to the actions' mean.
            None weighs by rows as published: F to A, 25 to 32.
        val_sigmas: Noise levels of the validation losses.
        **policy: Further arguments of `VideoPolicy`, without those of an action head alone.

    Raises:
        UserError: A value is out of range.
    """

    def __init__(
        self,
        video: VideoModel,
        video_weight: float | None = None,
        val_sigmas: Sequence[float] = (0.1, 0.5, 2.0, 10.0, 100.0),
        **policy: Any,  # noqa: ANN401 - the constructor of VideoPolicy has their types
    ) -> None:
        super().__init__(video, features=None, action_weight=1.0, video_sampler=None, val_sigmas=val_sigmas, **policy)
        if video_weight is not None and not 0.0 <= video_weight < 1.0:
            raise UserError(
                f"model.init_args.video_weight is {video_weight}; it must be at least 0 and less than 1, or null "
                "for the published weights by rows."
            )
        self.video_weight = video_weight

    @property
    def config(self) -> dict[str, Any]:
        """That of the `VideoPolicy` which it is once it is trained."""
        arguments = super().config["init_args"]
        return {"class_path": f"{VideoPolicy.__module__}.{VideoPolicy.__qualname__}", "init_args": arguments}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The video U-Net at the optimizer's own rate, then adapter and action U-Net at theirs."""
        return [{"params": self.video.trainable_parameters(), "lr_scale": 1.0}, *super().parameter_groups()]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The balanced loss and its parts ``video_loss`` and ``action_loss``, all at one noise level a sample.

        In evaluation mode the means over `val_sigmas`, and the balance is the published one by rows.
        """
        latents, conditioning = encoded(self.video, batch, draw_seeds(batch, self.training))
        if self.training:
            sigma = self.noise.sample(len(batch), device=latents.device)
            conditioning = self.drop(conditioning)
            noise, action_noise = torch.randn_like(latents), torch.randn_like(batch.actions)
            parts = self.parts(batch, latents, noise, action_noise, sigma, conditioning)
            losses = torch.stack([self.balanced(*parts, self.video_weight), *(part.detach() for part in parts)])
        else:
            windows = batch.windows.tolist()
            noise = seeded_noise(latents.shape[1:], windows, "video", self.device)
            action_noise = seeded_noise(batch.actions.shape[1:], windows, "action", self.device)
            rows = []
            for level in self.val_sigmas:
                sigma = latents.new_full((len(batch),), level)
                parts = self.parts(batch, latents, noise, action_noise, sigma, conditioning)
                rows.append(torch.stack([self.balanced(*parts, None), *parts]))
            losses = torch.stack(rows).mean(dim=0)
        return dict(zip(("loss", "video_loss", "action_loss"), losses, strict=True))

    def parts(
        self,
        batch: Batch,
        latents: Tensor,
        noise: Tensor,
        action_noise: Tensor,
        sigma: Tensor,
        conditioning: Conditioning,
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of the video rows and of the action steps."""
        video, action = self.joint.loss(latents, batch.actions, noise, action_noise, sigma, conditioning)
        return video.mean(), mean_action_loss(action, batch, self.mask_padding)

    def balanced(self, video: Tensor, action: Tensor, video_weight: float | None) -> Tensor:
        """One loss of the two means; None weighs them by their numbers of rows."""
        num_rows = self.video.num_rows
        weight = num_rows / (num_rows + self.data.action_horizon) if video_weight is None else video_weight
        return weight * video + (1.0 - weight) * action
