"""Training samples a second that reach the device: our loader, with and without a latent cache, and plain reading.

    python -m benchmarks.loader

Writes a plain and a gzipped demo file (a picture a chunk) and a latent cache of their shapes, then reads the same
random windows in turns, in this one process, with each of three readers:

- baseline: what a straightforward dataset does for every sample: open the file, read the whole stretch of steps of
  every camera, turn every frame of the window into floats and jitter its colours on the CPU with torchvision;
- ours: `WindowDataset` reading the frames of the window alone, as bytes; colours are jittered on the training device,
  which is no work of the loader (its cost on this CPU is timed apart);
- cached: `WindowDataset` reading latents (posterior and condition), jittered when they were encoded.

Also measures a worker's start-up and how a worker's memory grows from 1 to 50 demos (PSS, Linux).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from datamodules import Batch, RoboCasaDataModule
from datamodules.augmentation import PAPER_JITTER
from datamodules.latent_writer import LatentCacheWriter
from videopolicy.profiling.stopwatch import hardware
from videopolicy.versions import git_commit

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
    shapes = {"moments": (8, side, side), "condition": (4, side, side)}
    cache = LatentCacheWriter(folder, {**data.latent_source(demos), "variants": variants})
    cache.write_texts(["close the drawer"], np.zeros((1, 1024), np.float32))
    shard = cache.shard(demos, shapes)
    rng = np.random.default_rng(0)
    for demo in demos:
        for variant in range(1 + variants):
            for name in [*(f"{c}.{kind}" for c in data.cameras for kind in shapes), "lead.condition"]:
                shape = (demo.length, *shapes[name.rpartition(".")[2]])
                shard.write(demo, name, variant, 0, rng.standard_normal(shape, np.float32).astype(np.float16))
        shard.finish(demo)


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


def samples_a_second(read: Callable[[int], object], indices: Sequence[int], batch_size: int = 4) -> float:
    """Read the windows in batches; samples a second of wall time."""
    start = time.perf_counter()
    for first in range(0, len(indices), batch_size):
        samples = [read(index) for index in indices[first : first + batch_size]]
        torch.stack(samples) if isinstance(samples[0], Tensor) else Batch.collate(samples)  # type: ignore[arg-type]
    return len(indices) / (time.perf_counter() - start)


def compare(plain: RoboCasaDataModule, cached: RoboCasaDataModule, samples: int, rounds: int) -> dict[str, list[float]]:
    """Samples a second of the three readers, in turns, every round on windows of its own."""
    readers: dict[str, Callable[[int], object]] = {
        "baseline": PlainReader(plain),
        "ours": plain.train_set.__getitem__,
        "cached": cached.train_set.__getitem__,
    }
    rng = np.random.default_rng(1)
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for round_ in range(rounds + 1):  # the first one warms up
        for name, read in readers.items():
            chosen = rng.integers(0, len(plain.train_set), samples * (8 if name == "cached" else 1)).tolist()
            rate = samples_a_second(read, chosen)
            if round_:
                rates[name].append(rate)
    return rates


def jitter_ms(data: RoboCasaDataModule) -> float:
    """Milliseconds a sample of what the device does with our bytes, done on this CPU."""
    batch = Batch.collate([data.train_set[index] for index in range(4)])
    start = time.perf_counter()
    PAPER_JITTER(data.preprocessing.to_float(batch.frames), range(len(batch)))
    return (time.perf_counter() - start) / len(batch) * 1e3


def memory_mib(path: Path, size: int, cache: Path | None, demos: int, reads: int) -> float:
    """PSS in MiB of a fresh process that has read so many windows of the first so many demos."""
    where = "None" if cache is None else f"Path({str(cache)!r})"
    code = (
        "from pathlib import Path; from benchmarks.loader import data_module\n"
        f"data = data_module(Path({str(path)!r}), {size}, {where})\n"
        f"last = data.train_set.first_window({demos - 1}) + data.train_set.demos[{demos - 1}].length\n"
        f"for i in range({reads}): data.train_set[i * 7919 % last]\n"
        "print(next(line.split()[1] for line in open('/proc/self/smaps_rollup') if line.startswith('Pss:')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


def startup_s(data: RoboCasaDataModule, workers: int = 2, repeats: int = 3) -> float:
    """Median seconds from asking a loader with workers for its first batch to having it, less reading that batch."""
    data.num_workers = workers
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        next(iter(data.train_dataloader()))
        seconds.append(time.perf_counter() - start)
    data.num_workers = 0
    start = time.perf_counter()
    next(iter(data.train_dataloader()))
    return statistics.median(seconds) - (time.perf_counter() - start)


def lines(name: str, rates: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    """One result a comparison with the baseline."""
    medians = {reader: statistics.median(values) for reader, values in rates.items()}
    for reader in ("ours", "cached"):
        yield {
            "name": f"loader, {name}, {'with cache' if reader == 'cached' else 'without cache'}",
            "ours": round(medians[reader], 2),
            "baseline": round(medians["baseline"], 2),
            "ratio": round(medians[reader] / medians["baseline"], 2),
            "unit": "samples/s",
            "spread": [round(min(rates[reader]), 2), round(max(rates[reader]), 2)],
            "baseline_spread": [round(min(rates["baseline"]), 2), round(max(rates["baseline"]), 2)],
            "hardware": hardware(torch.device("cpu")),
            "commit": git_commit(),
            "date": date.today().isoformat(),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every comparison and print one JSON line each."""
    parser = argparse.ArgumentParser(description="samples/s of the loader with and without cache")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side (default 256)")
    parser.add_argument("--demos", type=int, default=50, help="demos (default 50)")
    parser.add_argument("--steps", type=int, default=40, help="steps of a demo (default 40)")
    parser.add_argument("--samples", type=int, default=8, help="windows a reader and round (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default 3)")
    parser.add_argument("--no-memory", action="store_true", help="leave memory out; it starts processes")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for compression in ("plain", "gzip"):
            path = Path(folder) / f"{compression}.hdf5"
            demos = args.demos if compression == "plain" else min(args.demos, 4)
            write_demos(path, demos, args.steps, args.size, None if compression == "plain" else "gzip")
            plain = data_module(path, args.size)
            cache = Path(folder) / f"latents-{compression}"
            write_latents(cache, plain)
            cached = data_module(path, args.size, cache)
            results += list(lines(compression, compare(plain, cached, args.samples, args.rounds)))
            if compression == "plain":
                print(f"jitter of our bytes on one core of this CPU: {jitter_ms(plain):.0f} ms a sample")
                print(f"start of 2 workers (fork): {startup_s(plain):.2f} s; with cache {startup_s(cached):.2f} s")
                if not args.no_memory:
                    for kind, where in (("frames", None), ("cache", cache)):
                        used = [memory_mib(path, args.size, where, n, 400) for n in (1, demos)]
                        print(
                            f"PSS after 400 windows, {kind}: 1 demo {used[0]:.0f} MiB, {demos} demos {used[1]:.0f} MiB"
                        )
    for result in results:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
