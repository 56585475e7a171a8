"""Encode every frame of every demo once: posterior, condition latents and instructions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from datamodules.datamodule import DemoDataModule
from datamodules.demos import DemoEntry
from datamodules.hdf5 import demo_file
from datamodules.latent_cache import LEAD
from datamodules.latent_writer import LatentCacheWriter, LatentShard
from datamodules.pictures import turn_upright
from lightning_modules.latent_key import latent_key
from networks.autoencoders import Autoencoder
from networks.text import TextEncoder
from videopolicy.errors import CommandError

FRAMES_AT_ONCE = 64  # of one camera; bounds memory, the autoencoder bounds its own passes


class FrameEncoder:
    """Encodes the frames of an experiment, each once for every variant.

    Variant 0 keeps the colours as recorded. A jittered variant is one draw of colours for all frames of a demo's
    camera; every variant has noise draws of its own on the conditioning frames. All draws are seeded by task, demo,
    camera and variant, so an interrupted cache goes on with the numbers that it would have had.

    Args:
        data: Where the frames come from.
        autoencoder: The experiment's, on the device that encodes.
        text_encoder: The experiment's.
        condition_noise: Standard deviation of the noise on conditioning frames.
        num_variants: K, variants besides variant 0.

    Raises:
        CommandError: The latents would take as much room as the pictures.
        NetworkError: The autoencoder has no posterior.
    """

    def __init__(
        self,
        data: DemoDataModule,
        autoencoder: Autoencoder,
        text_encoder: TextEncoder,
        condition_noise: float,
        num_variants: int,
    ) -> None:
        self.data = data
        self.autoencoder, self.text_encoder = autoencoder, text_encoder
        self.condition_noise = condition_noise
        self.num_variants = num_variants
        self.device = text_encoder.device
        size = data.preprocessing.image_size
        blank = torch.zeros(1, 3, size, size, device=self.device)
        self.shape_by_kind = {
            "moments": tuple(autoencoder.moments(blank).shape[1:]),
            "condition": tuple(autoencoder.encode_condition(blank).shape[1:]),
        }
        if self._bytes_of("moments") >= 3 * size * size:
            raise CommandError(
                f"{type(autoencoder).__name__}: the latents of a frame take {self._bytes_of('moments')} bytes, its "
                f"pixels {3 * size * size}; a cache gains nothing, so train on the demos themselves."
            )

    def key(self, demos: Sequence[DemoEntry]) -> dict[str, Any]:
        """All that the latents depend on besides the demo files."""
        networks = latent_key(self.autoencoder, self.text_encoder, self.condition_noise)
        return {**self.data.latent_source(demos), **networks, "variants": self.num_variants}

    def num_bytes(self, num_steps: int) -> int:
        """Disk space of the latents of so many steps."""
        views = len(self.data.cameras)
        frame = views * self._bytes_of("moments") + (1 + views) * self._bytes_of("condition")
        return num_steps * (1 + self.num_variants) * frame

    def fill(self, cache: LatentCacheWriter, demos: Sequence[DemoEntry], console: Console) -> None:
        """Encode what the cache lacks, demo by demo."""
        texts = sorted({demo.instruction for demo in demos})
        with torch.no_grad():
            cache.write_texts(texts, self.text_encoder(texts).float().cpu().numpy())
        shards = [
            (cache.shard(members, self.shape_by_kind), members)
            for members in (list(group) for _, group in groupby(demos, key=lambda demo: demo.path))
        ]
        left = [(shard, demo) for shard, members in shards for demo in members if demo.name not in shard.done]
        columns = (TextColumn("frames encoded"), BarColumn(), TextColumn("{task.completed}/{task.total}"), Rate())
        total = sum(demo.length for _, demo in left) * len(self.data.cameras) * (1 + self.num_variants)
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
            bar = progress.add_task("", total=total)
            for shard, demo in left:
                for num_frames in self.encode_demo(shard, demo):
                    progress.advance(bar, num_frames)
                shard.finish(demo)

    def encode_demo(self, shard: LatentShard, demo: DemoEntry) -> Iterator[int]:
        """Encode one demo into its shard; yields the frames encoded, a few at a time."""
        for view, camera in enumerate(self.data.cameras):
            names = [f"{camera}.condition", *([f"{LEAD}.condition"] if view == 0 else [])]
            draws = {
                (name, variant): torch.Generator().manual_seed(seed_of(demo, name, variant))
                for name in names
                for variant in range(1 + self.num_variants)
            }
            for start, frames in self._frames(demo, camera):
                for variant in range(1 + self.num_variants):
                    clip = self._coloured(frames, demo, camera, variant)
                    shard.write(demo, f"{camera}.moments", variant, start, half(self.autoencoder.moments(clip)))
                    for name in names:
                        latents = self._condition(clip, draws[name, variant])
                        shard.write(demo, name, variant, start, half(latents))
                    yield len(clip)

    def _frames(self, demo: DemoEntry, camera: str) -> Iterator[tuple[int, Tensor]]:
        """First step and pictures (N, 3, S, S) in [-1, 1] of one stretch of a camera after another."""
        pre = self.data.preprocessing
        with demo_file(demo.path) as file:
            images = self.data.reader.pictures(file["data"][demo.name], camera)
            for start in range(0, demo.length, FRAMES_AT_ONCE):
                stop = min(start + FRAMES_AT_ONCE, demo.length)
                clip = turn_upright(images[start:stop], demo.orientation)
                yield start, pre.to_float(pre.resized(camera, clip).to(self.device))

    def _coloured(self, frames: Tensor, demo: DemoEntry, camera: str, variant: int) -> Tensor:
        jitter = self.data.colour_jitter
        if variant == 0 or jitter is None:
            return frames
        return jitter.seeded(frames, seed_of(demo, f"{camera}.colours", variant))

    def _condition(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        if self.condition_noise:
            noise = torch.randn(clip.shape, generator=generator)
            clip = clip + self.condition_noise * noise.to(clip.device)
        return self.autoencoder.encode_condition(clip)

    def _bytes_of(self, kind: str) -> int:
        return 2 * int(np.prod(self.shape_by_kind[kind]))


class Rate(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        """Draw the column."""
        return Text(f"{task.speed or 0:.1f} frames/s")


def half(latents: Tensor) -> npt.NDArray[np.float16]:
    """As they are stored; log-variances of -30 and less, and means in the tens, fit float16 with room to spare."""
    array: npt.NDArray[np.float16] = latents.to(torch.float16).cpu().numpy()
    return array


def seed_of(demo: DemoEntry, what: str, variant: int) -> int:
    """Seed of one draw."""
    digest = hashlib.sha256(f"{demo.task} {demo.name} {what} {variant}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
