"""What some runs need: handoff, rollouts, videos, caches, averaging."""

from callbacks.compiled_networks import CompiledNetworks
from callbacks.feature_cache import FeatureCache
from callbacks.handoff import CheckpointHandoff
from callbacks.predicted_videos import PredictedVideos
from callbacks.rollout import SimulationRollout
from callbacks.weight_averaging import TrainableWeightAveraging

__all__ = [
    "CheckpointHandoff",
    "CompiledNetworks",
    "FeatureCache",
    "PredictedVideos",
    "SimulationRollout",
    "TrainableWeightAveraging",
]
