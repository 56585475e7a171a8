"""Which demos are learned from: found, checked, listed, held out or not, weighted, and their actions measured."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.demo_files import find_files
from datamodules.demos import DemoEntry, ReadingSettings, list_demos, read_actions
from datamodules.proprio import proprio_statistics
from datamodules.readers import DemoReader
from datamodules.statistics import ActionStatistics, ConstantActions, StatisticsMethod, compute_statistics, odd_actions
from datamodules.statistics_file import load_or_compute
from files.errors import UserError


@dataclass(frozen=True)
class DemoDraw:
    """How many demos of each task a stage learns from, and which of them are held out.

    Attributes:
        val_fraction: Share held out, the same demos whatever the stage.
        split_seed: Draws those held out.
        action_demos: Of the others, so many whose actions are learned; None for all.
        video_demos: So many whose videos are learned; None for all.
        seed: Draws both in one order, so that fewer lie within more, and equally many are the same.
    """

    val_fraction: float = 0.0
    split_seed: int = 0
    action_demos: int | None = None
    video_demos: int | None = None
    seed: int = 0


class DemoSet:
    """Every demo that some stage learns from.

    Args:
        paths: Files, globs or folders.
        reader: Layout of the files.
        reading: Settings of reading.
        draw: Which demos of each task a stage learns from.
        video_only_tasks: Tasks whose actions are neither learned nor measured.

    Attributes:
        demos: The demos.
        tasks: Their tasks.

    Raises:
        UserError: The first thing found wrong with the files.
    """

    def __init__(
        self,
        paths: str | Sequence[str],
        reader: DemoReader,
        reading: ReadingSettings,
        draw: DemoDraw,
        video_only_tasks: Sequence[str] = (),
    ) -> None:
        self.demos = [demo for path in find_files(paths) for demo in list_demos(path, reader, reading)]
        self.tasks = {demo.task for demo in self.demos}
        self._draw, self._reader = draw, reader
        self._splits: dict[bool, tuple[list[DemoEntry], list[DemoEntry]]] = {}
        self._video_only = set(video_only_tasks)
        if not self.tasks:
            raise UserError(
                f"data.init_args.evaluation_only_tasks is {reading.left_out}, which leaves no demo to learn "
                "from; leave at least one task out of it."
            )
        if reading.instruction is not None and len(self.tasks) > 1:
            warnings.warn(
                f"data.init_args.instruction {reading.instruction!r} is given to all of {sorted(self.tasks)}; remove "
                "it where the files say what the robot was told, or else train on one task at a time.",
                stacklevel=2,
            )

    def split(self, films: bool) -> tuple[list[DemoEntry], list[DemoEntry]]:
        """Demos that a stage trains on, and those held out from it.

        Args:
            films: Whether the stage learns from videos alone, or from actions.

        Raises:
            UserError: A task has fewer demos than wanted, or none can be held out.
        """
        if films not in self._splits:
            draw, demos = self._draw, self.demos if films else self._of_action_tasks()
            train, val = split_demos(demos, draw.val_fraction, draw.split_seed)
            key, count = ("video_demos", draw.video_demos) if films else ("action_demos", draw.action_demos)
            self._splits[films] = (train if count is None else draw_demos(train, val, key, count, draw.seed)), val
        return self._splits[films]

    def with_actions(self) -> list[DemoEntry]:
        """Demos whose actions set the scale: all that there are, held out or not, or exactly the ``action_demos``."""
        return self._of_action_tasks() if self._draw.action_demos is None else self.split(films=False)[0]

    def _of_action_tasks(self) -> list[DemoEntry]:
        """Demos of the tasks whose actions are learned.

        Raises:
            UserError: ``video_only_tasks`` names a task that is not there, or every task.
        """
        if (unknown := sorted(self._video_only - self.tasks)) or self.tasks <= self._video_only:
            what = f"names {unknown}" if unknown else "names every task"
            raise UserError(
                f"data.init_args.video_only_tasks {what}, but the demos are of {sorted(self.tasks)}; name some of "
                "these and leave at least one whose actions are learned."
            )
        return [demo for demo in self.demos if demo.task not in self._video_only]

    def statistics(
        self, dims: tuple[int, ...], method: StatisticsMethod, constant: ConstantActions
    ) -> ActionStatistics:
        """Statistics of the actions that are learned; stored beside the demos, and warned of where they are odd."""
        used = self.with_actions()
        files = [Path(path) for path in dict.fromkeys(demo.path for demo in used)]
        actions = cache(lambda: list(read_actions(used, dims)))
        return load_or_compute(
            files,
            dims,
            method,
            constant,
            lambda: compute_statistics(actions(), method, constant, dims),
            used,
            lambda: odd_actions(actions(), dims) if method == "minmax" else [],
        )

    def proprio_statistics(self, keys: Sequence[str]) -> ActionStatistics:
        """Ranges of the robot's own vectors where actions are learned; see `proprio.proprio_statistics`."""
        return proprio_statistics(self.with_actions(), self._reader, keys)


def split_demos(demos: Sequence[DemoEntry], val_fraction: float, seed: int) -> tuple[list[DemoEntry], list[DemoEntry]]:
    """Hold out the same share of every task; adding a task leaves the split of the others as it was.

    Args:
        demos: What there is, in any order; both parts keep it.
        val_fraction: Share held out, from 0 to below 1; unless it is 0, of a task of several demos at least one. The
            only demo of a task is trained on.
        seed: Draws those held out.

    Returns:
        Demos to train on, and those held out.

    Raises:
        UserError: Every task has one demo, so there is none to hold out, though wanted.
    """
    held_out: set[int] = set()
    unseen = []
    for task in sorted({demo.task for demo in demos}):
        members = [i for i, demo in enumerate(demos) if demo.task == task]
        rng = np.random.default_rng([seed, zlib.crc32(task.encode())])
        count = 0 if val_fraction == 0 else min(max(round(val_fraction * len(members)), 1), len(members) - 1)
        if not count:
            unseen.append(task)
        held_out.update(members[i] for i in rng.permutation(len(members))[:count])
    train = [demo for i, demo in enumerate(demos) if i not in held_out]
    val = [demo for i, demo in enumerate(demos) if i in held_out]
    if val_fraction > 0 and not val:
        raise UserError(
            f"{demos[0].path}: {len(demos)} demo(s) cannot be split with val_fraction {val_fraction}; "
            "add demos or set data.init_args.val_fraction to 0."
        )
    if val_fraction > 0 and unseen:
        rank_zero_warn(
            f"{unseen} have one demo each, which is trained on, so validation does not see them; add demos of these "
            "tasks to validate them."
        )
    return train, val


def draw_demos(
    train: Sequence[DemoEntry], val: Sequence[DemoEntry], key: str, count: int, seed: int
) -> list[DemoEntry]:
    """Some demos of every task, in the order of ``train``; those of a smaller count lie within those of a larger one.

    Args:
        train: Demos to draw from.
        val: Demos held out from them.
        key: What the setting is called.
        count: How many of a task.
        seed: Draws them; adding a task leaves those of the others as they were.

    Raises:
        UserError: A task has fewer.
    """
    drawn: set[int] = set()
    for task in sorted({demo.task for demo in train}):
        members = [i for i, demo in enumerate(train) if demo.task == task]
        if count > len(members):
            held_out = sum(demo.task == task for demo in val)
            raise UserError(
                f"data.init_args.{key} is {count}, but {task} has {len(members)} demo(s) to train on beside {held_out} "
                f"held out for validation; set at most {len(members)}, or null for all, or lower val_fraction."
            )
        rng = np.random.default_rng([seed, zlib.crc32(task.encode()), 2])  # 2: not the split's or validation's stream
        drawn.update(members[i] for i in rng.permutation(len(members))[:count])
    return [demo for i, demo in enumerate(train) if i in drawn]


def weigh_demos(demos: Sequence[DemoEntry], weights: Mapping[str, float], known: Sequence[DemoEntry]) -> list[float]:
    """The weight of each demo, by its file or else its task; 1 where neither is named.

    Args:
        demos: What is sampled from.
        weights: Task or file name (without suffix) -> weight.
        known: Every demo whose task or file may be named.

    Raises:
        UserError: A name is of none of them, or nothing has a weight.
    """
    names = {demo.task for demo in known} | {Path(demo.path).stem for demo in known}
    if unknown := sorted(set(weights) - names):
        raise UserError(
            f"data.init_args.weights names {unknown}, but the tasks and files are {sorted(names)}; use these names."
        )
    result = [weights.get(Path(demo.path).stem, weights.get(demo.task, 1.0)) for demo in demos]
    if not any(result):
        raise UserError("data.init_args.weights gives every demo weight 0; give at least one task a weight.")
    return result
