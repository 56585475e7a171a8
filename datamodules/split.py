"""Which demos are trained on, and which are held out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.demos import DemoEntry
from files.errors import UserError


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
