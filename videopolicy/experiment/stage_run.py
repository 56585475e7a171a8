"""One stage of an experiment: its config checked against the classes that it names, its parts, and its run."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

import callbacks as _callbacks
import datamodules as _datamodules
import lightning_modules as _lightning_modules
import networks as _networks
import policies as _policies
from callbacks import CheckpointHandoff
from callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from callbacks.finite_training import FiniteTraining
from callbacks.progress import StageProgress
from callbacks.resumed_optimizer import ResumedOptimizer
from callbacks.run_checkpoints import BestCheckpoint, LastCheckpoint, is_dry_run
from files.errors import UserError
from lightning_modules import ActionStage, VideoStage
from simulators import SimulatorError
from videopolicy.experiment.files import Config
from videopolicy.experiment.named_callbacks import NAMED_CALLBACKS
from videopolicy.experiment.parser_messages import one_sentence
from videopolicy.experiment.run_directory import StageDirectory

# Imported, so that YAML may name classes bare.
BARE_NAMES = (_callbacks, _datamodules, _lightning_modules, _networks, _policies)
NAMED = {key: getattr(_callbacks, path.rpartition(".")[2]) for key, path in NAMED_CALLBACKS.items()}


def stage_parser(subcommand: str, named: Sequence[str], **arguments: Any) -> ArgumentParser:  # noqa: ANN401
    """A parser of one stage's config.

    Args:
        subcommand: ``fit``, ``validate`` or ``test``.
        named: The keys of `NAMED_CALLBACKS` that are turned on.
        arguments: Of the parser.
    """
    parser = ArgumentParser(parser_mode="omegaconf", **arguments)
    parser.add_argument(
        "--seed_everything", type=bool | int, default=0, help="Seed of the run; true draws one, false sets none."
    )
    parser.add_argument(
        "--stage", type=Literal["video", "action", "joint"] | None, default=None, help="Run this stage only."
    )
    parser.add_argument(
        "--run_dir",
        type=str | None,
        default=None,
        help="Folder of the run, gone on with if it was interrupted (default: runs/<name of the experiment file>).",
    )
    parser.add_argument(
        "--handoff",
        type=str | None,
        default=None,
        help="Folder through which the video network reaches the action stage (default: <run_dir>/handoff).",
    )
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True)
    parser.add_class_arguments(LastCheckpoint, "last_checkpoint", sub_configs=True)
    parser.add_class_arguments(BestCheckpoint, "best_checkpoint", sub_configs=True)
    for key in named:
        parser.add_class_arguments(NAMED[key], key, sub_configs=True)
    parser.add_subclass_arguments(LightningModule, "model", fail_untyped=False, required=True)
    parser.add_subclass_arguments(LightningDataModule, "data", fail_untyped=False, required=True)
    own = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
    parser.add_method_arguments(Trainer, subcommand, skip=own)
    return parser


class StageRun:
    """A stage whose config is checked at once, and which is built and run when asked.

    Every stage gets a progress bar, a learning-rate monitor, `LastCheckpoint`, `BestCheckpoint`, `CheckpointHandoff`
    (but for a joint stage, which hands nothing over), a TensorBoard logger into its folder and atomic checkpoints,
    unless its trainer config brings its own.

    Args:
        config: The stage's composed config (`CommandLine.stage_config`).
        subcommand: ``fit``, ``validate`` or ``test``.

    Attributes:
        composed: The config as given.
        config: The config with every default.
        model: The stage, once it is built, and so `datamodule` and `trainer`.

    Raises:
        UserError: A key, class or value does not fit.
    """

    model: Any
    datamodule: Any
    trainer: Trainer

    def __init__(self, config: Mapping[str, Any], subcommand: str = "fit") -> None:
        _quieten()
        self.subcommand = subcommand
        self.composed = dict(config)
        on = [key for key in NAMED if config.get(key) is not None]
        self.parser = stage_parser(subcommand, on, exit_on_error=False)
        try:
            given = {key: value for key, value in self.composed.items() if key in on or key not in NAMED}
            self.config = _plain(self.parser.parse_object(_as_the_demos_show(given)))
        except (ArgumentError, TypeError, ValueError) as error:
            known = [*NAMED, *self.parser.get_defaults(skip_validation=True).keys()]
            raise UserError(one_sentence(str(getattr(error, "message", error)), known)) from error
        if self.config.best_checkpoint.monitor is None and "rollout" in on:
            self.config.best_checkpoint.monitor, self.config.best_checkpoint.mode = "rollout/success_rate", "max"

    @property
    def document(self) -> Config:
        """The complete config of the stage, defaults included, as plain YAML values."""
        text = self.parser.dump(self.config, skip_unset=False, skip_validation=True)
        document: Config = yaml.safe_load(text)
        return document | {key: None for key in NAMED if key not in document}

    # --- building -----------------------------------------------------------------------------------------------------

    def built(self, *names: str) -> Any:  # noqa: ANN401 - jsonargparse's namespace of built objects
        """Some parts of the config built anew, by their keys."""
        parser = stage_parser(self.subcommand, [key for key in NAMED if key in names])  # or it would build them all
        with own_reasons():
            return parser.instantiate_classes(Namespace(**{name: self.config[name] for name in names}))  # type: ignore[no-untyped-call]

    def parts(self) -> tuple[Any, Any]:
        """Model and datamodule alone, built anew; neither trainer nor callbacks."""
        built = self.built("model", "data")
        return built.model, built.data

    def data_alone(self) -> Any:  # noqa: ANN401 - whatever datamodule the config names
        """The datamodule alone, built anew."""
        return self.built("data").data

    def build(self) -> None:
        """Build model, data, callbacks and trainer."""
        seed = self.config.seed_everything
        if seed is not False:
            self.config.seed_everything = seed_everything(None if seed is True else seed, workers=True)
        on = [key for key in NAMED if key in self.config]
        built = self.built("model", "data", "trainer", "last_checkpoint", "best_checkpoint", *on)
        self.model, self.datamodule = built.model, built.data
        given = built.trainer.callbacks or []
        own = [*(given if isinstance(given, list) else [given]), *(built[key] for key in on)]
        last = [built.last_checkpoint, built.best_checkpoint]
        arguments = {**built.trainer.as_dict(), **self._trainer_defaults(built.trainer)}
        arguments["callbacks"] = [*own, *self._default_callbacks(built.trainer, own), *last]
        with own_reasons():
            self.trainer = Trainer(**arguments)

    @property
    def directory(self) -> StageDirectory:
        """The stage's folder in the run directory."""
        return StageDirectory(Path(self.composed["run_dir"]), self.composed["stage"])

    def _trainer_defaults(self, config: Namespace) -> dict[str, Any]:
        """What depends on the run directory."""
        folder = self.directory.path if self.subcommand == "fit" else self.directory.path / self.subcommand
        if (given := config.default_root_dir) is not None:
            raise UserError(
                f"trainer.default_root_dir: is {given!r}, but a run has one folder for all its files; remove it and "
                f"say --run_dir {given}."
            )
        wanted: dict[str, Any] = {"default_root_dir": str(folder)}
        if config.logger in (None, True):
            wanted["logger"] = TensorBoardLogger(str(folder), name="", version="")
        plugins = config.plugins or []
        wanted["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        return wanted

    def _default_callbacks(self, config: Namespace, given: Sequence[Callback]) -> list[Callback]:
        def wanted(kind: type[Callback]) -> bool:
            return not any(isinstance(other, kind) for other in given)

        defaults: list[Callback] = [FiniteTraining(), ResumedOptimizer()]
        if config.enable_progress_bar is not False and wanted(ProgressBar):
            defaults.append(StageProgress(self.composed["stage"]))
        if config.logger is not False and wanted(LearningRateMonitor):
            defaults.append(LearningRateMonitor(logging_interval="step"))
        if not isinstance(self.model, VideoStage | ActionStage):
            self._require_no_handoff(given=not wanted(CheckpointHandoff))
        elif wanted(CheckpointHandoff):
            defaults.append(CheckpointHandoff(self.config.handoff or str(self.directory.root / "handoff")))
        return defaults

    def _require_no_handoff(self, given: bool) -> None:
        """A stage that trains all its networks itself passes over a handoff, so one is refused."""
        if given or self.config.handoff:
            key = "trainer.callbacks: CheckpointHandoff" if given else "handoff"
            raise UserError(
                f"{key}: a {type(self.model).__name__} trains all its networks and neither reads nor writes a handoff; "
                "remove it."
            )

    # --- running ------------------------------------------------------------------------------------------------------

    @property
    def is_dry_run(self) -> bool:
        """Whether this is a ``fast_dev_run``, which leaves no files."""
        return is_dry_run(self.trainer)

    def execute(self, ckpt_path: str | Path | None) -> None:
        """Run the subcommand.

        Args:
            ckpt_path: Checkpoint to go on from or to judge, where the config names none.
        """
        given = self.config.ckpt_path or ckpt_path
        arguments: dict[str, Any] = {"ckpt_path": str(Path(given).expanduser()) if given else None}
        arguments["weights_only"] = True  # FSDP reads past AtomicCheckpointIO
        if self.subcommand != "fit":
            arguments["verbose"] = self.config.verbose
        getattr(self.trainer, self.subcommand)(self.model, datamodule=self.datamodule, **arguments)

    def on_start(self, write: Callable[[], None]) -> None:
        """Have something written once the run has begun: a start that was refused leaves no trace."""
        self.trainer.callbacks.append(Started(write))  # type: ignore[attr-defined]


def print_help(subcommand: str, arguments: Sequence[str]) -> None:
    """Print what ``--help`` or ``--data.help CLASS`` asks for and end the process.

    Args:
        subcommand: ``fit``, ``validate`` or ``test``.
        arguments: Such an option.
    """
    stage_parser(subcommand, tuple(NAMED), prog=f"lightning {subcommand}").parse_args(list(arguments))


class Started(Callback):
    """Call a function once everything is restored, on the first rank.

    Args:
        write: What to call.
    """

    def __init__(self, write: Callable[[], None]) -> None:
        self._write: Callable[[], None] | None = write

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is restored by now."""
        if self._write is not None and trainer.is_global_zero and not is_dry_run(trainer):
            self._write()
            self._write = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A stage that had no step to train never started."""
        self.on_train_start(trainer, pl_module)


@contextmanager
def own_reasons() -> Iterator[None]:
    """Let a constructor's own sentence through, where jsonargparse wraps it in one that quotes the whole config."""
    try:
        yield
    except ValueError as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, UserError | UserError | SimulatorError):
            reason = reason.__cause__
        if reason is None or reason is error:
            raise
        raise type(reason)(str(reason)) from None  # anew: the reason itself would be its own context


def _as_the_demos_show(config: Config) -> Config:
    """Rollouts draw the data's cameras, and pictures of its size unless the protocol has one."""
    rollout = config.get("rollout")
    data = (config.get("data") or {}).get("init_args") or {}
    if not isinstance(rollout, Mapping) or not isinstance(protocol := rollout.get("protocol"), Mapping):
        return config
    simulator = {**(protocol.get("simulator") or {})}
    if data.get("cameras"):
        simulator["cameras"] = data["cameras"]
    if data.get("image_size"):
        simulator.setdefault("image_size", data["image_size"])
    return {**config, "rollout": {**rollout, "protocol": {"name": "training", **protocol, "simulator": simulator}}}


def _plain(value: Any) -> Any:  # noqa: ANN401 - any config value
    """Replace dataclass instances, which stand where a class's default is one, by mappings that a file can hold."""
    if isinstance(value, Namespace):
        return Namespace(**{key: _plain(item) for key, item in vars(value).items()})  # type: ignore[no-untyped-call]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def _quieten() -> None:
    """Silence what Lightning says of every run here, so that what it says of one run is seen."""
    for message in (
        ".*isinstance\\(treespec, LeafSpec\\).*",  # torch's deprecation inside Lightning
        ".*module\\(s\\) in eval mode at the start of training.*",  # the frozen networks
        ".*does not have many workers.*",  # num_workers is written in the data's config
        ".*exists and is not empty.*",  # a run that goes on
        "(?s).*was deprecated in v4.49.0.*",  # Lightning's own use of jsonargparse
        "(?s).*JsonargparseDeprecationWarning.*",
    ):
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: "Tip: " not in record.getMessage())
