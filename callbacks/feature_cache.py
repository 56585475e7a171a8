"""Video features of every window, computed once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from callbacks.handoff import handoff_state, state_sha256
from lightning_modules import ActionStage, Features


class FeatureCache(Callback):
    """Run the frozen video network once over all windows and let stage 2 train on what it said.

    With independent noise levels the features of a window never change: the network is frozen, its noise is one fixed
    draw and it sees the current frames only. They are kept as float16 memory maps (size on disk: windows x features x
    2 bytes) together with a fingerprint of network, data and settings, so that a resumed run finds them again. Frames
    are then not read at all. Colour jitter and condition dropout cannot apply; the callback says so where they are set.

    Args:
        folder: Where the memory maps are kept; each rank of a node shares them.
        batch_size: Windows per pass.
    """

    def __init__(self, folder: str, batch_size: int = 32) -> None:
        self.folder = Path(folder)
        self.batch_size = batch_size
        self._maps: dict[str, list[npt.NDArray[Any]]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a stage whose features are not fixed."""
        if not isinstance(pl_module, ActionStage):
            raise MisconfigurationException(
                f"FeatureCache needs features that never change, but {type(pl_module).__name__} trains the network "
                "that they come from; remove it, or move it to an action stage with noise_levels: independent."
            )
        if pl_module.noise_levels != "independent":
            raise MisconfigurationException(
                "FeatureCache needs model.init_args.noise_levels: independent; with shared levels the features change "
                "with every draw. Remove the callback or change noise_levels."
            )
        if pl_module.video_noise is not None:
            raise MisconfigurationException(
                "FeatureCache keeps features of one noise level, but model.init_args.video_noise draws a level for "
                "every window and step. Remove the callback or set video_noise: null."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute or find the features, measure their statistics, and stop reading frames."""
        assert isinstance(pl_module, ActionStage)
        if pl_module.condition_dropout or getattr(trainer.datamodule, "colour_jitter", None) is not None:  # type: ignore[attr-defined]
            rank_zero_warn(
                "FeatureCache: features are computed once, so data.init_args.colour_jitter and "
                "model.init_args.condition_dropout have no effect; set them to null and 0 to say so."
            )
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        fingerprint = self._fingerprint(pl_module, datamodule)
        if trainer.local_rank == 0 and not self._is_complete(fingerprint):
            (self.folder / "fingerprint.json").unlink(missing_ok=True)
            for split in ("train", "val"):
                self._fill(pl_module, datamodule, split)
            (self.folder / "fingerprint.json").write_text(json.dumps(fingerprint))
        trainer.strategy.barrier("feature cache")
        self._maps = {split: self._open(split) for split in ("train", "val")}
        standardizer = pl_module.standardizer
        if standardizer is not None and not standardizer.is_fitted:
            standardizer.fit(self._batches("train"))
        datamodule.read_frames = False
        pl_module.cached_features = lambda windows, training: self._lookup(pl_module, windows, training)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the module and the data back as they were."""
        assert isinstance(pl_module, ActionStage)
        pl_module.cached_features = None
        trainer.datamodule.read_frames = True  # type: ignore[attr-defined]

    def _lookup(self, stage: ActionStage, windows: Tensor, training: bool) -> Features:
        index = windows.cpu().numpy()
        maps = self._maps["train" if training else "val"]
        features = [torch.from_numpy(part[index]).to(stage.device, torch.float32) for part in maps]
        return stage.standardizer(features) if stage.standardizer is not None else features

    def _batches(self, split: str) -> Iterator[Features]:
        maps = self._maps[split]
        for start in range(0, len(maps[0]), self.batch_size):
            yield [torch.from_numpy(np.array(part[start : start + self.batch_size])).float() for part in maps]

    # --- files --------------------------------------------------------------------------------------------------

    def _fingerprint(self, stage: ActionStage, datamodule: Any) -> dict[str, Any]:  # noqa: ANN401
        steps = (
            {"video_steps": stage.video_steps, "video_sigma_end": stage.video_sigma_end} if stage.video_steps else {}
        )
        return steps | {
            "network": state_sha256(handoff_state(stage.video)),
            "taps": list(stage.taps),
            "video_sigma": stage.video_sigma,
            "data": stage.data.to_dict(),
            "demos": {split: _describe_demos(getattr(datamodule, f"{split}_set")) for split in ("train", "val")},
        }

    def _is_complete(self, fingerprint: dict[str, Any]) -> bool:
        path = self.folder / "fingerprint.json"
        return path.exists() and json.loads(path.read_text()) == json.loads(json.dumps(fingerprint))

    def _path(self, split: str, index: int) -> Path:
        return self.folder / f"{split}_{index}.npy"

    def _open(self, split: str) -> list[npt.NDArray[Any]]:
        count = len(list(self.folder.glob(f"{split}_*.npy")))
        return [np.load(self._path(split, index), mmap_mode="r") for index in range(count)]

    @torch.no_grad()
    def _fill(self, stage: ActionStage, datamodule: Any, split: str) -> None:  # noqa: ANN401
        loader = datamodule.window_loader(split, batch_size=self.batch_size)
        standardizer, stage.standardizer = stage.standardizer, None  # raw features are kept, statistics come after
        self.folder.mkdir(parents=True, exist_ok=True)
        maps: list[np.memmap[Any, Any]] = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
            for batch in progress.track(loader, total=len(loader), description=f"video features, {split}"):
                frames = stage.data.to_float(batch.frames[:, :, 0].to(stage.device))
                conditioning = stage.video.condition(frames, batch.instructions)
                features, _ = stage.imagine(conditioning)
                if not maps:
                    total = len(loader.dataset)
                    maps = [
                        np.lib.format.open_memmap(
                            self._path(split, index), mode="w+", dtype=np.float16, shape=(total, *feature.shape[1:])
                        )
                        for index, feature in enumerate(features)
                    ]
                for part, feature in zip(maps, features, strict=True):
                    part[batch.windows.numpy()] = feature.half().cpu().numpy()
        for part in maps:
            part.flush()
        stage.standardizer = standardizer


def _describe_demos(windows: Any) -> list[str]:  # noqa: ANN401
    """One line a demo, which changes when its file does."""
    return [f"{demo} {demo.length} {Path(demo.path).stat().st_mtime_ns}" for demo in windows.demos]
