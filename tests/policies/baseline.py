"""A policy without a video model: what a baseline has to write."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules import Batch, Observations, Preprocessing
from networks import describe
from policies import Policy


class LinearPolicy(Policy):
    """Regress the action chunk on small pictures of the current frames.

    Args:
        side: Height and width to which the pictures are shrunk.
    """

    def __init__(self, side: int = 4) -> None:
        super().__init__()
        self.side = side
        self.head: nn.Linear | None = None

    def attach(self, preprocessing: Preprocessing) -> None:
        super().attach(preprocessing)
        if self.head is None:
            pixels = preprocessing.num_views * 3 * self.side**2
            self.head = nn.Linear(pixels, preprocessing.action_horizon * preprocessing.action_dim)

    @property
    def config(self) -> dict[str, Any]:
        return describe(self, {"side": self.side})

    def condition(self, observations: Observations, seeds: Sequence[int]) -> Tensor:
        small = functional.adaptive_avg_pool2d(observations.current.flatten(0, 1), self.side)
        return small.reshape(len(observations.current), -1)

    def sample(self, conditioning: Tensor, seeds: Sequence[int], pictured: Sequence[int] = ()) -> tuple[Tensor, None]:
        assert self.head is not None, "attach comes first"
        shape = (self.data.action_horizon, self.data.action_dim)
        return self.head(conditioning).unflatten(1, shape), None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        conditioning = self.condition(batch.observations, [])
        error = self.sample(conditioning, [])[0] - batch.actions
        return {"loss": error.square().mean(), "largest": torch.amax(error.abs())}
