"""Seconds of a training sample until it is a batch: our loader, with and without a latent cache, and plain reading.

    python -m benchmarks.loader

Writes a plain and a gzipped demo file (a picture a chunk) and a latent cache of their shapes, then reads the same
random windows by turns, in this one process, with each of three readers:

- baseline: what a straightforward dataset does for every sample: open the file, read the whole stretch of steps of
  every camera, turn every frame of the window into floats and jitter its colours on the CPU with torchvision;
- ours: `WindowDataset` reading the frames of the window alone, as bytes; colours are jittered on the training device,
  which is no work of the loader (its cost on this CPU is timed apart);
- cached: `WindowDataset` reading latents (posterior and condition), jittered when they were encoded.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.parts.turns import Setting, add_turn_arguments, report, take_turns
from datamodules import Batch, RoboCasaDataModule
from datamodules.augmentation import PAPER_JITTER
from datamodules.cached_windows import latent_shapes, write_texts
from datamodules.frozen_cache import CacheWriter

CAMERAS = RoboCasaDataModule.default_cameras
WINDOW = {"num_frames": 8, "frame_stride": 4, "action_horizon": 32}


def write_demos(path: Path, demos: int, steps: int, size: int, compression: str | None) -> None:
    """Write scenes that move: smooth gradients under a little sensor noise, so that gzip has something to do."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((size, size))
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "CloseDrawer"})
        for number in range(demos):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["ep_meta"] = json.dumps({"lang": "close the drawer"})
            demo["actions"] = rng.uniform(-1, 1, (steps, 12))
            for camera in CAMERAS:
                waves = [128 + 90 * np.sin((rows * a + columns * b) / size) for a, b in rng.uniform(1, 9, (3, 2))]
                scene = np.stack(waves, axis=-1) + rng.normal(0, 2, (size, size, 3))
                clip = np.stack([np.roll(scene, step, axis=1) for step in range(steps)]).clip(0, 255).astype(np.uint8)
                key = f"obs/{camera}_image"
                demo.create_dataset(key, data=clip, chunks=(1, size, size, 3), compression=compression)


def data_module(path: Path, size: int, cache: Path | None = None) -> RoboCasaDataModule:
    """The data module of the paper's window."""
    data = RoboCasaDataModule(
        str(path), image_size=size, val_fraction=0.0, latent_cache=None if cache is None else str(cache), **WINDOW
    )
    data.setup()
    return data


def write_latents(folder: Path, data: RoboCasaDataModule, variants: int = 2) -> None:
    """A cache of the shapes of the paper's autoencoder (4 channels, an eighth of the size), filled with noise."""
    demos, side = data.demos(), data.preprocessing.image_size // 8
    shapes = latent_shapes(data.cameras, variants, (8, side, side), (4, side, side))
    rng = np.random.default_rng(0)
    key = {"kind": "latents", **data.latent_source(demos), "variants": variants}
    with CacheWriter(folder, key, demos, shapes) as cache:
        write_texts(folder, ["close the drawer"], np.zeros((1, 1024), np.float32))
        for demo in demos:
            for name, shape in shapes.items():
                cache.write(demo, name, 0, rng.standard_normal((demo.length, *shape), np.float32))
            cache.finish(demo)


class PlainReader:
    """The baseline: one sample read in the obvious way."""

    def __init__(self, data: RoboCasaDataModule) -> None:
        self.data = data
        self.jitter = v2.ColorJitter(PAPER_JITTER.brightness, PAPER_JITTER.contrast, PAPER_JITTER.saturation, 0.05)

    def __call__(self, index: int) -> Tensor:
        """Frames (V, T, 3, S, S), float and jittered."""
        entry, start = self.data.train_set.locate(index)
        stride, count = self.data.frame_stride, self.data.num_frames
        steps = np.minimum(np.arange(count) * stride, entry.length - 1 - start)
        clips = []
        with h5py.File(entry.path) as file:
            demo = file["data"][entry.name]
            actions = demo["actions"][start : start + self.data.action_horizon]
            assert len(actions)
            for camera in self.data.cameras:
                stretch = demo[f"obs/{camera}_image"][start : start + (count - 1) * stride + 1]
                frames = [torch.from_numpy(frame).permute(2, 0, 1).float() / 255 for frame in stretch[steps]]
                clips.append(torch.stack([self.jitter(frame) * 2 - 1 for frame in frames]))
        return torch.stack(clips)


def setting(name: str, read: Callable[[int], object], windows: int, samples: int, batch_size: int = 4) -> Setting:
    """A reader whose turn reads random windows in batches, new ones in every turn."""
    rng = np.random.default_rng(1)

    def turn() -> list[float]:
        indices = rng.integers(0, windows, samples).tolist()
        began = time.perf_counter()
        for first in range(0, samples, batch_size):
            read_batch = [read(index) for index in indices[first : first + batch_size]]
            torch.stack(read_batch) if isinstance(read_batch[0], Tensor) else Batch.collate(read_batch)  # type: ignore[arg-type]
        return [(time.perf_counter() - began) / samples]

    return Setting(name, turn)


def jitter_ms(data: RoboCasaDataModule) -> float:
    """Milliseconds a sample of what the device does with our bytes, done on this CPU."""
    batch = Batch.collate([data.train_set[index] for index in range(4)])
    start = time.perf_counter()
    PAPER_JITTER(data.preprocessing.to_float(batch.frames), range(len(batch)))
    return (time.perf_counter() - start) / len(batch) * 1e3


def main(words: Sequence[str] | None = None) -> int:
    """Compare the readers on plain and on gzipped files."""
    args = parse_arguments(words)
    torch.set_num_threads(1)  # as in a worker
    documents = []
    with tempfile.TemporaryDirectory() as folder:
        for compression in (None, "gzip"):
            name = compression or "plain"
            path, cache = Path(folder) / f"{name}.hdf5", Path(folder) / f"latents-{name}"
            write_demos(
                path, args.demos if compression is None else min(args.demos, 4), args.steps, args.size, compression
            )
            plain = data_module(path, args.size)
            write_latents(cache, plain)
            cached, windows = data_module(path, args.size, cache), len(plain.train_set)
            settings = [
                setting("baseline", PlainReader(plain), windows, args.samples),
                setting("ours", plain.train_set.__getitem__, windows, args.samples),
                setting("cached", cached.train_set.__getitem__, windows, 8 * args.samples),
            ]
            for one in settings:
                one.turn()  # warms up
            take_turns(settings, torch.device("cpu"), args.turns, args.minutes)
            print(f"{name} files; jitter of our bytes on one core of this CPU: {jitter_ms(plain):.0f} ms a sample")
            documents.append(report(f"loader, {name}", settings, torch.device("cpu"), "s per sample"))
    for document in documents:
        print(json.dumps(document))
    return 0


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="pixels of a side (default 256)")
    parser.add_argument("--demos", type=int, default=50, help="demos (default 50)")
    parser.add_argument("--steps", type=int, default=40, help="steps of a demo (default 40)")
    parser.add_argument("--samples", type=int, default=8, help="windows a reader and turn (default 8)")
    add_turn_arguments(parser, minutes=30.0)
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
