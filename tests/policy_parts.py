"""A policy attached to data that is only described."""

from datamodules import ActionStatistics, Preprocessing
from policies import VideoPolicy


def attached(policy: VideoPolicy, image_size: int, action_dim: int, action_horizon: int) -> VideoPolicy:
    """The policy, its networks joined for the video model's own views and frames and actions in [-1, 1]."""
    statistics = ActionStatistics((-1.0,) * action_dim, (1.0,) * action_dim)
    cameras = tuple(f"camera_{view}" for view in range(policy.video.num_views))
    dims = tuple(range(action_dim))
    policy.attach(Preprocessing(cameras, image_size, policy.video.num_frames, 4, action_horizon, dims, statistics))
    return policy
