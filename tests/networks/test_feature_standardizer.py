"""Statistics that are measured once, and asked for once whether they were."""

import pytest
import torch
from torch import Tensor

from files.errors import UserError
from networks import FeatureStandardizer


def features() -> list[Tensor]:
    return [5 + 3 * torch.randn(4, 2, 1, 3, 2, 2), 0.1 * torch.randn(4, 2, 1, 2, 1, 1)]


def test_features_leave_with_zero_mean_and_unit_variance() -> None:
    batch = features()
    standardizer = FeatureStandardizer([3, 2])
    standardizer.fit([batch])
    for feature in standardizer(batch):
        rows = feature.movedim(3, 0).flatten(1)
        assert rows.mean(1).abs().max() < 1e-4
        assert (rows.std(1, correction=0) - 1).abs().max() < 1e-3


def test_use_before_measuring_is_refused_also_after_loading_what_was_never_measured() -> None:
    with pytest.raises(UserError, match="used before they were measured"):
        FeatureStandardizer([3, 2])(features())
    standardizer = FeatureStandardizer([3, 2])
    standardizer.fit([features()])
    standardizer(features())
    standardizer.load_state_dict(FeatureStandardizer([3, 2]).state_dict())
    with pytest.raises(UserError, match="used before they were measured"):
        standardizer(features())


def test_only_the_first_pass_reads_a_value_back_from_the_device() -> None:
    standardizer = FeatureStandardizer([3, 2])
    standardizer.fit([features()])
    standardizer(features())
    ignored = standardizer.to("meta")([feature.to("meta") for feature in features()])  # has no values to read
    assert all(feature.is_meta for feature in ignored)
