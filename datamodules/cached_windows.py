"""What the frozen networks said of windows, in place of their pictures: latents and texts, or features.

`videopolicy cache` fills a folder with latents, of everything in K jittered variants besides the colours as recorded:

- ``<camera>.moments``: mean and log-variance of a frame (1 + K, 2c, h, w);
- ``<camera>.condition``: its latent as a conditioning frame, noise included (1 + K, c, h, w);
- ``lead.condition``: the same of the first camera once more, for video row 0, whose noise is a draw of its own;
- ``instructions.npz`` beside the shards: texts and their embeddings.

Variant 0 has the colours as recorded (validation); variants 1 to K are jittered (training). FeatureCache fills a folder
with ``tap0``, ``tap1``, ...: what the video network said at every tap of the window that starts at a step.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.demos import DemoEntry
from datamodules.frozen_cache import FORMAT, FrozenCache, damaged
from files.errors import UserError
from files.writing import replacing

TEXTS = "instructions.npz"
LEAD = "lead"


@dataclass
class Latents:
    """Latents of one window, or with a leading axis B of a batch.

    Attributes:
        moments: (V, T, 2c, h, w) float16, posterior mean and log-variance of every frame.
        condition: (1 + V, c, h, w) float16, condition latents of the current frames: row 0's, then each camera's.
        text: (D,) float32, the instruction's embedding.
    """

    moments: Tensor
    condition: Tensor
    text: Tensor

    @staticmethod
    def stack(items: Sequence[Latents]) -> Latents:
        """Join along a new first axis."""
        names = ("moments", "condition", "text")
        return Latents(*(torch.stack([getattr(item, name) for item in items]) for name in names))

    def __getitem__(self, index: slice) -> Latents:
        """Some of a batch."""
        return Latents(self.moments[index], self.condition[index], self.text[index])

    def pin_memory(self) -> Latents:
        """Copy every tensor to page-locked memory."""
        return Latents(self.moments.pin_memory(), self.condition.pin_memory(), self.text.pin_memory())


def read_texts(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Embedding (D,) of every instruction; none where the cache was interrupted before.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / TEXTS
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(zip(file["texts"].tolist(), file["embeddings"], strict=True))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from None


def write_texts(folder: Path, texts: Sequence[str], embeddings: npt.NDArray[np.float32]) -> None:
    """Store instructions and their embeddings (N, D) in one file, beside those that another experiment needs."""
    rows = {**read_texts(folder), **dict(zip(texts, embeddings, strict=True))}
    with replacing(folder / TEXTS) as temporary, temporary.open("wb") as file:
        np.savez(file, texts=np.array(list(rows), np.str_), embeddings=np.stack(list(rows.values())))


def latent_shapes(
    cameras: Sequence[str], num_variants: int, moments: Sequence[int], condition: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a row of every array of a latent cache.

    Args:
        cameras: The lead camera first.
        num_variants: K.
        moments: Shape of a frame's moments (2c, h, w).
        condition: Shape of its condition latent (c, h, w).
    """
    both = {"moments": moments, "condition": condition}
    shapes = {f"{camera}.{kind}": shape for camera in cameras for kind, shape in both.items()}
    shapes[f"{LEAD}.condition"] = condition
    return {name: (1 + num_variants, *shape) for name, shape in shapes.items()}


class LatentCache(FrozenCache):
    """Latents of windows from a folder that `videopolicy cache` wrote.

    Args:
        folder: The folder.
        wanted: What the data settings say that the latents must have been made of: ``cameras``, ``image_size``,
            ``orientation``, ``colour_jitter`` (the last matters only if there are jittered variants).
        demos: Every demo that will be read.

    Attributes:
        num_variants: K, jittered variants besides variant 0.

    Raises:
        UserError: No cache, one of other settings, or one that lacks a demo or holds an earlier state of its file.
    """

    kind = "latent cache"
    remedy = (
        "run `videopolicy cache -c EXPERIMENT` (it goes on where it stopped; --rebuild replaces what was made of other "
        "settings or files), or mend or remove data.init_args.latent_cache"
    )

    def __init__(self, folder: str | Path, wanted: Mapping[str, Any], demos: Sequence[DemoEntry]) -> None:
        super().__init__(folder, demos)
        self.require({"format": FORMAT})
        self.cameras: list[str] = list(self.key["cameras"])
        self.num_variants: int = self.key["variants"]
        self.require({name: value for name, value in wanted.items() if name != "colour_jitter" or self.num_variants})
        if wanted["colour_jitter"] is not None and not self.num_variants:
            warnings.warn(
                f"{self.folder}: the latent cache has no jittered variants, so data.init_args.colour_jitter has no "
                "effect; encode some with --variants K, or set colour_jitter: null.",
                stacklevel=2,
            )
        self._texts = {text: torch.from_numpy(row) for text, row in read_texts(self.folder).items()}
        if absent := sorted({demo.instruction for demo in demos} - set(self._texts)):
            raise UserError(f"{self.folder}: the latent cache has no text {absent[0]!r}; {self.remedy}.")

    def window(self, demo: DemoEntry, steps: npt.NDArray[np.int64], seed: int | None = None) -> Latents:
        """Latents of a window.

        Args:
            demo: The demo.
            steps: Steps (T,) of its frames, none past its end; the first is the current one.
            seed: Draws one jittered variant for every camera; None takes the colours as recorded.
        """
        arrays, first = self.arrays(demo)
        rows = first + steps
        drawn = [0] * len(self.cameras)
        if seed is not None and self.num_variants:
            drawn = np.random.default_rng(seed).integers(1, self.num_variants + 1, len(drawn)).tolist()
        views = list(zip(self.cameras, drawn, strict=True))
        moments = np.stack([arrays[f"{camera}.moments"][rows, variant] for camera, variant in views])
        conditions = [(LEAD, drawn[0]), *views]
        condition = np.stack([arrays[f"{name}.condition"][rows[0], variant] for name, variant in conditions])
        return Latents(torch.from_numpy(moments), torch.from_numpy(condition), self._texts[demo.instruction])


class CachedFeatures(FrozenCache):
    """Features of windows from a folder that FeatureCache filled.

    Args:
        folder: The folder.
        key: What the features must have been made with.
        demos: Every demo that will be read.

    Raises:
        UserError: The cache is not complete, of another key, or damaged.
    """

    kind = "feature cache"

    def __init__(self, folder: str | Path, key: Mapping[str, Any], demos: Sequence[DemoEntry]) -> None:
        super().__init__(folder, demos)
        self.require({"format": FORMAT, **key})

    def window(self, demo: DemoEntry, step: int) -> list[Tensor]:
        """Features (V, T, C, h, w) at every tap of the window that starts at a step, float16."""
        arrays, first = self.arrays(demo)
        return [torch.from_numpy(np.array(rows[first + step])) for rows in arrays.values()]
