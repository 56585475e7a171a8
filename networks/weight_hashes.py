"""What tells weights from others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names and bytes of tensors, wherever they live."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(_bytes(state[name]))
    return digest.hexdigest()


def fingerprint(module: nn.Module) -> str:
    """Class name and SHA-256 over names, types and bytes of parameters and buffers, wherever they live."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict(keep_vars=False).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(_bytes(tensor))
    return f"{type(module).__name__} {digest.hexdigest()}"


def latent_key(autoencoder: nn.Module, text_encoder: nn.Module, condition_noise: float) -> dict[str, Any]:
    """What latents and embeddings depend on in the networks, and the noise on conditioning images, as JSON values."""
    return {
        "autoencoder": fingerprint(autoencoder),
        "text_encoder": fingerprint(text_encoder),
        "condition_noise": condition_noise,
    }


def _bytes(tensor: Tensor) -> Any:  # noqa: ANN401 - a buffer of bytes
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
