"""The stages as LightningModules, and the policy that a rollout calls."""

from lightning_modules.action_stage import ActionStage, Features
from lightning_modules.differences import differing_keys, plain_network
from lightning_modules.joint_stage import JointStage
from lightning_modules.lean_adam import adam_8bit
from lightning_modules.policy import VideoPolicy, load_policy
from lightning_modules.policy_stage import PolicyStage
from lightning_modules.schedules import TrapezoidalLR
from lightning_modules.sharding import ShardedStrategy
from lightning_modules.stage import Stage
from lightning_modules.video_stage import VideoStage

__all__ = [
    "ActionStage",
    "Features",
    "JointStage",
    "PolicyStage",
    "ShardedStrategy",
    "Stage",
    "TrapezoidalLR",
    "VideoPolicy",
    "VideoStage",
    "adam_8bit",
    "differing_keys",
    "load_policy",
    "plain_network",
]
