"""From demo files to batches: list, check, split, measure the actions, load."""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from datamodules.augmentation import PAPER_JITTER, ColourJitter
from datamodules.batch import Batch, Window
from datamodules.cached_windows import LatentCache
from datamodules.demo_set import DemoDraw, DemoSet, weigh_demos
from datamodules.demos import DemoEntry, ReadingSettings, common_size, used_dims
from datamodules.pictures import Orientation
from datamodules.preprocessing import Preprocessing
from datamodules.readers import READERS, DemoReader, LayoutName, PictureTiming
from datamodules.sampling import ResumableLoader, WindowSampler
from datamodules.statistics import ActionStatistics, ConstantActions, StatisticsMethod, padding_problem
from datamodules.validation import ValidationWindows, loader_without_windows, nothing_to_validate
from datamodules.windows import ActionPadding, WindowDataset
from files.errors import UserError


class DemoDataModule(LightningDataModule):
    """Stream windows of robot demos from HDF5 files. Use a subclass: it knows the layout and its defaults.

    Args:
        paths: Files, globs (``**`` too) or folders, one or several.
        cameras: Camera names, the lead camera first. None: the source's default.
        image_size: Pixels of a side to resize to. None: as recorded.
        num_frames: Frames a camera, the current one included.
        frame_stride: Steps between frames.
        action_horizon: Actions a window.
        action_dims: Which numbers of the recorded action to use. None: the source's default.
        instruction: What the robot was told, in place of what the files say.
        orientation: How the images are stored; they are turned upright. None: what the file says, or else the source's
            default.
        pictures_taken: Whether the picture of a step was taken before or after its action. Taken after it, a picture
            goes with the next action. None: what each file shows (docs/data.md); after it in LIBERO's official demos.
        action_padding: Past the end of a demo: raw zeros (published) or the last action.
        statistics: What actions are scaled by: minimum and maximum (published) or the 1 % and 99 % quantiles, of every
            demo that ``filter_key``, ``limit_demos`` and the two lists of tasks leave, held out or not; with
            ``action_demos`` of exactly these.
        constant_actions: A dimension that never changes is an error, or is predicted as 0 and put back.
        val_fraction: Share of each task's demos held out for validation; 0 for none.
        split_seed: Draws these demos.
        batch_size: Windows a batch and process.
        val_batch_size: The same for validation. None: ``batch_size``.
        num_workers: Reading processes.
        weights: Relative weight of a demo by its task or file name (without suffix); others have 1 (see
            ``WindowSampler``). None: every window once an epoch.
        colour_jitter: Strength in training; None switches it off.
        limit_demos: Only the first so many demos of each file.
        action_demos: Only so many demos of each task have actions: a stage that learns actions trains on these, while
            the video stage sees the videos of all. Demos held out for validation are the same whatever the number, and
            are not among them. None: all but those held out.
        video_demos: Only so many demos of each task for the video stage, the same ones. None: all but those held out.
        demo_seed: Draws both in one order per task, so that 5 lie within 10. None: ``split_seed``, so that training
            seeds compare on the same demos; studies give the training seed, so that their intervals count which demos
            one happens to have.
        filter_key: Only the demos of ``mask/<filter_key>``.
        video_only_tasks: Tasks that only the video stage learns from (the paper's generalisation study): their actions
            are neither trained on nor measured, and their demos are left out of a stage that learns actions.
        evaluation_only_tasks: Tasks that no stage learns from; demos of them, where there are any, are left out.
        latent_cache: Folder that `videopolicy cache` filled: latents are read in place of frames.
        num_observations: Moments that a policy sees, a step apart, the last being the current one.
        proprio: Keys under ``obs`` of vectors that it sees besides, such as ``robot0_eef_pos``, scaled by their ranges
            (quaternions as they are); in a rollout the simulator's of the same name without ``robot0_``.

    Attributes:
        train_set: Windows for training, after ``setup``.
        val_set: Windows for validation, after ``setup``; may be empty.
        validate_without_demos: Where no demo is held out, still give the trainer something to validate on its schedule:
            a batch of no windows.
        latents: The latent cache, after ``setup``, if one is used.
    """

    layout: ClassVar[LayoutName]
    default_cameras: ClassVar[tuple[str, ...]]
    default_action_dims: ClassVar[tuple[int, ...] | None] = None

    train_set: WindowDataset
    val_set: WindowDataset
    latents: LatentCache | None

    def __init__(
        self,
        paths: str | list[str],
        cameras: list[str] | None = None,
        image_size: int | None = None,
        num_frames: int = 8,
        frame_stride: int = 4,
        action_horizon: int = 32,
        action_dims: list[int] | None = None,
        instruction: str | None = None,
        orientation: Orientation | None = None,
        pictures_taken: PictureTiming | None = None,
        action_padding: ActionPadding = "zero",
        statistics: StatisticsMethod = "minmax",
        constant_actions: ConstantActions = "error",
        val_fraction: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 8,
        val_batch_size: int | None = None,
        num_workers: int = 0,
        weights: dict[str, float] | None = None,
        colour_jitter: ColourJitter | None = PAPER_JITTER,
        limit_demos: int | None = None,
        action_demos: int | None = None,
        video_demos: int | None = None,
        demo_seed: int | None = None,
        filter_key: str | None = None,
        video_only_tasks: list[str] | None = None,
        evaluation_only_tasks: list[str] | None = None,
        latent_cache: str | None = None,
        num_observations: int = 1,
        proprio: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.reader = self._make_reader()
        self.paths = paths
        self.cameras = list(self.default_cameras if cameras is None else cameras)
        self.image_size = image_size
        self.num_frames, self.frame_stride = num_frames, frame_stride
        self.action_horizon = action_horizon
        self.action_dims = action_dims
        self.instruction = instruction
        self.orientation: Orientation | None = orientation
        self.pictures_taken: PictureTiming | None = pictures_taken
        self.action_padding: ActionPadding = action_padding
        self.statistics: StatisticsMethod = statistics
        self.constant_actions: ConstantActions = constant_actions
        self.draw = DemoDraw(
            val_fraction, split_seed, action_demos, video_demos, split_seed if demo_seed is None else demo_seed
        )
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.num_workers = num_workers
        self.weights = weights
        self.colour_jitter = colour_jitter
        self.limit_demos = limit_demos
        self.filter_key = filter_key
        self.video_only_tasks = list(video_only_tasks or ())
        self.evaluation_only_tasks = list(evaluation_only_tasks or ())
        self.latent_cache, self.latents = latent_cache, None
        self.num_observations, self.proprio = num_observations, list(proprio or ())
        self._all_demos: DemoSet | None = None
        self._films: bool | None = None  # whether train_set and val_set were made for a stage that films
        self.validate_without_demos = False
        self._num_pictured = 0
        self._preprocessing: Preprocessing | None = None
        self._check_settings()

    def prepare_data(self) -> None:
        """Compute and store the action statistics in one process, before the others look for them."""
        self._statistics(self._dims())

    def setup(self, stage: str | None = None) -> None:
        """List, check and split the demos; the same in every process.

        Again for a stage that learns something else: one that learns actions gets no demos of ``video_only_tasks``, and
        so many of the others as ``action_demos`` says.

        Raises:
            UserError: The first thing found wrong with the files or settings.
        """
        films = self._learns_to_film()
        if self._preprocessing is None:
            dims = self._dims()
            self._preprocessing = Preprocessing(
                cameras=tuple(self.cameras),
                image_size=common_size(self.demos(), self.image_size),
                num_frames=self.num_frames,
                frame_stride=self.frame_stride,
                action_horizon=self.action_horizon,
                action_dims=dims,
                statistics=self._statistics(dims),
                num_observations=self.num_observations,
                proprio=tuple(self.proprio),
                proprio_statistics=self._demo_set().proprio_statistics(self.proprio) if self.proprio else None,
            )
        if self._films != films:
            self._choose(films, self._preprocessing)
            self._films = films
        module = None if self.trainer is None else self.trainer.lightning_module
        self.train_set.only_current = self.val_set.only_current = not getattr(module, "uses_future_frames", True)

    def _choose(self, films: bool, preprocessing: Preprocessing) -> None:
        """Split the demos that a stage learns from."""
        train, val = self.split(films)
        self._demo_weights(train)  # an unknown task in `weights` must fail here, not at the first epoch
        if self.latent_cache is not None:
            self.latents = LatentCache(self.latent_cache, self.latent_source(self.demos()), [*train, *val])
        self.train_set = self._windows(train, preprocessing)
        self.val_set = self._windows(val, preprocessing)

    @property
    def preprocessing(self) -> Preprocessing:
        """What a checkpoint must carry; sets up the data on first use."""
        self.setup()
        assert self._preprocessing is not None
        return self._preprocessing

    def demos(self) -> list[DemoEntry]:
        """Every demo that some stage learns from."""
        return self._demo_set().demos

    def split(self, films: bool) -> tuple[list[DemoEntry], list[DemoEntry]]:
        """Demos trained on and held out by a stage that films, or else by one that learns actions."""
        return self._demo_set().split(films)

    def latent_source(self, demos: Sequence[DemoEntry]) -> dict[str, Any]:
        """What the latents of these demos depend on besides their files and the networks."""
        return {
            "cameras": list(self.cameras),
            "image_size": common_size(demos, self.image_size),
            "orientation": _only(demo.orientation for demo in demos),
            "first_action": _only(demo.first_action for demo in demos) or None,  # None before there was the setting
            "colour_jitter": None if self.colour_jitter is None else asdict(self.colour_jitter),
        }

    @property
    def num_train_windows(self) -> int:
        """Windows of one epoch, over all ranks."""
        self.setup()
        return len(self.train_set)

    @property
    def tasks_by_use(self) -> dict[str, list[str]]:
        """Tasks by what is learned: actions (``learned``), videos alone (``video_only``), nothing (``unseen``)."""
        self.setup()
        learned = sorted(self._demo_set().tasks - set(self.video_only_tasks))
        return {"learned": learned, "video_only": self.video_only_tasks, "unseen": self.evaluation_only_tasks}

    def train_dataloader(self) -> DataLoader[Window]:
        """Shuffled (or weighted) windows; resumable mid-epoch."""
        # same on every rank, unlike torch.initial_seed() without seed_everything
        seed = int(os.environ.get("PL_GLOBAL_SEED", self.draw.split_seed))
        sampler = WindowSampler(self.train_set, seed, self._demo_weights(self.train_set.demos))
        return ResumableLoader(
            self.train_set,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=Batch.collate,
            pin_memory=self._on_gpu(),
            drop_last=len(sampler) >= self.batch_size,  # equal batches, unless there is not even one
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[Window] | list[DataLoader[Window]]:
        """All validation windows, each beginning of which represents the data."""
        if not len(self.val_set):
            return (
                loader_without_windows(self.trainer)
                if self.validate_without_demos
                else nothing_to_validate(self.trainer)
            )
        num_ranks = 1 if self.trainer is None else self.trainer.world_size
        at_once = self.val_batch_size * num_ranks
        num_pictured = math.ceil(self._num_pictured / at_once) * at_once  # a batch has frames, or it has none
        windows = ValidationWindows(self.val_set, self.draw.split_seed, num_pictured, num_ranks)
        return self._loader(windows, self.val_batch_size)

    def picture_windows(self, count: int) -> None:
        """Have the frames of the first so many validation windows read, over all ranks, where latents are cached.

        To be called before the loaders are made. Frames come with all windows of a batch that holds one of these.
        """
        self._num_pictured = count

    def test_dataloader(self) -> DataLoader[Window] | list[DataLoader[Window]]:
        """The validation windows: demos have no test split, rollouts are the test."""
        return self.val_dataloader()

    def window_loader(
        self,
        split: Literal["train", "val"],
        batch_size: int,
        only_current: bool = False,
        demos: Collection[DemoEntry] | None = None,
    ) -> DataLoader[Window]:
        """Every window of a split (or of some demos of it) once, in order, with all or only the current frames."""
        self.setup()
        windows = copy.copy(self.train_set if split == "train" else self.val_set)
        windows.latents, windows.features, windows.only_current = None, None, only_current
        wanted = [index for index in range(len(windows)) if demos is None or windows.locate(index)[0] in demos]
        return self._loader(Subset(windows, wanted), batch_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn bytes into floats in [-1, 1] on the device, and jitter their colours in training."""
        if not batch.has_frames:
            return batch
        past, clips = batch.past_frames, batch.frames
        clips = self.preprocessing.to_float(clips if past is None else torch.cat([past, clips], dim=2))
        if self.colour_jitter is not None and self.trainer is not None and self.trainer.training:
            clips = self.colour_jitter(clips, batch.seeds)
        if past is None:
            batch.frames = clips
        else:  # one draw for all of a camera's frames
            batch.past_frames, batch.frames = clips[:, :, : past.shape[2]], clips[:, :, past.shape[2] :]
        return batch

    def _make_reader(self) -> DemoReader:
        if not hasattr(self, "layout"):
            raise UserError(
                f"{type(self).__name__} does not know a layout; "
                "use RobosuiteDataModule, RoboCasaDataModule or LiberoDataModule."
            )
        return READERS[self.layout]()

    def _check_settings(self) -> None:
        positive = ("num_frames", "frame_stride", "action_horizon", "batch_size", "val_batch_size", "num_observations")
        values = {name: getattr(self, name) for name in (*positive, "image_size", "limit_demos")}
        values |= {"action_demos": self.draw.action_demos, "video_demos": self.draw.video_demos}
        for name, value in values.items():
            if value is not None and value < 1:
                raise UserError(f"data.init_args.{name} is {value}; it must be at least 1.")
        if not 0 <= self.draw.val_fraction < 1:
            raise UserError(f"data.init_args.val_fraction is {self.draw.val_fraction}; it must be from 0 to below 1.")
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise UserError(f"data.init_args.cameras is {self.cameras}; name at least one camera, each once.")
        if both := sorted(set(self.video_only_tasks) & set(self.evaluation_only_tasks)):
            raise UserError(
                f"data.init_args: {both} are in video_only_tasks and in evaluation_only_tasks; put each in one of them."
            )
        if any(weight < 0 for weight in (self.weights or {}).values()):
            raise UserError(f"data.init_args.weights is {self.weights}; weights must be 0 or more.")

    def _demo_set(self) -> DemoSet:
        if self._all_demos is None:
            reading = ReadingSettings(
                self.cameras,
                self.instruction,
                self.orientation,
                self.pictures_taken,
                self.filter_key,
                self.limit_demos,
                self.evaluation_only_tasks,
            )
            self._all_demos = DemoSet(self.paths, self.reader, reading, self.draw, self.video_only_tasks)
        return self._all_demos

    def _dims(self) -> tuple[int, ...]:
        return used_dims(self.demos(), self.action_dims, self.default_action_dims)

    def _learns_to_film(self) -> bool:
        """Whether the stage of the moment learns from pictures alone; without one, actions are learned."""
        module = None if self.trainer is None else self.trainer.lightning_module
        return not getattr(module, "learns_actions", True)

    def _demo_weights(self, demos: Sequence[DemoEntry]) -> list[float] | None:
        return None if self.weights is None else weigh_demos(demos, self.weights, known=self.demos())

    def _statistics(self, dims: tuple[int, ...]) -> ActionStatistics:
        statistics = self._demo_set().statistics(dims, self.statistics, self.constant_actions)
        if self.action_padding == "zero" and (problem := padding_problem(statistics, dims)):
            warnings.warn(problem, stacklevel=2)
        return statistics

    def _windows(self, demos: Sequence[DemoEntry], preprocessing: Preprocessing) -> WindowDataset:
        return WindowDataset(demos, preprocessing, self.reader, self.action_padding, self.latents)

    def _loader(self, windows: Dataset[Window], batch_size: int) -> DataLoader[Window]:
        return DataLoader(
            windows,
            batch_size=batch_size,
            shuffle=False,
            num_workers=self.num_workers,
            collate_fn=Batch.collate,
            pin_memory=self._on_gpu(),
            generator=torch.Generator(),  # or a pass over it would draw from the stream that training draws from
        )

    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"


def _only(values: Iterable[Any]) -> Any:  # noqa: ANN401 - any JSON value
    """The one value, or all different ones."""
    different = sorted(set(values))
    return different[0] if len(different) == 1 else different
