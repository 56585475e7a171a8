"""The adapter: from the video network's feature maps to one vector that conditions the action network."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from files.errors import UserError
from networks.video_network import TapShape


@dataclass(frozen=True)
class AdapterStage:
    """A few residual blocks in a row.

    Attributes:
        width: Output channels; a multiple of `expansion * num_groups`.
        num_groups: Groups of the two inner normalisations; the outer ones have `expansion` times as many.
        expansion: Output channels per channel of the 3x3x3 convolution.
        num_blocks: Residual blocks.
        time_stride: Stride of the first block over frames.
        space_stride: Stride of the first block over height and width.
    """

    width: int
    num_groups: int
    expansion: int = 4
    num_blocks: int = 2
    time_stride: int = 1
    space_stride: int = 1


PAPER_BRANCH = (AdapterStage(864, 8), AdapterStage(576, 6))
PAPER_MERGE = (
    AdapterStage(1280, 10),
    AdapterStage(960, 8),
    AdapterStage(720, 6),
    AdapterStage(540, 5),
    AdapterStage(420, 5),
    AdapterStage(420, 7, expansion=2),
    AdapterStage(420, 7, expansion=2),
    AdapterStage(420, 7, expansion=2, num_blocks=4, time_stride=2),
    AdapterStage(420, 7, expansion=2, num_blocks=4, time_stride=2),
    AdapterStage(420, 7, expansion=2, num_blocks=4, time_stride=2),
)


class CNNAdapter(nn.Module):
    """A branch a camera fuses its feature maps, fine to coarse; then the cameras are merged and time is folded up.

    In a branch, the stage of a tap brings the map to the size of the next tap, which is narrowed and joined to it.

    Args:
        taps: Shapes of the feature maps, fine to coarse (the taps in reverse order).
        num_views: Cameras.
        num_frames: Frames of a camera.
        emb_dim: Size of the noise-level embedding.
        tap_widths: Output channels of each tap's stage; None keeps the tap's own.
        entry_widths: Channels to which every tap but the first is narrowed; None is half the tap's own.
        tap_groups: `num_groups` of all these stages.
        branch_stages: Stages that end a camera's branch.
        merge_stages: Stages over all cameras together.
        norm_groups: Groups of the last normalisation.

    Shape:
        - features: a list of (B, V, T, C, h, w), in the order of `taps`
        - emb: (B, A, E): row t is for frame t, one row is for all; or (B, E)
        - output: (B, cond_dim)

    Attributes:
        cond_dim: Size of the output vector.
        map_shape: Channels, frames, height and width of the map that is flattened to it.
        config: The constructor's arguments.

    Raises:
        UserError: The maps do not shrink to one another, or the widths do not divide.
    """

    def __init__(
        self,
        taps: Sequence[TapShape],
        num_views: int,
        num_frames: int,
        emb_dim: int,
        *,
        tap_widths: Sequence[int] | None = None,
        entry_widths: Sequence[int] | None = None,
        tap_groups: int = 10,
        branch_stages: Sequence[AdapterStage] = PAPER_BRANCH,
        merge_stages: Sequence[AdapterStage] = PAPER_MERGE,
        norm_groups: int = 14,
    ) -> None:
        super().__init__()
        if not taps or num_views < 1 or num_frames < 1:
            raise UserError(
                f"adapter: {len(taps)} taps, {num_views} views and {num_frames} frames; give at least one of each."
            )
        self.config: dict[str, Any] = {
            "taps": list(taps),
            "num_views": num_views,
            "num_frames": num_frames,
            "emb_dim": emb_dim,
            "tap_widths": tap_widths and list(tap_widths),
            "entry_widths": entry_widths and list(entry_widths),
            "tap_groups": tap_groups,
            "branch_stages": list(branch_stages),
            "merge_stages": list(merge_stages),
            "norm_groups": norm_groups,
        }
        widths = list(tap_widths or [tap.channels for tap in taps])
        entries = list(entry_widths or [tap.channels // 2 for tap in taps[1:]])
        if len(widths) != len(taps) or len(entries) != len(taps) - 1:
            raise UserError(
                f"adapter: {len(taps)} taps need {len(taps)} tap_widths and {len(taps) - 1} entry_widths; "
                f"found {len(widths)} and {len(entries)}."
            )
        self.taps, self.num_views, self.num_frames = list(taps), num_views, num_frames
        strides = [_space_stride(fine, coarse) for fine, coarse in pairwise(taps)] + [1]
        tap_stages = [AdapterStage(w, tap_groups, space_stride=s) for w, s in zip(widths, strides, strict=True)]
        entry_stages = [AdapterStage(width, tap_groups) for width in entries]
        self.branches = nn.ModuleList(
            CameraBranch(taps, tap_stages, entry_stages, branch_stages, emb_dim) for _ in range(num_views)
        )
        width = num_views * (branch_stages[-1].width if branch_stages else widths[-1])
        self.merge = _stages(width, merge_stages, emb_dim)
        width = merge_stages[-1].width if merge_stages else width
        _require_divisible("the last width", width, norm_groups)
        self.norm = nn.GroupNorm(norm_groups, width)
        frames, height, width_px = num_frames, taps[-1].height, taps[-1].width
        for stage in (*branch_stages, *merge_stages):
            frames = -(-frames // stage.time_stride)
            height, width_px = -(-height // stage.space_stride), -(-width_px // stage.space_stride)
        self.map_shape = (width, frames, height, width_px)
        self.cond_dim = width * frames * height * width_px

    def forward(self, features: Sequence[Tensor], emb: Tensor) -> Tensor:
        """Return the conditioning vector; see the class for shapes."""
        return self.forward_map(features, emb).flatten(1)

    def forward_map(self, features: Sequence[Tensor], emb: Tensor) -> Tensor:
        """Return the map (B, *map_shape) before it is flattened."""
        self._check_features(features)
        rows = emb.unsqueeze(1) if emb.dim() == 2 else emb
        rows = rows.expand(-1, self.num_frames, -1) if rows.shape[1] == 1 else rows
        if rows.shape[1] < self.num_frames:
            raise UserError(
                f"adapter: the embedding has {rows.shape[1]} rows for {self.num_frames} frames; "
                "give one row a frame, or one for all."
            )
        videos = [feature.transpose(2, 3) for feature in features]  # (B, V, C, T, h, w)
        views = [branch([video[:, v] for video in videos], rows) for v, branch in enumerate(self.branches)]
        x = torch.cat(views, dim=1)
        for stage in self.merge:
            x = stage(x, rows)
        result: Tensor = self.norm(x)
        return result

    def _check_features(self, features: Sequence[Tensor]) -> None:
        wanted = [(self.num_views, self.num_frames, tap.channels, tap.height, tap.width) for tap in self.taps]
        if (found := [tuple(feature.shape[1:]) for feature in features]) != wanted:
            raise UserError(
                f"adapter: feature maps (V, T, C, h, w) of {found} found, built for {wanted}; "
                "give it the taps, cameras and frames of the video network in front of it."
            )


class CameraBranch(nn.Module):
    """Fuse one camera's feature maps, fine to coarse."""

    def __init__(
        self,
        taps: Sequence[TapShape],
        tap_stages: Sequence[AdapterStage],
        entry_stages: Sequence[AdapterStage],
        branch_stages: Sequence[AdapterStage],
        emb_dim: int,
    ) -> None:
        super().__init__()
        self.entries = nn.ModuleList(
            _Stage(tap.channels, stage, emb_dim) for tap, stage in zip(taps[1:], entry_stages, strict=True)
        )
        self.stages = nn.ModuleList([_Stage(taps[0].channels, tap_stages[0], emb_dim)])
        for before, entry, stage in zip(tap_stages, entry_stages, tap_stages[1:], strict=False):
            self.stages.append(_Stage(before.width + entry.width, stage, emb_dim))
        self.stages.extend(_stages(tap_stages[-1].width, branch_stages, emb_dim))

    def forward(self, features: Sequence[Tensor], emb: Tensor) -> Tensor:
        """Turn maps (B, C, T, h, w) into one of the coarsest size."""
        x: Tensor = self.stages[0](features[0], emb)
        for entry, stage, feature in zip(self.entries, self.stages[1:], features[1:], strict=False):
            x = stage(torch.cat([x, entry(feature, emb)], dim=1), emb)
        for stage in self.stages[len(features) :]:
            x = stage(x, emb)
        return x


class _Stage(nn.ModuleList):
    def __init__(self, in_channels: int, stage: AdapterStage, emb_dim: int) -> None:
        super().__init__()
        for i in range(stage.num_blocks):
            strides = (stage.time_stride, stage.space_stride, stage.space_stride) if i == 0 else (1, 1, 1)
            self.append(Bottleneck(in_channels if i == 0 else stage.width, stage, strides, emb_dim))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for block in self:
            x = block(x, emb)
        return x


class Bottleneck(nn.Module):
    """Residual 1x1x1, 3x3x3, 1x1x1 convolutions (He et al. 2016, in 3-D); the noise level shifts the first's output."""

    def __init__(self, in_channels: int, stage: AdapterStage, strides: tuple[int, int, int], emb_dim: int) -> None:
        super().__init__()
        inner, outer_groups = stage.width // stage.expansion, stage.expansion * stage.num_groups
        _require_divisible("a stage's width", stage.width, outer_groups)
        self.conv1 = nn.Sequential(
            nn.Conv3d(in_channels, inner, 1, bias=False), nn.GroupNorm(stage.num_groups, inner), nn.SiLU()
        )
        self.emb = nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, inner))
        self.conv2 = nn.Sequential(
            nn.Conv3d(inner, inner, 3, strides, 1, bias=False), nn.GroupNorm(stage.num_groups, inner), nn.SiLU()
        )
        last_norm = nn.GroupNorm(outer_groups, stage.width)
        nn.init.zeros_(last_norm.weight)  # the block starts as its shortcut (Goyal et al. 2017, section 5.1)
        self.conv3 = nn.Sequential(nn.Conv3d(inner, stage.width, 1, bias=False), last_norm)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != stage.width or max(strides) > 1:
            self.shortcut = nn.Sequential(
                nn.Conv3d(in_channels, stage.width, 1, strides, bias=False), nn.GroupNorm(outer_groups, stage.width)
            )
        self.act = nn.SiLU()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map (B, C, T, h, w) and the embedding rows (B, >=T, E)."""
        shift = self.emb(emb[:, : x.shape[2]]).transpose(1, 2)[..., None, None]  # (B, C, T, 1, 1)
        result: Tensor = self.act(self.conv3(self.conv2(self.conv1(x) + shift)) + self.shortcut(x))
        return result


def _stages(in_channels: int, stages: Sequence[AdapterStage], emb_dim: int) -> nn.ModuleList:
    built = nn.ModuleList()
    for stage in stages:
        built.append(_Stage(in_channels, stage, emb_dim))
        in_channels = stage.width
    return built


def _space_stride(fine: TapShape, coarse: TapShape) -> int:
    """Stride that brings the finer map to the size of the coarser one."""
    for stride in range(1, fine.height + 1):
        if (-(-fine.height // stride), -(-fine.width // stride)) == (coarse.height, coarse.width):
            return stride
    raise UserError(
        f"adapter: no stride brings a {fine.height}x{fine.width} map to {coarse.height}x{coarse.width}; "
        "give the taps from fine to coarse (the U-Net's positions in descending order)."
    )


def _require_divisible(name: str, width: int, num_groups: int) -> None:
    if width % num_groups or width == 0:
        raise UserError(
            f"adapter: {name} is {width}, not a multiple of its {num_groups} groups; "
            "change the width or the group count."
        )
