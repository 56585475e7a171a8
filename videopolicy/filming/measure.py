"""Videos sampled for windows of held-out demos, by the instruction and by two controls, and their errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from datamodules import Batch, Preprocessing
from datamodules.demos import DemoEntry
from datamodules.windows import WindowDataset
from networks import Conditioning, Sampler, VideoModel, config_of, seeded_noise
from networks.picture_errors import SquaredErrors, moving, squared_errors
from videopolicy.filming.scores import Array

INSTRUCTION, NO_TEXT, WRONG = "instruction", "no text", "wrong instruction"
SIGMA_MIN = 0.02  # last level of a sampler that has one level only, and so names no other


@dataclass(frozen=True)
class Row:
    """What is measured.

    Args:
        condition: `INSTRUCTION`, `NO_TEXT` or `WRONG`.
        steps: Sampling steps; 1 is one look at pure noise.
    """

    condition: str
    steps: int

    def __str__(self) -> str:
        return f"{self.condition}, {self.steps} step{'s' if self.steps > 1 else ''}"


@dataclass
class Shown:
    """A window to look at: pictures (V, T, 3, H, W) in [-1, 1], the true ones under None."""

    title: str
    wrong: str | None
    pictures: dict[Row | None, Tensor] = field(default_factory=dict)


@dataclass
class Found:
    """What was measured of each row.

    Args:
        sums: Name -> (N, V, T - 1), see `scores.Sums`.
        seconds: Of sampling and decoding, a window.
        shown: Windows to look at.
    """

    sums: dict[Row, dict[str, Array]]
    seconds: dict[Row, float]
    shown: list[Shown]


def with_steps(sampler: Sampler, steps: int) -> Sampler:
    """The sampler with another number of steps from the same first level."""
    arguments = {**config_of(sampler)["init_args"], "num_steps": steps}
    if sampler.sigma_min == sampler.sigma_max:
        arguments["sigma_min"] = min(SIGMA_MIN, sampler.sigma_max)
    return Sampler(**arguments)


def in_turns(demos: Sequence[DemoEntry], limit: int) -> list[DemoEntry]:
    """The first demos, tasks in turn."""
    by_task: dict[str, list[DemoEntry]] = {}
    for demo in demos:
        by_task.setdefault(demo.task, []).append(demo)
    return [demo for turn in zip_longest(*by_task.values()) for demo in turn if demo is not None][:limit]


def wrong_instructions(demos: Sequence[DemoEntry]) -> dict[str, str]:
    """Instruction -> that of another task; empty where there is only one."""
    known = sorted({demo.instruction for demo in demos})
    return dict(zip(known, known[1:] + known[:1], strict=True)) if len(known) > 1 else {}


class Filming:
    """Samples the videos of windows and sums their errors.

    Args:
        video: The video model, frozen.
        preprocessing: What it was trained to see.
        sampler: Its own; the number of steps is set for each row.
        steps: Numbers of steps.
        wrong: Instruction -> the one of the control; empty leaves this control out.
    """

    def __init__(
        self,
        video: VideoModel,
        preprocessing: Preprocessing,
        sampler: Sampler,
        steps: Sequence[int],
        wrong: dict[str, str],
    ) -> None:
        self.video, self.preprocessing, self.wrong = video, preprocessing, wrong
        conditions = [INSTRUCTION, NO_TEXT, *([WRONG] if wrong else [])]
        self.rows = [Row(condition, number) for condition in conditions for number in steps]
        self.samplers = {number: with_steps(sampler, number) for number in steps}
        self.seconds = dict.fromkeys(self.rows, 0.0)

    def compared_to(self, row: Row) -> Row:
        """The row that a row is measured against: the first, and of a control the one with as many steps."""
        return self.rows[0] if row.condition == INSTRUCTION else Row(INSTRUCTION, row.steps)

    @torch.no_grad()
    def film(self, batch: Batch) -> Iterator[tuple[Row | None, Tensor, dict[str, Tensor]]]:
        """For the truth (None) and every row pictures (B, V, T, 3, H, W) in [-1, 1] and sums (V, T - 1) over windows.

        Args:
            batch: Windows with their frames as bytes.
        """
        video, seeds = self.video, batch.windows.tolist()
        device = next(video.unet.parameters()).device
        true = self.preprocessing.to_float(batch.frames.to(device))
        latents = video.encode(true, sample=False)
        noise = seeded_noise(latents.shape[1:], seeds, "video", device)
        conditions = self._conditions(true[:, :, 0], batch.instructions, seeds)
        yield None, true, {}
        for row in self.rows:
            start = time.perf_counter()
            sampled = video.predict_video(conditions[row.condition], self.samplers[row.steps], noise, seeds)
            predicted = video.decode(sampled).clamp(-1.0, 1.0)
            sums = _sums(true, predicted, video.views(latents), video.views(sampled))  # waits for the device
            self.seconds[row] += time.perf_counter() - start
            yield row, predicted, sums

    def _conditions(
        self, current: Tensor, instructions: Sequence[str], seeds: Sequence[int]
    ) -> dict[str, Conditioning]:
        told = self.video.condition(current, instructions, seeds)
        found = {
            INSTRUCTION: told,
            NO_TEXT: Conditioning(told.latents, torch.zeros_like(told.context), told.anchor),
        }
        if self.wrong:
            found[WRONG] = self.video.condition(current, [self.wrong[words] for words in instructions], seeds)
        return found


def _sums(true: Tensor, predicted: Tensor, true_latents: Tensor, predicted_latents: Tensor) -> dict[str, Tensor]:
    parts: dict[str, SquaredErrors] = {
        "": squared_errors(true, predicted),
        "_moving": squared_errors(true, predicted, moving(true)),
        "_latent": squared_errors(true_latents, predicted_latents),
    }
    sums = {}
    for ending, errors in parts.items():
        for name, value in (("error", errors.predicted), ("held", errors.held), ("size", errors.size)):
            sums[f"{name}{ending}"] = value.sum(0)
    future, sampled = (video[:, :, 1:].flatten(0, 2) for video in (true, predicted))
    alike = ssim(sampled, future, reduction="none", data_range=(-1.0, 1.0))
    assert isinstance(alike, Tensor)
    by_window = alike.reshape(len(true), true.shape[1], -1)
    return {**sums, "ssim": by_window.sum(0), "images": torch.ones_like(by_window).sum(0)}


def measure(
    filming: Filming,
    windows: WindowDataset,
    demos: Sequence[DemoEntry],
    num_windows: int,
    num_shown: int,
    advance: Callable[[], object] = lambda: None,
) -> Found:
    """Film the windows of some demos of a dataset.

    Args:
        filming: What samples.
        windows: The dataset.
        demos: Of the dataset.
        num_windows: Windows a demo, spread evenly over its length.
        num_shown: Demos of which the middle window is kept to be looked at.
        advance: Called after each demo.
    """
    starts = dict(zip(windows.demos, np.cumsum([0, *(demo.length for demo in windows.demos)]).tolist(), strict=False))
    sums: dict[Row, dict[str, list[Array]]] = {row: {} for row in filming.rows}
    shown: list[Shown] = []
    count = 0
    for number, demo in enumerate(demos):
        steps = sorted({int((k + 0.5) * demo.length / num_windows) for k in range(num_windows)})
        batch = Batch.collate([windows[starts[demo] + step] for step in steps])
        middle, count = len(steps) // 2, count + len(steps)
        picture = Shown(f"{demo}, step {steps[middle]}: {demo.instruction}", filming.wrong.get(demo.instruction))
        for row, pictures, found in filming.film(batch):
            for name, value in found.items():
                sums[row].setdefault(name, []).append(value.double().cpu().numpy())  # type: ignore[index]
            if number < num_shown:
                picture.pictures[row] = pictures[middle].cpu()
        shown += [picture] if number < num_shown else []
        advance()
    stacked = {row: {name: np.stack(values) for name, values in by_name.items()} for row, by_name in sums.items()}
    return Found(stacked, {row: seconds / count for row, seconds in filming.seconds.items()}, shown)
