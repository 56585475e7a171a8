"""What a demo knows of the robot itself at each step: the vectors under ``obs`` that are no pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import h5py
import numpy as np
import numpy.typing as npt

from datamodules.demos import DemoEntry
from datamodules.hdf5 import READ_ERRORS, demo_file, why_not_read
from datamodules.readers import DemoReader, demo_group
from datamodules.statistics import ActionStatistics, nearly_constant
from files.errors import UserError

QUATERNION = "quat"  # ends the name of a vector that has its own range


def proprio_statistics(demos: Iterable[DemoEntry], reader: DemoReader, keys: Sequence[str]) -> ActionStatistics:
    """Ranges of the vectors, one after the other, over the demos; a quaternion's is -1 to 1, as Diffusion Policy's is.

    A number that never changes becomes 0.

    Raises:
        UserError: A demo lacks one, or it is not finite numbers, a row a picture.
    """
    lows, highs = [], []
    for demo in _rows_of(demos, reader, keys):
        lows.append(np.concatenate([rows.min(0) for rows in demo]))
        highs.append(np.concatenate([rows.max(0) for rows in demo]))
        widths = [rows.shape[1] for rows in demo]
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    still = nearly_constant(low, high)
    low, high = np.where(still, (low + high) / 2, low), np.where(still, (low + high) / 2, high)
    quaternion = np.repeat([key.endswith(QUATERNION) for key in keys], widths)
    low, high = np.where(quaternion, -1.0, low), np.where(quaternion, 1.0, high)
    return ActionStatistics(tuple(low.tolist()), tuple(high.tolist()), constant="zero")


def _rows_of(
    demos: Iterable[DemoEntry], reader: DemoReader, keys: Sequence[str]
) -> Iterator[list[npt.NDArray[np.float64]]]:
    width_by_key: dict[str, int] = {}
    for path, members in groupby(demos, key=lambda demo: demo.path):
        with demo_file(path) as file:
            for demo in members:
                found = [_rows(demo, demo_group(file, demo.name), reader, key) for key in keys]
                for key, rows in zip(keys, found, strict=True):
                    if rows.shape[1] != width_by_key.setdefault(key, rows.shape[1]):
                        raise UserError(
                            f"{demo}: obs/{key} is {rows.shape[1]} wide, and {width_by_key[key]} in the demos before; "
                            "train on files of one robot, or leave it out of data.init_args.proprio."
                        )
                yield found


def _rows(demo: DemoEntry, group: h5py.Group, reader: DemoReader, key: str) -> npt.NDArray[np.float64]:
    obs, stored = group["obs"], reader.proprio_key(key)
    if stored not in obs:
        there = sorted(name for name in obs if isinstance(obs[name], h5py.Dataset) and obs[name].ndim == 2)
        raise UserError(
            f"{demo}: nothing under obs/{stored}, where {key} of data.init_args.proprio would be; there are {there}. "
            "Choose among these, set it to null, or collect the demos again."
        )
    data, needed = obs[stored], demo.length + demo.first_action
    if not isinstance(data, h5py.Dataset) or data.ndim != 2 or data.dtype.kind not in "fiu" or len(data) < needed:
        raise UserError(
            f"{demo}: obs/{stored} is {getattr(data, 'dtype', 'a group')} of shape {getattr(data, 'shape', ())}; "
            f"expected numbers (steps, dimensions) with {needed} steps or more, so leave {key} out of "
            "data.init_args.proprio."
        )
    try:
        rows = reader.proprio(group, key, slice(needed))
    except READ_ERRORS as error:
        raise UserError(f"{demo}: {why_not_read(obs, stored, error)}.") from None
    if not np.isfinite(rows).all():
        raise UserError(f"{demo}: obs/{stored} is not finite; remove or repair this demo.")
    return rows
