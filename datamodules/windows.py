"""Every step of every demo as the start of a window of frames and actions, streamed from HDF5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batch import Window
from datamodules.cached_windows import CachedFeatures, LatentCache, Latents
from datamodules.demos import DemoEntry
from datamodules.hdf5 import READ_ERRORS, OpenFiles, damaged, why_not_read
from datamodules.pictures import EncodedPictures, turn_upright
from datamodules.preprocessing import Preprocessing
from datamodules.readers import DemoReader
from files.errors import UserError

ActionPadding = Literal["zero", "hold"]
Visit = tuple[int, int]  # index of a window, and the seed of what is drawn for it this time


class WindowDataset(Dataset[Window]):
    """Windows over a list of demos; window i belongs to the demo in which step i of all demos laid end to end falls.

    A window that starts at step t holds, for every camera, the frames t, t + stride, ... and the actions t, t + 1, ...
    Past the end of the demo the last of these frames is held, and actions are raw zeros ("zero", as published) or the
    last action ("hold"). Only the frames of the window are read; where a policy sees several observations, those of the
    steps before t as well.

    Args:
        demos: Demos in order.
        preprocessing: Cameras, sizes, horizons and statistics.
        reader: Layout of the files.
        action_padding: What stands past the end of a demo.
        latents: Read latents in place of frames.

    Attributes:
        only_current: Read the first frame alone, T = 1, of frames and of latents; for a stage that uses no other.
        features: What features are read from, in place of frames and latents, where a feature cache holds them.
    """

    def __init__(
        self,
        demos: Sequence[DemoEntry],
        preprocessing: Preprocessing,
        reader: DemoReader,
        action_padding: ActionPadding = "zero",
        latents: LatentCache | None = None,
    ) -> None:
        self.demos = list(demos)
        self.preprocessing = preprocessing
        self.reader = reader
        self.action_padding = action_padding
        self.latents = latents
        self.only_current = False
        self.features: CachedFeatures | None = None
        self._files = OpenFiles()
        self._ends = np.cumsum([demo.length for demo in self.demos], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, index: int) -> tuple[DemoEntry, int]:
        """The demo of a window and the step at which it starts."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        position = int(np.searchsorted(self._ends, index, side="right"))
        demo = self.demos[position]
        return demo, index - int(self._ends[position]) + demo.length

    def __getitem__(self, visit: int | Visit) -> Window:
        return self.window(visit) if isinstance(visit, int) else self.window(*visit)

    def window(self, index: int, seed: int | None = None, pictured: bool = False) -> Window:
        """Read a window.

        Args:
            index: Which one.
            seed: Draws the variants of its latents; None takes the colours as recorded.
            pictured: Read its frames besides its latents, where there are latents.
        """
        entry, start = self.locate(index)
        pre = self.preprocessing
        group = self._files.group(entry.path, entry.name)
        action_steps = start + np.arange(pre.action_horizon)
        frame_steps = start + np.arange(pre.num_frames) * pre.frame_stride
        read_steps = frame_steps[:1] if self.only_current else frame_steps
        use_latents = self.features is None and self.latents is not None
        use_frames = self.features is None and (not use_latents or pictured)
        try:
            actions = self._actions(group, entry, start)
            frames = self._frames(group, entry, read_steps) if use_frames else torch.empty(0)
            seen = np.maximum(start + np.arange(1 - pre.num_observations, 1), 0)  # the first stands for earlier ones
            past = self._past_frames(group, entry, seen[:-1]) if use_frames and len(seen) > 1 else None
            proprio = self._proprio(group, seen) if pre.proprio else None
        except UserError:
            raise
        except READ_ERRORS as error:
            raise _unreadable(entry, start, damaged(error)) from error
        return Window(
            frames=frames,
            actions=actions,
            action_is_pad=torch.from_numpy(action_steps >= entry.length),
            instruction=entry.instruction,
            index=index,
            latents=self._latents(entry, read_steps, seed) if use_latents else None,
            seed=index if seed is None else seed,
            features=None if self.features is None else self.features.window(entry, start),
            past_frames=past,
            proprio=proprio,
        )

    def _latents(self, entry: DemoEntry, steps: npt.NDArray[np.int64], seed: int | None) -> Latents:
        assert self.latents is not None
        last = steps[steps < entry.length][-1]  # held, as the frames are
        return self.latents.window(entry, np.minimum(steps, last), seed)

    def _actions(self, group: h5py.Group, entry: DemoEntry, start: int) -> Tensor:
        pre = self.preprocessing
        first, last = start + entry.first_action, entry.length + entry.first_action
        raw = group["actions"][first : min(first + pre.action_horizon, last)][:, list(pre.action_dims)]
        raw = raw.astype(np.float64)
        padding = ((0, pre.action_horizon - len(raw)), (0, 0))
        padded = np.pad(raw, padding, mode="constant" if self.action_padding == "zero" else "edge")
        return pre.normalize_actions(torch.from_numpy(padded)).float()

    def _proprio(self, group: h5py.Group, steps: npt.NDArray[np.int64]) -> Tensor:
        """(O, P) at these steps, which may repeat the first."""
        pre = self.preprocessing
        assert pre.proprio_statistics is not None, "measured at set-up"
        stretch = slice(int(steps[0]), int(steps[-1]) + 1)
        rows = [self.reader.proprio(group, key, stretch)[steps - steps[0]] for key in pre.proprio]
        joined = torch.from_numpy(np.concatenate(rows, axis=1))
        return pre.proprio_statistics.normalize(joined).float()

    def _past_frames(self, group: h5py.Group, entry: DemoEntry, steps: npt.NDArray[np.int64]) -> Tensor:
        """Frames (V, O - 1, 3, S, S) uint8 at these steps, which may repeat the first."""
        return self._frames(group, entry, np.arange(steps[0], steps[-1] + 1))[:, steps - steps[0]]

    def _frames(self, group: h5py.Group, entry: DemoEntry, steps: npt.NDArray[np.int64]) -> Tensor:
        """Frames (V, T, 3, S, S) uint8 at these steps; the last one inside the demo stands in for later ones."""
        images = {}
        for camera in self.preprocessing.cameras:
            try:
                clip = read_frames(self.reader.pictures(group, camera), steps[steps < entry.length])
            except READ_ERRORS as error:
                key = self.reader.image_key(group, camera) or camera
                raise _unreadable(entry, steps[0], f"{why_not_read(group['obs'], key, error)}.") from error
            if held := len(steps) - len(clip):
                clip = np.concatenate([clip, *[clip[-1:]] * held])
            images[camera] = turn_upright(clip, entry.orientation)
        return self.preprocessing.stack(images).contiguous()


def _unreadable(entry: DemoEntry, step: int, why: str) -> UserError:
    return UserError(f"{entry}: step {step} cannot be read: {why}")


def read_frames(data: h5py.Dataset | EncodedPictures, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Read the frames at evenly spaced steps.

    One by one is fastest if a frame has its own chunk, or none: HDF5's own strided selections are 10 to 70 times
    slower. If one chunk holds the frames between, it is unpacked anyway, so the whole stretch is read once.
    """
    stride = int(steps[1] - steps[0]) if len(steps) > 1 else 1
    if stride == 1 or (data.chunks is not None and data.chunks[0] >= stride):
        stretch: npt.NDArray[np.uint8] = data[int(steps[0]) : int(steps[-1]) + 1]
        return stretch[::stride]
    return np.stack([data[int(step)] for step in steps])
