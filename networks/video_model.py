"""The video generator: autoencoder, text tower, conditioning, denoiser. Stage 1 trains it, stage 2 freezes it."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from files.errors import UserError
from networks.autoencoders import Autoencoder
from networks.component_config import config_of, describe
from networks.conditioning import Conditioning
from networks.edm import EDMPreconditioning, Preconditioning, ResidualPreconditioning, c_noise
from networks.noise import seeded_noise
from networks.sampling import Sampler, guided
from networks.text import TextEncoder
from networks.video_network import VideoNetwork


class VideoModel(nn.Module):
    """Generates videos of the task from the first observation and the instruction.

    A sample is F = 1 + V * T video rows: the first frame of the first camera once more, then the T frames of each of
    the V cameras. Every row is conditioned on its own camera's current frame. Only the U-Net is trained.

    Args:
        unet: Denoising network; reads noisy and condition latents on channels.
        autoencoder: Between images and latents; frozen.
        text_encoder: Embeds instructions; frozen.
        num_views: Cameras V.
        num_frames: Frames T of each camera, the current one included.
        preconditioning: Scalings around the network; None is the published EDM.
        fps_id: First id of Stable Video Diffusion: its frame rate less one.
        motion_bucket: Second id: the amount of motion.
        condition_noise: Standard deviation of the Gaussian noise on conditioning images, and the third id.

    Raises:
        UserError: The parts do not fit one another.
    """

    def __init__(
        self,
        unet: VideoNetwork,
        autoencoder: Autoencoder,
        text_encoder: TextEncoder,
        num_views: int,
        num_frames: int,
        preconditioning: Preconditioning | None = None,
        fps_id: int = 6,
        motion_bucket: int = 100,
        condition_noise: float = 0.02,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.text_encoder = text_encoder.requires_grad_(False).eval()
        self.preconditioning = preconditioning or EDMPreconditioning()
        self.num_views = num_views
        self.num_frames = num_frames
        self.fps_id = fps_id
        self.motion_bucket = motion_bucket
        self.condition_noise = condition_noise
        self.is_frozen = False
        self._require_fit()

    @property
    def num_rows(self) -> int:
        """F, the video rows of one sample."""
        return 1 + self.num_views * self.num_frames

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments, parts included: enough to build the model again."""
        parts = ("unet", "autoencoder", "text_encoder", "preconditioning")
        values = ("num_views", "num_frames", "fps_id", "motion_bucket", "condition_noise")
        described = {name: config_of(getattr(self, name)) for name in parts}
        return describe(self, described | {name: getattr(self, name) for name in values})

    def latent_size(self, image_size: int | tuple[int, int]) -> tuple[int, int]:
        """Height and width of the latents of images of this height and width."""
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        size: tuple[int, int] = self.autoencoder.latent_size(height, width)
        return size

    def latent_shape(self, image_size: int | tuple[int, int]) -> tuple[int, int, int, int]:
        """Shape (F, c, h, w) of the latents of one sample, for drawing noise."""
        return (self.num_rows, self.autoencoder.latent_channels, *self.latent_size(image_size))

    def rows(self, frames: Tensor) -> Tensor:
        """Video rows (B, F, ...) of the frames of all cameras (B, V, T, ...)."""
        return torch.cat([frames[:, 0, :1], frames.flatten(1, 2)], dim=1)

    def views(self, rows: Tensor) -> Tensor:
        """Frames (B, V, T, ...) in video rows (B, F, ...); row 0 is left out."""
        return rows[:, 1:].reshape(len(rows), self.num_views, self.num_frames, *rows.shape[2:])

    @torch.no_grad()
    def encode(self, frames: Tensor, sample: bool = True, seeds: Sequence[int] | None = None) -> Tensor:
        """Latents (B, F, c, h, w) of frames (B, V, T, 3, H, W) in [-1, 1].

        Args:
            frames: Frames of all cameras.
            sample: Draw from the autoencoder's posterior (training targets) rather than take its mode.
            seeds: One a sample for that draw; None draws from torch's global stream.
        """
        self._require_layout("frames", frames, (self.num_views, self.num_frames))
        rows = self.rows(frames)
        noise = self._posterior_noise(self.latent_size((rows.shape[-2], rows.shape[-1])), seeds, rows.device)
        return _unflat(self.autoencoder.encode(rows.flatten(0, 1), sample, noise), rows)

    @torch.no_grad()
    def latents_from_moments(self, moments: Tensor, sample: bool = True, seeds: Sequence[int] | None = None) -> Tensor:
        """What `encode` makes of frames whose posteriors (B, V, T, 2c, h, w) are known (`Autoencoder.moments`)."""
        rows = self.rows(moments)
        noise = self._posterior_noise((rows.shape[-2], rows.shape[-1]), seeds, rows.device)
        return _unflat(self.autoencoder.from_moments(rows.flatten(0, 1), sample, noise), rows)

    def _posterior_noise(
        self, size: tuple[int, int], seeds: Sequence[int] | None, device: torch.device
    ) -> Tensor | None:
        """Noise (B * F, c, h, w) of a draw from the posterior, where seeds name it and there is a posterior."""
        if seeds is None or not self.autoencoder.has_posterior:
            return None
        shape = (self.num_rows, self.autoencoder.latent_channels, *size)
        return seeded_noise(shape, seeds, "posterior", device).flatten(0, 1)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Frames (B, V, T, 3, H, W), not clipped, of latents (B, F, c, h, w)."""
        images = self.autoencoder.decode(latents.flatten(0, 1), num_frames=self.num_rows)
        return self.views(_unflat(images, latents))

    @torch.no_grad()
    def condition(
        self,
        current: Tensor,
        instructions: Sequence[str],
        seeds: Sequence[int] | None = None,
    ) -> Conditioning:
        """Conditions from the current observation and the instruction.

        Args:
            current: Current frame of each camera (B, V, 3, H, W) in [-1, 1].
            instructions: One a sample.
            seeds: One a sample for the noise on the conditioning images; None draws from torch's global stream.
        """
        self._require_layout("current frames", current, (self.num_views,))
        images = torch.cat([current[:, :1], current], dim=1)  # row 0 has a noise draw of its own
        if self.condition_noise:
            images = images + self.condition_noise * _condition_noise(images, seeds)
        return self.condition_from_images(images, instructions)

    @torch.no_grad()
    def condition_from_images(self, images: Tensor, instructions: Sequence[str]) -> Conditioning:
        """Conditions from images (B, 1 + V, 3, H, W) that already carry their noise: row 0's, then each camera's."""
        latents = _unflat(self.autoencoder.encode_condition(images.flatten(0, 1)), images)
        return self.condition_from_latents(latents, self.text_encoder(instructions))

    def condition_from_latents(self, latents: Tensor, text: Tensor) -> Conditioning:
        """Conditions from condition latents (B, 1 + V, c, h, w), row 0's and each camera's, and embeddings (B, D)."""
        sources = [0] + [1 + view for view in range(self.num_views) for _ in range(self.num_frames)]
        latents = latents[:, sources]
        context = text[:, None, None].expand(-1, self.num_rows, -1, -1)
        return Conditioning(latents, context, latents)

    def denoise(self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Clean latents (B, F, c, h, w) of noisy ones at levels sigma (B,)."""
        return self.denoise_with_features(noisy, sigma, conditioning, ())[0]

    def loss(self, latents: Tensor, noise: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Weighted denoising error of every row, (B, F).

        Args:
            latents: True latents (B, F, c, h, w).
            noise: Unit noise of the same shape.
            sigma: Noise levels (B,).
            conditioning: Conditions of the samples.
        """
        noisy = latents + sigma.view(-1, 1, 1, 1, 1) * noise
        return self.preconditioning.row_losses(self.denoise(noisy, sigma, conditioning), latents, sigma)

    def denoise_with_features(
        self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning, taps: Sequence[int]
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """As `denoise`, with what `features` returns from the same pass."""
        output = self.unet(*self._unet_input(noisy, sigma, conditioning), taps=taps)
        clean = self.preconditioning.denoised(output.sample, noisy, sigma, conditioning.anchor)
        return clean, self._by_view(output.taps), output.emb

    def features(
        self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning, taps: Sequence[int]
    ) -> tuple[list[Tensor], Tensor]:
        """Features of the frames at some taps; the pass stops after the last of them.

        Returns:
            One (B, V, T, C, h, w) a tap, fine to coarse (later taps first, row 0 left out), and the embedding of the
            noise level (B, E).
        """
        found, emb = self.unet.features(*self._unet_input(noisy, sigma, conditioning), taps=taps)
        return self._by_view(found), emb

    def features_of_noise(
        self, conditioning: Conditioning, sigma: float | Tensor, noise: Tensor, taps: Sequence[int]
    ) -> tuple[list[Tensor], Tensor]:
        """Features of a first look at pure noise: no future frame is needed, so training and rollout do the same.

        Args:
            conditioning: Conditions of B samples.
            sigma: Noise level of the video, one for all or (B,).
            noise: Unit noise (B, F, c, h, w), or (F, c, h, w) for all samples.
            taps: As in `features`.
        """
        noise = noise.expand_as(conditioning.latents)
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=noise.device).expand(len(noise))
        noisy = self.preconditioning.pure_noise(noise, levels, conditioning.anchor)
        return self.features(noisy, levels, conditioning, taps)

    def level_embedding(self, sigma: Tensor) -> Tensor:
        """Embedding (B, E) of noise levels (B,), which the networks of the action share."""
        return self.unet.time_embedding(c_noise(sigma))

    @torch.no_grad()
    def predict_video(
        self,
        conditioning: Conditioning,
        sampler: Sampler,
        noise: Tensor,
        seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Sample the latents (B, F, c, h, w) of the video.

        Args:
            conditioning: Conditions of B samples.
            sampler: Noise levels, scheduler and guidance.
            noise: Unit noise (B, F, c, h, w).
            seeds: One a sample, which stochastic schedulers need.
        """
        use_guidance = sampler.guidance != 1.0
        both = conditioning.with_unconditional() if use_guidance else conditioning

        def denoise(noisy: tuple[Tensor, ...], sigma: Tensor) -> tuple[Tensor, ...]:
            if not use_guidance:
                return (self.denoise(noisy[0], sigma, both),)
            clean = self.denoise(noisy[0].repeat(2, 1, 1, 1, 1), sigma.repeat(2), both)
            return (guided(clean, sampler.guidance),)

        start = self.preconditioning.pure_noise(noise, sampler.first_level(noise), conditioning.anchor)
        return sampler.sample(denoise, (start,), seeds)[0]

    def freeze(self) -> Self:
        """Stop training for good: no gradients, and evaluation mode even after `train()`."""
        self.is_frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the U-Net; what is frozen stays in evaluation mode."""
        super().train(mode and not self.is_frozen)
        self.autoencoder.eval()
        self.text_encoder.eval()
        return self

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What an optimizer should get: the U-Net's, none once frozen."""
        return [parameter for parameter in self.unet.parameters() if parameter.requires_grad]

    def _unet_input(
        self, noisy: Tensor, sigma: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scaled = self.preconditioning.net_input(noisy, sigma, conditioning.anchor)
        x = torch.cat([scaled, conditioning.latents.to(scaled.dtype)], dim=2)
        return x, c_noise(sigma), conditioning.context, self._ids(x)

    def _ids(self, like: Tensor) -> Tensor:
        ids = torch.tensor([self.fps_id, self.motion_bucket, self.condition_noise], device=like.device)
        return ids.to(torch.promote_types(like.dtype, torch.float32)).expand(len(like), -1)

    def _by_view(self, taps: dict[int, Tensor]) -> list[Tensor]:
        return [self.views(taps[position]) for position in sorted(taps, reverse=True)]

    def _require_layout(self, what: str, images: Tensor, leading: tuple[int, ...]) -> None:
        if images.shape[1 : 1 + len(leading)] != leading:
            raise UserError(
                f"video model: {what} are {tuple(images.shape)}, but it has {self.num_views} views of "
                f"{self.num_frames} frames; set num_views and num_frames to those of the data."
            )

    def _require_fit(self) -> None:
        """Fail at set-up where a channel count or a size of two parts differs."""
        latents, unet = self.autoencoder.latent_channels, self.unet.config
        wanted = {
            "in_channels": (2 * latents, "twice the autoencoder's latent channels, noisy and condition latents"),
            "out_channels": (latents, "the autoencoder's latent channels"),
            "cross_attention_dim": (self.text_encoder.embed_dim, "the text encoder's embed_dim"),
        }
        for name, (value, reason) in wanted.items():
            if unet[name] != value:
                raise UserError(f"video model: unet.{name} is {unet[name]} but must be {value}: {reason}.")
        if self.num_views < 1 or self.num_frames < 1:
            raise UserError(
                f"video model: num_views {self.num_views}, num_frames {self.num_frames}; both must be at least 1."
            )
        if isinstance(self.preconditioning, ResidualPreconditioning) and not self.autoencoder.same_space:
            raise UserError(
                f"video model: ResidualPreconditioning needs an autoencoder whose condition latents lie in the space "
                f"of its latents, which {type(self.autoencoder).__name__}'s do not; use EDMPreconditioning."
            )


def _unflat(x: Tensor, like: Tensor) -> Tensor:
    """Give (B * F, ...) back the first two axes of `like`."""
    return x.reshape(*like.shape[:2], *x.shape[1:])


def _condition_noise(images: Tensor, seeds: Sequence[int] | None) -> Tensor:
    if seeds is None:
        return torch.randn_like(images)
    return seeded_noise(images.shape[1:], seeds, "condition", images.device).to(images.dtype)
