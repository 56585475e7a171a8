"""What the latents and embeddings of a cache depend on in the networks."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn


def latent_key(autoencoder: nn.Module, text_encoder: nn.Module, condition_noise: float) -> dict[str, Any]:
    """Class and weights of autoencoder and text tower, and the noise on conditioning images, as JSON values."""
    return {
        "autoencoder": fingerprint(autoencoder),
        "text_encoder": fingerprint(text_encoder),
        "condition_noise": condition_noise,
    }


def fingerprint(module: nn.Module) -> str:
    """Class name and SHA-256 over names, types and bytes of parameters and buffers, wherever they live."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict(keep_vars=False).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return f"{type(module).__name__} {digest.hexdigest()}"
