"""Networks and diffusion maths: plain PyTorch modules, without Lightning."""

from networks.action_unet import ActionUNet
from networks.adapter import AdapterStage, CNNAdapter
from networks.autoencoders import Autoencoder, ConditionEncoder, PixelShuffleAutoencoder, SVDAutoencoder
from networks.checkpoints.file import read_checkpoint
from networks.component_config import build, config_of, describe
from networks.conditioning import Conditioning
from networks.edm import (
    EDMPreconditioning,
    PooledResidualPreconditioning,
    Preconditioning,
    ResidualPreconditioning,
    c_noise,
    mean_over_rows,
)
from networks.feature_standardizer import FeatureStandardizer
from networks.joint_denoiser import JointDenoiser
from networks.keypoint_encoder import KeypointEncoder, SpatialSoftmax
from networks.lora import LoRA
from networks.noise import LogNormalNoise, ReadLevelNoise, seeded_noise
from networks.noise_schedule import NoiseSchedule, StepEmbedding
from networks.sampling import SCHEDULERS, Sampler, guided
from networks.text import OpenCLIPTextEncoder, SeededTextEncoder, TextEncoder
from networks.video_model import VideoModel
from networks.video_network import TapShape, VideoNetwork, VideoNetworkOutput
from networks.video_transformer import VideoTransformer
from networks.video_unet import VideoUNet

__all__ = [
    "SCHEDULERS",
    "ActionUNet",
    "AdapterStage",
    "Autoencoder",
    "CNNAdapter",
    "ConditionEncoder",
    "Conditioning",
    "EDMPreconditioning",
    "FeatureStandardizer",
    "JointDenoiser",
    "KeypointEncoder",
    "LoRA",
    "LogNormalNoise",
    "NoiseSchedule",
    "OpenCLIPTextEncoder",
    "PixelShuffleAutoencoder",
    "PooledResidualPreconditioning",
    "Preconditioning",
    "ReadLevelNoise",
    "ResidualPreconditioning",
    "SVDAutoencoder",
    "Sampler",
    "SeededTextEncoder",
    "SpatialSoftmax",
    "StepEmbedding",
    "TapShape",
    "TextEncoder",
    "VideoModel",
    "VideoNetwork",
    "VideoNetworkOutput",
    "VideoTransformer",
    "VideoUNet",
    "build",
    "c_noise",
    "config_of",
    "describe",
    "guided",
    "mean_over_rows",
    "read_checkpoint",
    "seeded_noise",
]
