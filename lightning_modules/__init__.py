"""The two stages as LightningModules, and the policy that a rollout calls."""

from lightning_modules.action_stage import ActionStage, Features
from lightning_modules.differences import differing_keys
from lightning_modules.policy import VideoPolicy, load_policy
from lightning_modules.stage import Stage
from lightning_modules.video_stage import VideoStage

__all__ = [
    "ActionStage",
    "Features",
    "Stage",
    "VideoPolicy",
    "VideoStage",
    "differing_keys",
    "load_policy",
]
