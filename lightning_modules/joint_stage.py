"""Both stages at once: one run trains video network, adapter and action network together."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from datamodules import Batch
from files.errors import UserError
from lightning_modules.policy_stage import PolicyStage
from lightning_modules.stage import adam_1e5
from lightning_modules.video_scores import VideoScores
from networks import LoRA, VideoModel
from policies import JointPolicy


class JointStage(PolicyStage):
    """Train the video U-Net, the adapter and the action U-Net on one loss (the paper's joint training, .57 for .63).

    There is no handoff: a run of this stage is a whole experiment, and its checkpoint rolls out like an action stage's.

    Logs beside what every policy stage does ``train/video_loss`` and ``train/action_loss``, their like on validation
    and, from video and actions sampled together for the first windows, `VideoScores`. ``val/loss`` is the published
    mean over all rows, whatever `video_weight` is, and ``val/action_loss`` can be compared with an action stage's
    ``val/loss``.

    Args:
        video: The video model, which is trained.
        optimizer: Called with three groups: video U-Net, adapter, action U-Net.
        lr_scheduler: Called with the optimizer, stepped after every optimizer step.
        num_predicted: Windows whose video and actions are sampled in a validation epoch, rounded up to equally many a
            rank.
        preconditioning_windows: Windows measured before training where the preconditioning has statistics to fit.
        lora: Adapters to train in place of the video U-Net's own weights; checkpoints hold their sum.
        **policy: Further arguments of `JointPolicy`.
    """

    policy: JointPolicy

    def __init__(
        self,
        video: VideoModel,
        optimizer: OptimizerCallable = adam_1e5,
        lr_scheduler: LRSchedulerCallable | None = None,
        num_predicted: int = 4,
        preconditioning_windows: int = 512,
        lora: LoRA | None = None,
        **policy: Any,  # noqa: ANN401 - the constructor of JointPolicy has their types
    ) -> None:
        super().__init__(JointPolicy(video, **policy), optimizer, lr_scheduler, num_predicted)
        self.preconditioning_windows = preconditioning_windows
        self.scores = VideoScores(video.num_views)
        self.lora = lora

    @property
    def video(self) -> VideoModel:  # type: ignore[override]
        """The policy's video model."""
        return self.policy.video

    @property
    def predicted(self) -> tuple[Tensor, Tensor] | None:
        """The first true and sampled videos of this validation epoch, for `PredictedVideos` to show."""
        return self.scores.videos

    def configure_model(self) -> None:
        """As every stage; windows without actions are no use here.

        Raises:
            UserError: The data names ``video_only_tasks``.
        """
        super().configure_model()
        if tasks := getattr(getattr(self.trainer, "datamodule", None), "video_only_tasks", None):
            raise UserError(
                f"data.init_args.video_only_tasks is {tasks}, but the joint stage learns actions too; train the two "
                "stages (experiments/robocasa.yaml), or put these tasks into evaluation_only_tasks."
            )

    def on_fit_start(self) -> None:
        """Give the video's preconditioning its statistics."""
        self.fit_preconditioning(self.preconditioning_windows)

    def on_validation_epoch_start(self) -> None:
        """Forget the videos of the last epoch."""
        super().on_validation_epoch_start()
        self.scores.videos = None

    @torch.no_grad()
    def log_sampled(self, batch: Batch) -> None:
        """Log the sampled actions' errors and the scores of the videos sampled with them."""
        actions, frames = self.policy.sample_batch(batch, range(len(batch)))
        assert frames is not None, "levels are shared"
        self.log_action_error(actions, batch)
        self.scores.compare(self, batch.frames, frames.clamp(-1.0, 1.0), self.data.cameras)
