"""What is trained, kept in a checkpoint and rolled out: a policy, with or without a video model."""

from policies.checkpoint import build_policy, current_description, load_policy, load_video_model
from policies.diffusion_policy import DiffusionPolicy
from policies.feature_levels import (
    FORMER_ARGUMENTS,
    FeatureLevels,
    FixedLevel,
    ObservationFeatures,
    RandomLevel,
    SharedLevels,
)
from policies.joint_policy import JointPolicy
from policies.policy import Policy
from policies.video_policy import Features, VideoPolicy

__all__ = [
    "FORMER_ARGUMENTS",
    "DiffusionPolicy",
    "FeatureLevels",
    "Features",
    "FixedLevel",
    "JointPolicy",
    "ObservationFeatures",
    "Policy",
    "RandomLevel",
    "SharedLevels",
    "VideoPolicy",
    "build_policy",
    "current_description",
    "load_policy",
    "load_video_model",
]
