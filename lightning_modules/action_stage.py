"""Stage 2: the video network is frozen; a small action head learns to read its features."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from lightning_modules.policy_stage import PolicyStage
from lightning_modules.stage import adam_1e5
from networks import VideoModel
from policies import VideoPolicy


class ActionStage(PolicyStage):
    """Train the adapter and the action U-Net of a `VideoPolicy` on features of the frozen video U-Net.

    Args:
        video: The video model; its weights come from the handoff.
        optimizer: Called with the parameters of adapter and action U-Net.
        lr_scheduler: Called with the optimizer, stepped after every optimizer step.
        num_predicted: Windows whose actions are sampled in a validation epoch, rounded up to equally many a rank.
        **policy: Further arguments of `VideoPolicy`.
    """

    policy: VideoPolicy

    def __init__(
        self,
        video: VideoModel,
        optimizer: OptimizerCallable = adam_1e5,
        lr_scheduler: LRSchedulerCallable | None = None,
        num_predicted: int = 32,
        **policy: Any,  # noqa: ANN401 - the constructor of VideoPolicy has their types
    ) -> None:
        super().__init__(VideoPolicy(video, **policy), optimizer, lr_scheduler, num_predicted)
        video.freeze()

    @property
    def video(self) -> VideoModel:  # type: ignore[override]
        """The policy's video model."""
        return self.policy.video
