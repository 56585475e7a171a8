"""What a learned policy is: a loss for a stage to lower, and action chunks for a rollout to execute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from datamodules import Batch, Observations, Preprocessing
from files.errors import UserError
from simulators import Observation, PolicyReply, PolicyRequest


class Policy(nn.Module, ABC):
    """Networks, the preprocessing they were made for, and how they are trained and sampled.

    A stage trains one by `loss`, a checkpoint holds its `config`, weights and preprocessing, and a rollout calls `act`;
    nothing else of a run is needed to act.

    Attributes:
        preprocessing: Cameras, picture size, window and action statistics; None until `attach`.
        loss_weight: Factor on the loss that is trained; what is logged stays without it.
        needs_future_frames: Whether training looks at frames after the current one; the datamodule reads none if not.
        sees_past: Whether it makes use of earlier observations and of proprioception.
    """

    loss_weight: float = 1.0
    needs_future_frames: bool = False
    sees_past: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing: Preprocessing | None = None

    # --- what a policy has to say ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments as plain data (`networks.describe`): enough to build the policy again."""

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of B windows: ``loss``, which is trained, and whatever else is worth logging.

        While training all draws come from torch's global stream, which the stage seeds for every batch. In evaluation
        mode they are named by the windows (`batch.windows`), so that the same checkpoint has the same loss every time.
        """

    @abstractmethod
    def condition(self, observations: Observations, seeds: Sequence[int]) -> Any:  # noqa: ANN401
        """What the networks make of B observations before anything is sampled.

        Args:
            observations: What is seen and said.
            seeds: One a sample, for whatever is drawn.
        """

    @abstractmethod
    def sample(
        self,
        conditioning: Any,  # noqa: ANN401 - whatever `condition` returned
        seeds: Sequence[int],
        pictured: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor | None]:
        """Sample action chunks, the same in validation and in a rollout.

        Args:
            conditioning: `condition` of B samples.
            seeds: One a sample; an answer depends on nothing else, and not on which samples share the batch.
            pictured: Positions of the N samples whose predicted video is looked at.

        Returns:
            Normalised action chunks (B, A, D), and predicted frames (N, V, T, 3, S, S) about [-1, 1]; None for N = 0 or
            where the policy predicts no video.
        """

    # --- what most policies leave as it is --------------------------------------------------------------------------

    def attach(self, preprocessing: Preprocessing) -> None:
        """Take over the data's preprocessing and build what depends on it; a second time changes nothing.

        Raises:
            UserError: The data has observations that the policy would not look at.
        """
        if not self.sees_past and (preprocessing.num_observations > 1 or preprocessing.proprio):
            raise UserError(
                f"data.init_args: num_observations is {preprocessing.num_observations} and proprio "
                f"{list(preprocessing.proprio)}, but a {type(self).__name__} sees the current pictures alone; leave "
                "both out, or train a DiffusionPolicy."
            )
        self.preprocessing = preprocessing

    def network_config(self) -> dict[str, Any]:
        """What the weights depend on in `config`, by argument: a run goes on only where it is the same."""
        arguments: dict[str, Any] = self.config["init_args"]
        return arguments

    def networks(self) -> list[nn.Module]:
        """The networks that are trained, compiled, sharded or rounded one by one."""
        return [self]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What an optimizer gets: groups with ``params`` and ``lr_scale``, a factor on the optimizer's own rate."""
        return [{"params": [weight for weight in self.parameters() if weight.requires_grad], "lr_scale": 1.0}]

    def sample_batch(self, batch: Batch, pictured: Sequence[int] = ()) -> tuple[Tensor, Tensor | None]:
        """`sample` for the windows of a batch, seeded by their numbers."""
        seeds = batch.windows.tolist()
        return self.sample(self.condition(batch.observations, seeds), seeds, pictured)

    # --- rollouts -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def act(self, requests: Sequence[PolicyRequest]) -> list[PolicyReply]:
        """Answer observations with action chunks, through the training's own preprocessing.

        Args:
            requests: Observations with a picture of every camera that the policy was trained on.

        Returns:
            Actions in the demos' units (A, D), and where wanted predicted frames uint8 (V, T, S, S, 3).
        """
        was_training = self.training
        self.eval()
        try:
            seeds = [request.seed for request in requests]
            pictured = [index for index, request in enumerate(requests) if request.want_prediction]
            seen = self._observed([request.observation for request in requests])
            actions, frames = self.sample(self.condition(seen, seeds), seeds, pictured)
        finally:
            self.train(was_training)
        raw = self.data.denormalize_actions(actions.float().clamp(-1.0, 1.0)).cpu().numpy()
        clips = {} if frames is None else dict(zip(pictured, self._clips(frames), strict=True))
        return [
            PolicyReply(actions=chunk.astype(np.float32), prediction=clips.get(index))
            for index, chunk in enumerate(raw)
        ]

    def _observed(self, observations: Sequence[Observation]) -> Observations:
        """What simulators report, as training has it; at the start of an episode the first stands for earlier ones."""
        wanted = self.num_observations
        rows = [[*observation.past, observation][-wanted:] for observation in observations]
        for row in rows:
            assert len(row) > min(wanted - 1, row[-1].step), f"{len(row)} observations at step {row[-1].step}"
        rows = [row[:1] * (wanted - len(row)) + row for row in rows]
        pictures = torch.stack([torch.stack([self.data.stack(seen.images) for seen in row], dim=1) for row in rows])
        proprio = torch.stack([torch.stack([self.data.join_proprio(seen.proprio) for seen in row]) for row in rows])
        words = [observation.instruction for observation in observations]
        return Observations(self.data.to_float(pictures.to(self.device)), words, proprio.to(self.device))

    def _clips(self, frames: Tensor) -> npt.NDArray[np.uint8]:
        clips: npt.NDArray[np.uint8] = self.data.to_uint8(frames.float()).movedim(-3, -1).cpu().numpy()
        return clips

    @property
    def data(self) -> Preprocessing:
        """The preprocessing; only valid once attached."""
        assert self.preprocessing is not None, "attach comes first"
        return self.preprocessing

    @property
    def num_observations(self) -> int:
        """How many of the last observations a rollout has to bring, a step apart."""
        return self.data.num_observations

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


def mean_action_loss(rows: Tensor, batch: Batch, mask_padding: bool) -> Tensor:
    """Mean of the losses of action steps (B, A): of all, or with `mask_padding` of those that were recorded."""
    if not mask_padding:
        return rows.mean()
    real = (~batch.action_is_pad).float()
    return (rows * real).sum() / real.sum().clamp(min=1.0)
