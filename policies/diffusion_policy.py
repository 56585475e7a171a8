"""Diffusion Policy (Chi et al. 2023, arXiv 2303.04137), the baseline: pictures, words and proprioception to actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datamodules import Batch, Observations, Preprocessing
from networks import (
    ActionUNet,
    KeypointEncoder,
    NoiseSchedule,
    StepEmbedding,
    TextEncoder,
    config_of,
    describe,
    seeded_noise,
)
from networks.inference import as_weights
from policies.policy import Policy, mean_action_loss

NETWORK_KEYS = ("text_encoder", "encoder", "action_unet")  # of the config: what weights depend on
VALIDATED = 4  # steps, evenly spread, whose mean the validation loss is
EncoderFactory = Callable[[int, int], KeypointEncoder]
ActionUNetFactory = Callable[[int, int, int, int], ActionUNet]


class DiffusionPolicy(Policy):
    """A 1-D U-Net that takes the noise out of an action chunk, told by FiLM what the observations are.

    Args:
        text_encoder: Embeds the instruction; never trained.
        encoder: Makes the pictures' encoder from the number of cameras and the pictures' size; or the encoder.
        action_unet: Makes the U-Net from action size, horizon, conditioning size and embedding size; or it.
        schedule: Steps between actions and noise, in training and sampling; None is the published one.
        mask_padding: Leave padded action steps out of the loss (published: they count).
    """

    sees_past = True

    def __init__(
        self,
        text_encoder: TextEncoder,
        encoder: EncoderFactory = KeypointEncoder,
        action_unet: ActionUNetFactory = ActionUNet,
        schedule: NoiseSchedule | None = None,
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.schedule = schedule or NoiseSchedule()
        self.mask_padding = mask_padding
        self.step_embedding = StepEmbedding()
        self._factories: tuple[Any, Any] | None = (encoder, action_unet)  # what is a network is registered by `attach`

    def attach(self, preprocessing: Preprocessing) -> None:
        """Build encoder and U-Net for the data's cameras, picture size, observations and actions.

        Raises:
            UserError: A part does not fit the data or another part.
        """
        super().attach(preprocessing)
        if self._factories is None:
            return
        encoder, action_unet = self._factories
        if not isinstance(encoder, nn.Module):
            encoder = encoder(preprocessing.num_views, preprocessing.image_size)
        if not isinstance(action_unet, nn.Module):
            observation_dim = encoder.output_dim + preprocessing.proprio_dim
            cond_dim = preprocessing.num_observations * observation_dim + self.text_encoder.embed_dim
            sizes = (preprocessing.action_dim, preprocessing.action_horizon, cond_dim, self.step_embedding.emb_dim)
            action_unet = action_unet(*sizes)
        self.encoder: KeypointEncoder = encoder
        self.action_unet: ActionUNet = action_unet
        self._factories = None

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments, networks included."""
        parts = {name: config_of(getattr(self, name)) for name in (*NETWORK_KEYS, "schedule")}
        return describe(self, parts | {"mask_padding": self.mask_padding})

    def network_config(self) -> dict[str, Any]:
        """The networks."""
        return {name: value for name, value in super().network_config().items() if name in NETWORK_KEYS}

    def networks(self) -> list[nn.Module]:
        """Encoder, step embedding, U-Net."""
        return [self.encoder, self.step_embedding, self.action_unet]

    def condition(self, observations: Observations, seeds: Sequence[int]) -> Tensor:
        """What the U-Net is told (B, cond_dim): pictures, proprioception and the instruction; nothing is drawn."""
        pictures = self.encoder(observations.frames).float()
        words = self.text_encoder(observations.instructions)
        return torch.cat([pictures, observations.proprio.flatten(1), words], dim=-1)

    def predict(self, noisy: Tensor, steps: Tensor, conditioning: Tensor) -> Tensor:
        """What the U-Net says of action chunks (B, A, D) after steps (B,), see `NoiseSchedule.target`."""
        emb = self.step_embedding(steps)
        parts = (as_weights(part, self.action_unet) for part in (noisy, emb, conditioning))
        predicted: Tensor = self.action_unet(*parts).float()
        return predicted

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared error of what is predicted; in evaluation mode the mean over a few steps, see `Policy.loss`."""
        conditioning = self.condition(batch.observations, batch.windows.tolist())
        count = self.schedule.num_train_steps
        if self.training:
            drawn = [torch.randint(count, (len(batch),), device=self.device)]
            noise = torch.randn_like(batch.actions)
        else:
            levels = torch.linspace(0, count - 1, VALIDATED + 2).long()[1:-1]
            drawn = [level.expand(len(batch)).to(self.device) for level in levels]
            noise = seeded_noise(batch.actions.shape[1:], batch.windows.tolist(), "action", self.device)
        losses = [self._loss_at(batch, steps, noise, conditioning) for steps in drawn]
        return {"loss": torch.stack(losses).mean()}

    def _loss_at(self, batch: Batch, steps: Tensor, noise: Tensor, conditioning: Tensor) -> Tensor:
        noisy = self.schedule.noisy(batch.actions, noise, steps)
        target = self.schedule.target(batch.actions, noise, steps)
        rows = (self.predict(noisy, steps, conditioning) - target).square().mean(dim=-1)
        return mean_action_loss(rows, batch, self.mask_padding)

    @torch.no_grad()
    def sample(self, conditioning: Tensor, seeds: Sequence[int], pictured: Sequence[int] = ()) -> tuple[Tensor, None]:
        """Action chunks from noise that the seeds name, see `Policy.sample`; no video is predicted."""
        start = seeded_noise((self.data.action_horizon, self.data.action_dim), seeds, "action", self.device)
        return self.schedule.sample(lambda x, steps: self.predict(x, steps, conditioning), start, seeds), None
