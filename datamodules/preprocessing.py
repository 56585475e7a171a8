"""The one object through which training and rollout see images and actions alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from datamodules.statistics import ActionStatistics
from files.errors import UserError

ROBOT = "robot0_"  # before a simulator's name of a vector, where demos keep it
LATER = {"num_observations": 1, "proprio": [], "proprio_statistics": None}  # what older checkpoints do not say


@dataclass(frozen=True)
class Preprocessing:
    """What turns camera images and raw actions into network values and back; travels in every checkpoint.

    Attributes:
        cameras: V camera names, the lead camera first.
        image_size: S, height and width of every frame in pixels.
        num_frames: T frames a camera, the first being the current one.
        frame_stride: Steps between two frames.
        action_horizon: A actions a window.
        action_dims: Which D dimensions of the recorded action are used.
        statistics: Ranges of these D dimensions.
        num_observations: O moments that a policy sees, a step apart, the last being the current one.
        proprio: Keys under ``obs`` of the vectors that it sees besides; a simulator's names follow ``robot0_``.
        proprio_statistics: Ranges of these vectors' P numbers.
    """

    cameras: tuple[str, ...]
    image_size: int
    num_frames: int
    frame_stride: int
    action_horizon: int
    action_dims: tuple[int, ...]
    statistics: ActionStatistics
    num_observations: int = 1
    proprio: tuple[str, ...] = ()
    proprio_statistics: ActionStatistics | None = None

    @property
    def num_views(self) -> int:
        """V, the number of cameras."""
        return len(self.cameras)

    @property
    def action_dim(self) -> int:
        """D, the number of predicted action dimensions."""
        return len(self.action_dims)

    @property
    def proprio_dim(self) -> int:
        """P, the numbers of proprioception in an observation."""
        return 0 if self.proprio_statistics is None else self.proprio_statistics.action_dim

    def stack(self, images: Mapping[str, npt.NDArray[np.uint8]]) -> Tensor:
        """Gather the cameras in their order and bring them to the network's size.

        Args:
            images: Camera name to upright uint8 (..., H, W, 3); cameras that are not used are ignored.

        Returns:
            uint8 (V, ..., 3, S, S).

        Raises:
            UserError: A camera is missing, or an image is not square uint8 RGB.
        """
        if missing := [name for name in self.cameras if name not in images]:
            raise UserError(
                f"no image of camera {missing}; there are images of {sorted(images)}. "
                f"Render the cameras {list(self.cameras)} that the policy was trained with."
            )
        return torch.stack([self.resized(name, images[name]) for name in self.cameras])

    def to_float(self, frames: Tensor) -> Tensor:
        """Bytes 0..255 to float32 in [-1, 1]; the only place that sets the range."""
        return frames.float() / 127.5 - 1

    def to_uint8(self, frames: Tensor) -> Tensor:
        """Floats in [-1, 1] (clipped) to bytes 0..255."""
        return ((frames.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def normalize_actions(self, actions: Tensor) -> Tensor:
        """Raw actions (..., D) to the network's range."""
        return self.statistics.normalize(actions)

    def denormalize_actions(self, actions: Tensor) -> Tensor:
        """The network's actions (..., D) to raw ones."""
        return self.statistics.denormalize(actions)

    def join_proprio(self, vectors: Mapping[str, npt.NDArray[Any]]) -> Tensor:
        """A simulator's vectors of one moment as one normalised vector (P,).

        Args:
            vectors: Name, without ``robot0_``, to (n,); those that are not used are ignored.

        Raises:
            UserError: One is missing, or of another width than in the demos.
        """
        names = [key.removeprefix(ROBOT) for key in self.proprio]
        if missing := [name for name in names if name not in vectors]:
            raise UserError(
                f"no proprioception {missing}, which the policy was trained with (data.init_args.proprio: "
                f"{list(self.proprio)}); the simulator reports {sorted(vectors)}. Train with these, or without."
            )
        if self.proprio_statistics is None:
            return torch.empty(0)
        joined = torch.cat([torch.as_tensor(vectors[name], dtype=torch.float64) for name in names])
        return self.proprio_statistics.normalize(joined).float()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints, which are as before where a policy sees one observation's pictures."""
        later = {
            "num_observations": self.num_observations,
            "proprio": list(self.proprio),
            "proprio_statistics": self.proprio_statistics and self.proprio_statistics.to_dict(),
        }
        values = {key: value for key, value in asdict(self).items() if key not in later} | {
            "cameras": list(self.cameras),
            "action_dims": list(self.action_dims),
            "statistics": self.statistics.to_dict(),
        }
        return values if later == LATER else values | later

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Rebuild what ``to_dict`` returned.

        Raises:
            UserError: A key is missing or unknown: another version of this framework wrote it.
        """
        values = {**LATER, **values}
        _require_keys(cls, values, "preprocessing")
        _require_keys(ActionStatistics, values["statistics"], "preprocessing.statistics")
        own = values["proprio_statistics"]
        return cls(
            **{
                **values,
                "cameras": tuple(values["cameras"]),
                "action_dims": tuple(values["action_dims"]),
                "statistics": ActionStatistics.from_dict(values["statistics"]),
                "proprio": tuple(values["proprio"]),
                "proprio_statistics": None if own is None else ActionStatistics.from_dict(own),
            }
        )

    def resized(self, camera: str, images: npt.NDArray[np.uint8]) -> Tensor:
        """One camera's upright images (..., H, W, 3) as (..., 3, S, S).

        Raises:
            UserError: They are not square uint8 RGB.
        """
        height, width, channels = images.shape[-3:]
        if images.dtype != np.uint8 or channels != 3 or height != width:
            raise UserError(
                f"camera {camera}: images are {images.dtype} of {height}x{width}x{channels}; "
                "they must be square uint8 RGB, so render or convert them so."
            )
        frames = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3)
        if height == self.image_size:
            return frames
        flat = frames.reshape(-1, channels, height, width).float()
        # antialias: without it a 256 px frame shrunk to 64 keeps one pixel in sixteen
        small = functional.interpolate(flat, size=(self.image_size,) * 2, mode="bilinear", antialias=True)
        small = small.round().clamp(0, 255).to(torch.uint8)
        return small.reshape(*frames.shape[:-3], channels, self.image_size, self.image_size)


def _require_keys(cls: type, values: Mapping[str, Any], where: str) -> None:
    wanted = {field.name for field in fields(cls)}
    wrong = [f"key {name!r} unknown" for name in sorted(set(values) - wanted)]
    wrong += [f"key {name!r} missing" for name in sorted(wanted - set(values))]
    if wrong:
        raise UserError(
            f"The checkpoint was made by another version: {where}: {'; '.join(wrong)}. Use the version that made it "
            "(versions.json beside it names the commit), or train again."
        )
