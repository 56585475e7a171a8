"""The stages as LightningModules: optimizers, logging, validation and checkpoints."""

from lightning_modules.action_stage import ActionStage
from lightning_modules.joint_stage import JointStage
from lightning_modules.lean_adam import adam_8bit
from lightning_modules.muon import MuonAdamW
from lightning_modules.policy_stage import PolicyStage
from lightning_modules.schedules import TrapezoidalLR, WarmUpCosineLR
from lightning_modules.sharding import ShardedStrategy
from lightning_modules.stage import Stage
from lightning_modules.video_stage import VideoStage

__all__ = [
    "ActionStage",
    "JointStage",
    "MuonAdamW",
    "PolicyStage",
    "ShardedStrategy",
    "Stage",
    "TrapezoidalLR",
    "VideoStage",
    "WarmUpCosineLR",
    "adam_8bit",
]
