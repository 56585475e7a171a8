"""Autoencoders between camera images and the latents that are denoised."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution, Encoder
from torch import Tensor, nn

from files.errors import UserError
from networks.component_config import describe
from networks.pretrained_files import load_any_variant, model_folder


class Autoencoder(nn.Module, ABC):
    """What a video model needs of an autoencoder. Never trained here: its parameters take no gradient.

    Attributes:
        latent_channels: Channels of a latent.
        factor: Pixels per latent element along height and width.
        same_space: Whether `encode` and `encode_condition` agree on the latent of an image.
        has_posterior: Whether `encode` draws from a posterior.

    Shape:
        - images: (N, 3, H, W) in [-1, 1]; H and W multiples of `factor`
        - latents: (N, c, H / factor, W / factor)
    """

    latent_channels: int
    factor: int
    same_space: bool
    has_posterior: bool

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""

    @abstractmethod
    def encode(self, images: Tensor, sample: bool = True, noise: Tensor | None = None) -> Tensor:
        """Latents of images, scaled to about unit variance: targets of the denoiser.

        Args:
            images: Images to encode.
            sample: Draw from the posterior, if there is one, rather than take its mode.
            noise: Unit noise of the latents' shape to draw with; None draws it from torch's global stream.
        """

    def moments(self, images: Tensor) -> Tensor:
        """Mean and log-variance (N, 2c, h, w) of the posterior, not scaled: all that a cache must keep of an image.

        Raises:
            UserError: This autoencoder has no posterior.
        """
        raise UserError(
            f"{type(self).__name__} has no posterior: its latents are as large as the pictures and instant, so there "
            "is nothing to cache; use it without a latent cache."
        )

    def from_moments(self, moments: Tensor, sample: bool = True, noise: Tensor | None = None) -> Tensor:
        """What `encode` makes of `moments`: a draw from the posterior or its mode, scaled."""
        raise UserError(f"{type(self).__name__} has no posterior, so no latents can be drawn from a latent cache.")

    @abstractmethod
    def encode_condition(self, images: Tensor) -> Tensor:
        """Latents of the current observation, which are concatenated to the noisy ones."""

    @abstractmethod
    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """Images of latents, not clipped; N is a multiple of `num_frames`, the rows of one sample."""

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the latents of an image.

        Raises:
            UserError: The image does not divide by `factor`.
        """
        if height % self.factor or width % self.factor:
            raise UserError(
                f"autoencoder: images are {height}x{width}, but height and width must be multiples of {self.factor}; "
                "change image_size."
            )
        return height // self.factor, width // self.factor


class PixelShuffleAutoencoder(Autoencoder):
    """Fold pixels into channels: lossless, instant and without weights. For small images.

    Args:
        factor: Side of the squares of pixels that become one latent element; 3 * factor² latent channels.
        mean: Subtracted from each colour channel (red, green, blue, of images in [-1, 1]).
        std: Divides each colour channel, so that latents have about unit variance.
    """

    same_space = True
    has_posterior = False
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        factor: int = 8,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        if factor < 1 or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise UserError(
                f"pixel-shuffle autoencoder: factor {factor}, mean {list(mean)}, std {list(std)}; "
                "factor must be 1 or more, mean and std have three numbers (red, green, blue), std positive."
            )
        self.factor = factor
        self.latent_channels = 3 * factor**2
        self._config = {"factor": factor, "mean": list(mean), "std": list(std)}
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, self._config)

    def encode(self, images: Tensor, sample: bool = True, noise: Tensor | None = None) -> Tensor:
        """Fold; there is no posterior to sample from."""
        self.latent_size(images.shape[-2], images.shape[-1])
        return F.pixel_unshuffle((images - self.mean) / self.std, self.factor)

    def encode_condition(self, images: Tensor) -> Tensor:
        """Fold, as `encode` does."""
        return self.encode(images)

    def decode(self, latents: Tensor, num_frames: int = 1) -> Tensor:
        """Unfold."""
        return F.pixel_shuffle(latents, self.factor) * self.std + self.mean


class SVDAutoencoder(Autoencoder):
    """Stable Video Diffusion's autoencoder: an image encoder and a decoder that smooths over time.

    Runs outside autocast, as in Stable Video Diffusion: half precision overflows in its decoder.

    Args:
        pretrained: Hub id or folder of a video pipeline (with `vae/`) or of the autoencoder itself; None is random.
        separate_condition_encoder: The conditioning frame has an encoder of its own, as in the published checkpoints.
            Otherwise the same one serves both.
        condition_pretrained: Hub id or folder of the image autoencoder (AutoencoderKL) whose encoder that is.
        block_out_channels: Width of each level; an image shrinks by two between levels.
        layers_per_block: Layers a level.
        latent_channels: Channels of a latent.
        scaling_factor: Latents are multiplied by this, conditions are not.
        max_images: Most images in one pass of an encoder, to bound memory.
    """

    same_space = False  # conditions are not multiplied by scaling_factor
    has_posterior = True

    def __init__(
        self,
        pretrained: str | None = None,
        separate_condition_encoder: bool = False,
        condition_pretrained: str | None = None,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        scaling_factor: float = 0.18215,
        max_images: int = 32,
    ) -> None:
        super().__init__()
        if condition_pretrained and not separate_condition_encoder:
            raise UserError(
                f"SVD autoencoder: condition_pretrained is {condition_pretrained!r} but separate_condition_encoder is "
                "false; set it to true, or leave condition_pretrained out."
            )
        self._config: dict[str, Any] = {
            "pretrained": pretrained,
            "separate_condition_encoder": separate_condition_encoder,
            "condition_pretrained": condition_pretrained,
            "block_out_channels": list(block_out_channels),
            "layers_per_block": layers_per_block,
            "latent_channels": latent_channels,
            "scaling_factor": scaling_factor,
            "max_images": max_images,
        }
        self.latent_channels = latent_channels
        self.factor = 2 ** (len(block_out_channels) - 1)
        self.scaling_factor = scaling_factor
        self.max_images = max_images
        shape = {
            "block_out_channels": tuple(block_out_channels),
            "layers_per_block": layers_per_block,
            "latent_channels": latent_channels,
        }
        down = {"down_block_types": ("DownEncoderBlock2D",) * len(block_out_channels)}
        if pretrained is None:
            self.vae = AutoencoderKLTemporalDecoder(**shape, **down)
        else:
            self.vae = _from_pretrained(AutoencoderKLTemporalDecoder, pretrained, shape)
        self.condition_encoder: ConditionEncoder | None = None
        if separate_condition_encoder:
            self.condition_encoder = ConditionEncoder(block_out_channels, layers_per_block, latent_channels)
        if self.condition_encoder is not None and condition_pretrained is not None:
            image_vae = _from_pretrained(AutoencoderKL, condition_pretrained, shape)
            self.condition_encoder.encoder.load_state_dict(image_vae.encoder.state_dict())
            self.condition_encoder.quant_conv.load_state_dict(image_vae.quant_conv.state_dict())
        self.requires_grad_(False).eval()

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, self._config)

    @torch.no_grad()
    def encode(self, images: Tensor, sample: bool = True, noise: Tensor | None = None) -> Tensor:
        """Draw from the posterior (or take its mode) and scale."""
        return self.from_moments(self.moments(images), sample, noise)

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """What the encoder says; the log-variance is not clamped yet."""
        self.latent_size(images.shape[-2], images.shape[-1])
        return self._in_chunks(lambda chunk: self.vae.quant_conv(self.vae.encoder(chunk)), images)

    @torch.no_grad()
    def from_moments(self, moments: Tensor, sample: bool = True, noise: Tensor | None = None) -> Tensor:
        """Draw (or take the mode) and scale."""
        posterior = DiagonalGaussianDistribution(moments)
        latents: Tensor = posterior.mode()
        if sample:
            latents = posterior.sample() if noise is None else latents + posterior.std * noise.to(latents)
        return (latents * self.scaling_factor).contiguous()  # randn_like draws in memory order

    @torch.no_grad()
    def encode_condition(self, images: Tensor) -> Tensor:
        """Mode of the condition encoder's posterior, not scaled."""
        self.latent_size(images.shape[-2], images.shape[-1])
        if self.condition_encoder is not None:
            moments = self._in_chunks(self.condition_encoder, images)
        else:
            moments = self._in_chunks(lambda chunk: self.vae.quant_conv(self.vae.encoder(chunk)), images)
        return DiagonalGaussianDistribution(moments).mode()  # type: ignore[no-any-return]

    @torch.no_grad()
    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """Decode with all `num_frames` rows of a sample in one temporal chunk, sample by sample to bound memory."""
        with torch.autocast(latents.device.type, enabled=False):
            samples = (latents.to(self.vae.dtype) / self.scaling_factor).split(num_frames)
            return torch.cat([self.vae.decode(sample, num_frames=num_frames).sample for sample in samples])

    def _in_chunks(self, encoder: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            chunks = images.to(self.vae.dtype).split(self.max_images)
            return torch.cat([encoder(chunk) for chunk in chunks])


class ConditionEncoder(nn.Module):
    """Encoder half of an image autoencoder.

    Args:
        block_out_channels: Width of each level.
        layers_per_block: Layers a level.
        latent_channels: Channels of a latent; the output holds mean and log-variance.
    """

    def __init__(self, block_out_channels: Sequence[int], layers_per_block: int, latent_channels: int) -> None:
        super().__init__()
        self.encoder = Encoder(
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * len(block_out_channels),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            double_z=True,
        )
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Mean and log-variance (N, 2c, h, w) of images (N, 3, H, W)."""
        moments: Tensor = self.quant_conv(self.encoder(images))
        return moments


def _from_pretrained(cls: Any, source: str, wanted: dict[str, Any]) -> Any:  # noqa: ANN401 - diffusers is untyped
    """Load an autoencoder from `source`, or from its folder `vae` where it is a whole pipeline."""
    errors = []
    source = model_folder(source, "autoencoder")
    for subfolder in ("vae", None):
        try:
            vae = load_any_variant(cls.from_pretrained, source, subfolder)
        except OSError as error:
            errors.append(error)
            continue
        found = {name: vae.config[name] for name in wanted}
        if {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()} != wanted:
            raise UserError(f"autoencoder: `{source}` has {found}, the arguments say {wanted}; make them equal.")
        return vae
    raise UserError(
        f"autoencoder: no {cls.__name__} could be loaded from `{source}`; give a folder that holds one, "
        "or a hub id (and a connection, or the model in the local cache)."
    ) from errors[0]
