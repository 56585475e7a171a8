"""What a dataset yields and what a training step receives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from datamodules.cached_windows import Latents


@dataclass
class Observations:
    """What a policy may see at B moments.

    Attributes:
        frames: (B, V, O, 3, S, S) in [-1, 1], the current one last; O is `Preprocessing.num_observations`.
        instructions: B sentences.
        proprio: (B, O, P), normalised; P = 0 where no proprioception is used.
    """

    frames: Tensor
    instructions: Sequence[str]
    proprio: Tensor

    @property
    def current(self) -> Tensor:
        """The current frame of each camera (B, V, 3, S, S)."""
        return self.frames[:, :, -1]


@dataclass
class Window:
    """One training sample: a demo seen from one start step.

    Attributes:
        frames: (V, T, 3, H, W) uint8, T = 1 where only the current frame is used; empty with shape (0,) if frames were
            not read.
        actions: (A, D) float32, normalised.
        action_is_pad: (A,) bool, True past the end of the demo.
        instruction: What the robot was told to do.
        index: Position of this window in its dataset.
        latents: From a latent cache, in place of the frames.
        seed: Of what is drawn for this visit to the window.
        features: From a feature cache: (V, T, C, h, w) float16 at every tap.
        past_frames: (V, O - 1, 3, H, W) uint8, before the current one, where a policy sees several observations.
        proprio: (O, P) float32, normalised, where there is any.
    """

    frames: Tensor
    actions: Tensor
    action_is_pad: Tensor
    instruction: str
    index: int
    latents: Latents | None = None
    seed: int = 0
    features: list[Tensor] | None = None
    past_frames: Tensor | None = None
    proprio: Tensor | None = None


@dataclass
class Batch:
    """Several windows.

    Attributes:
        frames: (B, V, T, 3, H, W), uint8 as collated, float in [-1, 1] once
            ``DemoDataModule.on_after_batch_transfer`` has run; T = 1 where the stage uses the current frame only;
            (B, 0) if frames were not read.
        actions: (B, A, D) float32, normalised.
        action_is_pad: (B, A) bool.
        instructions: B sentences.
        windows: (B,) int64, position of each window in its dataset.
        latents: From a latent cache; frames are then read only where pictures are looked at.
        seeds: B numbers, of what is drawn for each window this time.
        features: From a feature cache: (B, V, T, C, h, w) float16 at every tap; there are then no frames.
        past_frames: (B, V, O - 1, 3, H, W) like `frames`, where there are any.
        proprio: (B, O, P) float32, normalised, where there is any.
    """

    frames: Tensor
    actions: Tensor
    action_is_pad: Tensor
    instructions: list[str]
    windows: Tensor
    latents: Latents | None = None
    seeds: list[int] = field(default_factory=list)
    features: list[Tensor] | None = None
    past_frames: Tensor | None = None
    proprio: Tensor | None = None

    def __len__(self) -> int:
        return self.actions.shape[0]

    @property
    def has_frames(self) -> bool:
        """Whether frames were read (they are not when training from a cache)."""
        return self.frames.numel() > 0

    @property
    def observations(self) -> Observations:
        """What a policy sees of these windows in a rollout; needs frames."""
        assert self.has_frames, "the observations are pictures"
        current = self.frames[:, :, :1]
        frames = current if self.past_frames is None else torch.cat([self.past_frames, current], dim=2)
        proprio = self.proprio if self.proprio is not None else current.new_zeros(len(self), frames.shape[2], 0)
        return Observations(frames, self.instructions, proprio)

    def first(self, count: int) -> Batch:
        """The first windows."""
        return self._each(lambda part: part[:count])

    def pin_memory(self) -> Batch:
        """Copy every tensor to page-locked memory; the DataLoader calls this."""
        return self._each(lambda part: part.pin_memory() if hasattr(part, "pin_memory") else part)

    def _each(self, change: Callable[[Any], Any]) -> Batch:
        """Another batch with every part changed; features part by part."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        features = parts.pop("features")
        changed: dict[str, Any] = {name: None if value is None else change(value) for name, value in parts.items()}
        return Batch(**changed, features=None if features is None else [change(feature) for feature in features])

    @staticmethod
    def empty() -> Batch:
        """A batch of no windows."""
        nothing = torch.empty(0, 0)
        return Batch(nothing, nothing, nothing.bool(), [], torch.empty(0, dtype=torch.int64))

    @staticmethod
    def collate(windows: Sequence[Window]) -> Batch:
        """Stack windows along a new first axis; frames are kept where every window has them.

        Not every one does if a sampler puts windows that are pictured and others that are not into one batch.
        """
        latents = [w.latents for w in windows if w.latents is not None]
        features = [w.features for w in windows if w.features is not None]
        past = [w.past_frames for w in windows if w.past_frames is not None]
        proprio = [w.proprio for w in windows if w.proprio is not None]
        whole = all(w.frames.numel() for w in windows)
        return Batch(
            frames=torch.stack([w.frames for w in windows]) if whole else torch.empty(len(windows), 0),
            actions=torch.stack([w.actions for w in windows]),
            action_is_pad=torch.stack([w.action_is_pad for w in windows]),
            instructions=[w.instruction for w in windows],
            windows=torch.tensor([w.index for w in windows], dtype=torch.int64),
            latents=Latents.stack(latents) if latents else None,
            seeds=[w.seed for w in windows],
            features=[torch.stack(tap) for tap in zip(*features, strict=True)] if features else None,
            past_frames=torch.stack(past) if past else None,
            proprio=torch.stack(proprio) if proprio else None,
        )
