"""Encode every frame of every demo once: posterior, condition latents and instructions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from datamodules.cached_windows import LEAD, latent_shapes, write_texts
from datamodules.datamodule import DemoDataModule
from datamodules.demos import DemoEntry
from datamodules.frozen_cache import CacheWriter
from datamodules.hdf5 import demo_file
from datamodules.pictures import turn_upright
from files.errors import UserError
from networks.autoencoders import Autoencoder
from networks.text import TextEncoder
from networks.weight_hashes import latent_key

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
        UserError: The latents would take as much room as the pictures.
        UserError: The autoencoder has no posterior.
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
        moments, condition = (
            tuple(made(blank).shape[1:]) for made in (autoencoder.moments, autoencoder.encode_condition)
        )
        self.shapes = latent_shapes(data.cameras, num_variants, moments, condition)
        if (num_bytes := 2 * math.prod(moments)) >= 3 * size * size:
            raise UserError(
                f"{type(autoencoder).__name__}: the latents of a frame take {num_bytes} bytes, its pixels "
                f"{3 * size * size}; a cache gains nothing, so train on the demos themselves."
            )

    def key(self, demos: Sequence[DemoEntry]) -> dict[str, Any]:
        """All that the latents depend on besides the demo files."""
        networks = latent_key(self.autoencoder, self.text_encoder, self.condition_noise)
        return {"kind": "latents", **self.data.latent_source(demos), **networks, "variants": self.num_variants}

    def fill(self, folder: Path, demos: Sequence[DemoEntry], console: Console, rebuild: bool = False) -> None:
        """Encode what the cache lacks, demo by demo."""
        with CacheWriter(folder, self.key(demos), demos, self.shapes, rebuild) as cache:
            console.print(f"{folder}: {len(demos)} demos, {cache.num_bytes / 1e9:.3g} GB when complete")
            texts = sorted({demo.instruction for demo in demos})
            with torch.no_grad():
                write_texts(folder, texts, self.text_encoder(texts).float().cpu().numpy())
            columns = (TextColumn("frames encoded"), BarColumn(), TextColumn("{task.completed}/{task.total}"), Rate())
            total = sum(demo.length for demo in cache.missing) * len(self.data.cameras) * (1 + self.num_variants)
            with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
                bar = progress.add_task("", total=total)
                for demo in cache.missing:
                    for num_frames in self.encode_demo(cache, demo):
                        progress.advance(bar, num_frames)
                    cache.finish(demo)

    def encode_demo(self, cache: CacheWriter, demo: DemoEntry) -> Iterator[int]:
        """Encode one demo into the cache; yields the frames encoded, a few at a time."""
        variants = range(1 + self.num_variants)
        for view, camera in enumerate(self.data.cameras):
            names = [f"{camera}.condition", *([f"{LEAD}.condition"] if view == 0 else [])]
            draws = {
                (name, variant): torch.Generator().manual_seed(seed_of(demo, name, variant))
                for name in names
                for variant in variants
            }
            for start, frames in self._frames(demo, camera):
                clips = [self._coloured(frames, demo, camera, variant) for variant in variants]
                moments = [self.autoencoder.moments(clip) for clip in clips]
                cache.write(demo, f"{camera}.moments", start, half(moments))
                for name in names:
                    latents = [self._condition(clips[variant], draws[name, variant]) for variant in variants]
                    cache.write(demo, name, start, half(latents))
                yield len(frames) * len(variants)

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


class Rate(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        """Draw the column."""
        return Text(f"{task.speed or 0:.1f} frames/s")


def half(variants: Sequence[Tensor]) -> npt.NDArray[np.float16]:
    """Variants (N, ...) as rows (N, 1 + K, ...); log-variances of -30 and means in the tens fit float16 well."""
    array: npt.NDArray[np.float16] = torch.stack(list(variants), dim=1).to(torch.float16).cpu().numpy()
    return array


def seed_of(demo: DemoEntry, what: str, variant: int) -> int:
    """Seed of one draw."""
    digest = hashlib.sha256(f"{demo.task} {demo.name} {what} {variant}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
