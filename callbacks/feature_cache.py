"""Video features of every window, computed once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.distributed import _InfiniteBarrier  # what Lightning's own prepare_data waits with
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from datamodules.cached_windows import CachedFeatures
from datamodules.demos import DemoEntry
from datamodules.frozen_cache import CacheWriter
from files.errors import UserError
from files.hashes import file_identity
from lightning_modules import ActionStage
from networks.component_config import plain_network
from networks.weight_hashes import fingerprint, state_sha256
from policies import Features, FixedLevel, VideoPolicy
from policies.video_inputs import conditioning_of

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


class FeatureCache(Callback):
    """Run the frozen video network once over all windows and let stage 2 train on what it said.

    With a `FixedLevel` the features of a window never change: the network is frozen, its noise is one fixed
    draw and it sees the current frames only. They are kept in float16 (size on disk: windows x features x 2 bytes),
    together with all that they depend on: weights of all parts, taps, levels, noise, cameras, picture size,
    orientation, demo files and instructions. A run that goes on finds them again; a run that differs replaces them.
    Frames are then not read at all, and the workers of the loaders read the features.

    What would be drawn anew in every step is not: colour jitter and condition dropout have no effect, and the noise on
    conditioning images (`condition_noise`) is one draw a window, from a seed that is the window's number. The callback
    says so where they are set.

    Args:
        folder: Where the features are kept. Processes that share it wait for the first to fill it, however long that
            takes; on a node with a disk of its own the first process there fills it.
        batch_size: Windows per pass.
    """

    def __init__(self, folder: str, batch_size: int = 32) -> None:
        self.folder = Path(folder)
        self.batch_size = batch_size

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a stage whose features are not fixed."""
        if not isinstance(pl_module, ActionStage) or not isinstance(pl_module.policy.features, FixedLevel):
            raise UserError(
                "FeatureCache needs features that never change: an action stage with model.init_args.features of class "
                f"FixedLevel; this is a {type(pl_module).__name__} whose features change with every draw. Remove the "
                "callback or change the features."
            )
        policy = pl_module.policy
        if policy.sampler.guidance != 1.0 and pl_module.num_predicted:
            raise UserError(
                "FeatureCache keeps no features without conditions, which the guidance "
                f"{policy.sampler.guidance} of model.init_args.sampler needs to sample the actions of "
                "val/action_error. Set guidance: 1 or "
                "num_predicted: 0, or remove the callback."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute or find the features, measure their statistics, and have them read in place of frames."""
        assert isinstance(pl_module, ActionStage)
        policy = pl_module.policy
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._warn_of_draws(policy, datamodule)
        key = feature_key(policy, datamodule)
        with _InfiniteBarrier():
            if trainer.is_global_zero:
                self._fill_unless_there(policy, datamodule, key)
        with _InfiniteBarrier():
            if trainer.local_rank == 0:  # finds them there, unless this node has a disk of its own
                self._fill_unless_there(policy, datamodule, key)
        for split in SPLITS:
            windows = _windows(datamodule, split)
            windows.features = CachedFeatures(self.folder, key, windows.demos) if len(windows) else None
        standardizer = policy.standardizer
        if standardizer is not None and not standardizer.is_fitted:
            standardizer.fit(_batches(datamodule.train_set, self.batch_size))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the data back as it was."""
        for split in SPLITS:
            _windows(trainer.datamodule, split).features = None  # type: ignore[attr-defined]

    def _warn_of_draws(self, policy: VideoPolicy, datamodule: Any) -> None:  # noqa: ANN401
        if policy.condition_dropout or getattr(datamodule, "colour_jitter", None) is not None:
            rank_zero_warn(
                "FeatureCache: features are computed once, so data.init_args.colour_jitter and "
                "model.init_args.condition_dropout have no effect; set them to null and 0 to say so."
            )
        if noise := policy.video.condition_noise:
            rank_zero_warn(
                f"FeatureCache: features are computed once, so the noise of condition_noise {noise} on a window's "
                "conditioning images is one draw, seeded by the window's number, and not a new one in every step; "
                "train without FeatureCache where that matters."
            )

    def _fill_unless_there(self, policy: VideoPolicy, datamodule: Any, key: dict[str, Any]) -> None:  # noqa: ANN401
        demos = [demo for split in SPLITS for demo in _windows(datamodule, split).demos]
        with suppress(UserError):  # none, not all, or of something else
            CachedFeatures(self.folder, key, demos)
            return
        views_and_frames = (policy.video.num_views, policy.video.num_frames)
        shapes = {
            f"tap{number}": (*views_and_frames, tap.channels, tap.height, tap.width)
            for number, tap in enumerate(policy.tap_shapes())
        }
        standardizer, policy.standardizer = policy.standardizer, None  # raw features are kept, statistics come after
        try:
            with CacheWriter(self.folder, key, demos, shapes, rebuild=True) as cache:
                if cache.replaced:
                    rank_zero_info(f"{self.folder}: features of something else are replaced: {cache.replaced}")
                for split in SPLITS:
                    self._fill(cache, policy, datamodule, split)
        finally:
            policy.standardizer = standardizer

    @torch.no_grad()
    def _fill(self, cache: CacheWriter, policy: VideoPolicy, datamodule: Any, split: Split) -> None:  # noqa: ANN401
        """Compute the features of the windows of a split that the cache lacks."""
        windows, missing = _windows(datamodule, split), set(cache.missing)
        loader = datamodule.window_loader(split, batch_size=self.batch_size, only_current=True, demos=missing)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
            for batch in progress.track(loader, total=len(loader), description=f"video features, {split}"):
                batch.frames = policy.data.to_float(batch.frames.to(policy.device))
                conditioning = conditioning_of(policy.video, batch, batch.windows.tolist())
                features = [feature.float().cpu().numpy() for feature in policy.features_of_noise(conditioning)[0]]
                places = enumerate(windows.locate(index) for index in batch.windows.tolist())
                for demo, members in groupby(places, key=_demo):
                    rows, steps = zip(*((row, step) for row, (_, step) in members), strict=True)
                    for number, feature in enumerate(features):
                        cache.write(demo, f"tap{number}", steps[0], feature[list(rows)])
                    if steps[-1] == demo.length - 1:
                        cache.finish(demo)


def _demo(place: tuple[int, tuple[DemoEntry, int]]) -> DemoEntry:
    return place[1][0]


def feature_key(policy: VideoPolicy, datamodule: Any) -> dict[str, Any]:  # noqa: ANN401 - a DemoDataModule
    """All that the features depend on, as JSON values."""
    source = datamodule.latent_source(datamodule.train_set.demos)
    key = {
        "kind": "features",
        "network": plain_network(policy.video.config),
        "weights": {name: fingerprint(part) for name, part in policy.video.named_children()},
        "taps": sorted(policy.taps, reverse=True),
        "levels": policy.feature_levels(),
        "features": type(policy.features).__name__,
        "noise": state_sha256({"noise": policy.fixed_noise(1)}),
        "data": {name: value for name, value in source.items() if name != "colour_jitter"},
        "windows": {split: _describe_windows(_windows(datamodule, split)) for split in SPLITS},
    }
    result: dict[str, Any] = json.loads(json.dumps(key))
    return result


def _describe_windows(windows: Any) -> dict[str, Any]:  # noqa: ANN401 - a WindowDataset
    """Which windows there are, in their order; changes when a demo file or an instruction does."""
    task_by_file = {demo.path: demo.task for demo in windows.demos}
    identity_by_file = {path: file_identity(path, task) for path, task in task_by_file.items()}
    digest = hashlib.sha256()
    for demo in windows.demos:
        described = dataclasses.asdict(demo) | {"path": identity_by_file[demo.path]}
        digest.update(json.dumps(described, sort_keys=True).encode())
    return {"demos": len(windows.demos), "windows": len(windows), "sha256": digest.hexdigest()}


def _windows(datamodule: Any, split: Split) -> Any:  # noqa: ANN401 - a WindowDataset of a DemoDataModule
    return datamodule.train_set if split == "train" else datamodule.val_set


def _batches(windows: Any, size: int) -> Iterator[Features]:  # noqa: ANN401 - a WindowDataset
    for start in range(0, len(windows), size):
        places = (windows.locate(index) for index in range(start, min(start + size, len(windows))))
        features = [windows.features.window(*place) for place in places]
        yield [torch.stack(tap).float() for tap in zip(*features, strict=True)]
