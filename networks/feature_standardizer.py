"""Zero mean and unit variance for tapped features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from files.errors import UserError

EPS = 1e-4


class FeatureStandardizer(nn.Module):
    """Shift and scale every channel of every tap with statistics measured once on data.

    Features of a U-Net that was trained for minutes differ by orders of magnitude between channels and taps; a small
    adapter learns faster on standardised ones. The statistics are buffers and travel in checkpoints.

    Args:
        channels: Channels of each tap, in the order of the feature list.

    Shape:
        - features: list of (B, V, T, C, h, w), one a tap
        - output: the same
    """

    is_fitted: Tensor

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.num_taps = len(channels)
        for index, width in enumerate(channels):
            self.register_buffer(f"mean_{index}", torch.zeros(width))
            self.register_buffer(f"std_{index}", torch.ones(width))
        self.register_buffer("is_fitted", torch.tensor(False))
        self._was_fitted = False  # what the buffer was found to say: reading it makes the host wait for a GPU

    @torch.no_grad()
    def fit(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Measure mean and standard deviation of every channel over batches of raw features.

        Raises:
            UserError: There was no batch.
        """
        count = [0] * self.num_taps
        total: list[Tensor] = []
        square: list[Tensor] = []
        for features in batches:
            for index, feature in enumerate(features):
                rows = feature.double().movedim(3, 0).flatten(1)  # (C, everything else)
                sums = (rows.sum(1), rows.square().sum(1))
                if len(total) <= index:
                    total.append(sums[0])
                    square.append(sums[1])
                else:
                    total[index] += sums[0]
                    square[index] += sums[1]
                count[index] += rows.shape[1]
        if not total:
            raise UserError("feature statistics: no data to measure; the training set has no windows.")
        for index in range(self.num_taps):
            mean = total[index] / count[index]
            variance = (square[index] / count[index] - mean.square()).clamp(min=0.0)
            self.get_buffer(f"mean_{index}").copy_(mean)
            self.get_buffer(f"std_{index}").copy_(variance.sqrt().clamp(min=EPS))
        self.is_fitted.fill_(True)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Standardise the features of each tap.

        Raises:
            UserError: Used before `fit` and before a checkpoint was loaded.
        """
        if not self._was_fitted and not self.is_fitted:
            raise UserError(
                "feature statistics: used before they were measured; add the FeatureCache callback to the action "
                "stage (it measures them), or set features.init_args.standardize: false."
            )
        self._was_fitted = True
        result = []
        for index, feature in enumerate(features):
            mean, std = self.get_buffer(f"mean_{index}"), self.get_buffer(f"std_{index}")
            result.append((feature - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
        return result

    def _load_from_state_dict(self, *args: Any) -> None:  # noqa: ANN401 - torch's seven
        super()._load_from_state_dict(*args)
        self._was_fitted = False  # the loaded statistics may be of a stage that measured none
