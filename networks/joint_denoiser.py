"""The joint denoiser of the paper: video network, adapter on its features, action network."""

from collections.abc import Sequence

import torch
from torch import Tensor

from files.errors import UserError
from networks.action_unet import ActionUNet
from networks.adapter import CNNAdapter
from networks.conditioning import Conditioning
from networks.edm import EDMPreconditioning, Preconditioning
from networks.inference import as_weights
from networks.sampling import Sampler, guided
from networks.video_model import VideoModel


class JointDenoiser:
    """Denoises video and action chunk; the action network reads the video network's features.

    The noise level of the two is shared (the paper: `denoise`, `sample`), or the video's is fixed and its features are
    computed once (`VideoModel.features_of_noise`, then `denoise_action`, `sample_actions`). The networks belong to a
    policy; here is only what is computed with them.

    Args:
        video: The video model; if frozen, no gradient is computed through it.
        adapter: Turns tapped features into the condition of the action network.
        action_unet: Denoises action chunks.
        taps: Positions in the video U-Net whose features the adapter reads.
        action_preconditioning: Scalings around the action network; None is EDM for data of unit variance.
        channels: Of the features that the adapter is given, fine to coarse; None: those of the taps.

    Raises:
        UserError: The parts do not fit one another.
    """

    def __init__(
        self,
        video: VideoModel,
        adapter: CNNAdapter,
        action_unet: ActionUNet,
        taps: Sequence[int],
        action_preconditioning: EDMPreconditioning | None = None,
        channels: Sequence[int] | None = None,
    ) -> None:
        self.video = video
        self.adapter = adapter
        self.action_unet = action_unet
        self.taps = tuple(taps)
        self.action_preconditioning: Preconditioning = action_preconditioning or EDMPreconditioning()
        self._require_fit(channels)

    def denoise(
        self,
        noisy_video: Tensor,
        noisy_action: Tensor,
        sigma: Tensor,
        conditioning: Conditioning,
    ) -> tuple[Tensor, Tensor]:
        """Clean video and action chunk, both noised to one level.

        Args:
            noisy_video: (B, F, c, h, w).
            noisy_action: (B, A, D).
            sigma: Noise levels (B,).
            conditioning: Conditions of the samples.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.video.is_frozen):
            clean, features, emb = self.video.denoise_with_features(noisy_video, sigma, conditioning, self.taps)
        return clean, self._denoise_action(noisy_action, sigma, self.adapt(features, emb), emb)

    def denoise_action(
        self, noisy_action: Tensor, sigma: Tensor, features: Sequence[Tensor], video_emb: Tensor
    ) -> Tensor:
        """Clean action chunk (B, A, D), given features of the video at whatever level they were read.

        Args:
            noisy_action: (K * B, A, D), K noised chunks a video: the first of every video, then the second, and so on.
            sigma: Noise levels of the action (K * B,).
            features: One (B, V, T, C, h, w) a tap, fine to coarse; the adapter reads them once.
            video_emb: Embedding (B, E) of the noise level of the video.
        """
        cond = self.adapt(features, video_emb)
        return self._denoise_action(noisy_action, sigma, cond.repeat(len(noisy_action) // len(cond), 1))

    def adapt(self, features: Sequence[Tensor], video_emb: Tensor) -> Tensor:
        """Condition of the action network (B, cond_dim); the same at every step of sampling actions."""
        maps = [as_weights(feature, self.adapter) for feature in features]
        adapted: Tensor = self.adapter(maps, as_weights(video_emb, self.adapter))
        return adapted

    def action_loss_weight(self, sigma: Tensor) -> Tensor:
        """Weight (B,) of the squared error of actions at levels sigma (B,)."""
        return self.action_preconditioning.loss_weight(sigma, 1)

    def loss(
        self,
        latents: Tensor,
        actions: Tensor,
        video_noise: Tensor,
        action_noise: Tensor,
        sigma: Tensor,
        conditioning: Conditioning,
    ) -> tuple[Tensor, Tensor]:
        """Weighted denoising errors at a shared level: of every video row (B, F) and of every action step (B, A)."""
        noisy_video = latents + sigma.view(-1, 1, 1, 1, 1) * video_noise
        noisy_action = actions + sigma.view(-1, 1, 1) * action_noise
        video, action = self.denoise(noisy_video, noisy_action, sigma, conditioning)
        return (
            self.video.preconditioning.row_losses(video, latents, sigma),
            self.action_preconditioning.row_losses(action, actions, sigma),
        )

    @torch.no_grad()
    def sample(
        self,
        conditioning: Conditioning,
        video_noise: Tensor,
        action_noise: Tensor,
        sampler: Sampler,
        seeds: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sample video (B, F, c, h, w) and action chunk (B, A, D) together; guidance acts on both.

        Args:
            conditioning: Conditions of the samples.
            video_noise: Unit noise (B, F, c, h, w).
            action_noise: Unit noise (B, A, D).
            sampler: Noise levels, scheduler and guidance.
            seeds: One a sample, which stochastic schedulers need.
        """
        guidance = sampler.guidance
        both = conditioning if guidance == 1.0 else conditioning.with_unconditional()

        def denoise(noisy: tuple[Tensor, ...], sigma: Tensor) -> tuple[Tensor, ...]:
            video, action = noisy
            if guidance == 1.0:
                return self.denoise(video, action, sigma, both)
            doubled = (torch.cat([video] * 2), torch.cat([action] * 2), sigma.repeat(2))
            clean = self.denoise(*doubled, both)
            return tuple(guided(x, guidance) for x in clean)

        level = sampler.first_level(video_noise)
        start = (
            self.video.preconditioning.pure_noise(video_noise, level, conditioning.anchor),
            self.action_preconditioning.pure_noise(action_noise, level),
        )
        video, action = sampler.sample(denoise, start, seeds)
        return video, action

    @torch.no_grad()
    def sample_actions(
        self,
        features: Sequence[Tensor],
        video_emb: Tensor,
        action_noise: Tensor,
        sampler: Sampler,
        unconditional: Sequence[Tensor] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Sample action chunks (B, A, D) from features that were computed once.

        Args:
            features: One (B, V, T, C, h, w) a tap, fine to coarse.
            video_emb: Embedding (B, E) of the noise level of the video.
            action_noise: Unit noise (B, A, D).
            sampler: Noise levels, scheduler and guidance.
            unconditional: Features without observation and instruction, which guidance other than 1 needs.
            seeds: One a sample, which stochastic schedulers need.

        Raises:
            UserError: Guidance is asked for without unconditional features.
        """
        guidance = sampler.guidance
        if guidance != 1.0 and unconditional is None:
            raise UserError(
                f"sampler: guidance is {guidance}, but the actions are sampled from features with a fixed video noise "
                "level and no unconditional ones; set the sampler's guidance to 1."
            )
        cond = self.adapt(features, video_emb)
        if guidance != 1.0 and unconditional is not None:
            cond = torch.cat([cond, self.adapt(unconditional, video_emb)])

        def denoise(noisy: tuple[Tensor, ...], sigma: Tensor) -> tuple[Tensor, ...]:
            if guidance == 1.0:
                return (self._denoise_action(noisy[0], sigma, cond),)
            return (guided(self._denoise_action(torch.cat([noisy[0]] * 2), sigma.repeat(2), cond), guidance),)

        start = self.action_preconditioning.pure_noise(action_noise, sampler.first_level(action_noise))
        return sampler.sample(denoise, (start,), seeds)[0]

    def _denoise_action(self, noisy_action: Tensor, sigma: Tensor, cond: Tensor, emb: Tensor | None = None) -> Tensor:
        emb = self.video.level_embedding(sigma) if emb is None else emb
        net_input = self.action_preconditioning.net_input(noisy_action, sigma)
        output = self.action_unet(*(as_weights(x, self.action_unet) for x in (net_input, emb, cond)))
        return self.action_preconditioning.denoised(output, noisy_action, sigma)

    def _require_fit(self, channels: Sequence[int] | None) -> None:
        """Fail at set-up where a size of two parts differs."""
        unet, video, adapter = self.video.unet, self.video, self.adapter
        unet.require_taps(self.taps)
        shapes = unet.tap_shapes(1)  # only the channels are looked at
        pairs = {
            "adapter.num_views": (adapter.num_views, video.num_views, "video.num_views"),
            "adapter.num_frames": (adapter.num_frames, video.num_frames, "video.num_frames"),
            "channels of adapter.taps": (
                [tap.channels for tap in adapter.taps],
                list(channels or (shapes[tap].channels for tap in sorted(self.taps, reverse=True))),
                f"taps {sorted(self.taps, reverse=True)} of the video network",
            ),
            "action_unet.cond_dim": (self.action_unet.cond_dim, adapter.cond_dim, "adapter.cond_dim"),
        }
        for name, (found, wanted, source) in pairs.items():
            if found != wanted:
                raise UserError(f"joint denoiser: {name} is {found} but {source} gives {wanted}; make them equal.")
