"""A LightningCLI for one stage: its config comes composed, its defaults are those that every run of a stage needs."""

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
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
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
from networks import NetworkError
from simulators import SimulatorError
from videopolicy.errors import CommandError
from videopolicy.experiment.command_line import CommandLine
from videopolicy.experiment.files import Config
from videopolicy.experiment.parser_messages import one_sentence
from videopolicy.experiment.run_directory import StageDirectory

# Imported, so that YAML may name classes bare.
BARE_NAMES = (_callbacks, _datamodules, _lightning_modules, _networks, _policies)
ROLLOUT = "SimulationRollout"


class StageCLI(LightningCLI):
    """Parse, and unless told otherwise instantiate, one stage.

    Every stage gets a progress bar, a learning-rate monitor, `LastCheckpoint`, `BestCheckpoint`, `CheckpointHandoff`
    (but for a joint stage, which hands nothing over), a TensorBoard logger into its folder and atomic checkpoints,
    unless its trainer config brings its own.

    Args:
        subcommand: ``fit``, ``validate`` or ``test``.
        config: The stage's composed config (`CommandLine.stage_config`).
        instantiate: False stops after parsing; `config_document` then has the complete config.

    Raises:
        CommandError: A key, class or value does not fit.
    """

    def __init__(self, subcommand: str, config: Mapping[str, Any], instantiate: bool = True) -> None:
        self.composed = dict(config)
        self._instantiate = instantiate
        _quieten()
        parser_kwargs = {"parser_mode": "omegaconf", "exit_on_error": False}
        super().__init__(
            save_config_callback=None,  # the command writes it where the run is, whatever the logger
            seed_everything_default=0,
            parser_kwargs={**parser_kwargs, **{name: dict(parser_kwargs) for name in self.subcommands()}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args={"subcommand": subcommand, subcommand: self.composed},
        )

    # --- parsing ------------------------------------------------------------------------------------------------------

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what belongs to a run rather than to the model, the data or the trainer."""
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
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_lightning_class_args(BestCheckpoint, "best_checkpoint")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - Lightning's signature
        """Parse the composed config; errors become one sentence."""
        subcommand = args["subcommand"]
        try:
            self.config = parser.parse_object(args)
        except (ArgumentError, TypeError, ValueError) as error:
            known = list(self._subcommand_parsers[subcommand].get_defaults(skip_validation=True).keys())
            raise CommandError(one_sentence(str(getattr(error, "message", error)), known)) from error
        config = self.config[subcommand] = _plain(self.config[subcommand])
        if config.best_checkpoint.monitor is None and _rolls_out(config.trainer):
            config.best_checkpoint.monitor, config.best_checkpoint.mode = "rollout/success_rate", "max"

    def _parse_ckpt_path(self) -> None:
        """Leave the config as the files say; Lightning would overwrite it with a checkpoint's hyperparameters."""

    @property
    def config_document(self) -> Config:
        """The complete config of the stage, defaults included, as plain YAML values."""
        parser = self._subcommand_parsers[str(self.config["subcommand"])]
        text = parser.dump(self.config[self.config["subcommand"]], skip_unset=False, skip_validation=True)
        document: Config = yaml.safe_load(text)
        return document

    # --- instantiating ------------------------------------------------------------------------------------------------

    def parts(self) -> tuple[Any, Any]:
        """Model and datamodule alone, built anew; neither trainer nor callbacks."""
        built = self._built("model", "data")
        return built.model, built.data

    def data_alone(self) -> Any:  # noqa: ANN401 - whatever datamodule the config names
        """The datamodule alone, built anew."""
        return self._built("data").data

    def _built(self, *names: str) -> Any:  # noqa: ANN401 - jsonargparse's namespace of built objects
        config = self.config[str(self.config["subcommand"])]
        parser = self._subcommand_parsers[str(self.config["subcommand"])]
        with own_reasons():
            return parser.instantiate_classes(Namespace(**{name: config[name] for name in names}))  # type: ignore[no-untyped-call]

    def _set_seed(self) -> None:
        if self._instantiate:
            super()._set_seed()

    def instantiate_classes(self) -> None:
        """Build model, data and trainer."""
        if self._instantiate:
            with own_reasons():
                super().instantiate_classes()

    @property
    def directory(self) -> StageDirectory:
        """The stage's folder in the run directory."""
        return StageDirectory(Path(self.composed["run_dir"]), self.composed["stage"])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - Lightning's signature
        """Fill in the defaults that depend on the run directory."""
        config = self._get(self.config_init, "trainer")
        folder = self.directory.path if self.subcommand == "fit" else self.directory.path / str(self.subcommand)
        if (given := config.get("default_root_dir")) is not None:
            raise CommandError(
                f"trainer.default_root_dir: is {given!r}, but a run has one folder for all its files; remove it and "
                f"say --run_dir {given}."
            )
        wanted: dict[str, Any] = {"default_root_dir": str(folder)}
        if config.get("logger") in (None, True):
            wanted["logger"] = TensorBoardLogger(str(folder), name="", version="")
        plugins = config.get("plugins") or []
        wanted["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        callbacks = config.get("callbacks") or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        config["callbacks"] = [*callbacks, *self._default_callbacks(config)]
        return super().instantiate_trainer(**{**wanted, **kwargs})

    def _default_callbacks(self, config: Mapping[str, Any]) -> list[Callback]:
        given = config.get("callbacks") or []
        kinds = [type(callback) for callback in (given if isinstance(given, list) else [given])]

        def wanted(kind: type[Callback]) -> bool:
            return not any(issubclass(other, kind) for other in kinds)

        defaults: list[Callback] = [FiniteTraining(), ResumedOptimizer()]
        if config.get("enable_progress_bar") is not False and wanted(ProgressBar):
            defaults.append(StageProgress(self.composed["stage"]))
        if config.get("logger") is not False and wanted(LearningRateMonitor):
            defaults.append(LearningRateMonitor(logging_interval="step"))
        if not isinstance(self.model, VideoStage | ActionStage):
            self._require_no_handoff(given=not wanted(CheckpointHandoff))
        elif wanted(CheckpointHandoff):
            defaults.append(
                CheckpointHandoff(self._get(self.config, "handoff") or str(self.directory.root / "handoff"))
            )
        return defaults

    def _require_no_handoff(self, given: bool) -> None:
        """A stage that trains all its networks itself passes over a handoff, so one is refused."""
        if given or self._get(self.config, "handoff"):
            key = "trainer.callbacks: CheckpointHandoff" if given else "handoff"
            raise CommandError(
                f"{key}: a {type(self.model).__name__} trains all its networks and neither reads nor writes a handoff; "
                "remove it."
            )

    @property
    def is_dry_run(self) -> bool:
        """Whether this is a ``fast_dev_run``, which leaves no files."""
        return is_dry_run(self.trainer)

    # --- running ------------------------------------------------------------------------------------------------------

    def _run_subcommand(self, subcommand: str) -> None:
        """Wait for `execute`: building a stage and running it are two things."""

    def execute(self, ckpt_path: str | Path | None) -> None:
        """Run the subcommand.

        Args:
            ckpt_path: Checkpoint to go on from or to judge, where the config names none.
        """
        arguments = self._prepare_subcommand_kwargs(str(self.subcommand))
        given = arguments.get("ckpt_path") or ckpt_path
        arguments["ckpt_path"] = str(Path(given).expanduser()) if given else None
        arguments["weights_only"] = True  # FSDP reads past AtomicCheckpointIO
        getattr(self.trainer, str(self.subcommand))(**arguments)

    def on_start(self, write: Callable[[], None]) -> None:
        """Have something written once the run has begun: a start that was refused leaves no trace."""
        self.trainer.callbacks.append(Started(write))  # type: ignore[attr-defined]


class HelpCLI(StageCLI):
    """Print what ``fit --help`` or ``fit --data.help CLASS`` asks for and end the process.

    Args:
        arguments: Such a command line.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        LightningCLI.__init__(
            self, parser_kwargs={"prog": "lightning"}, auto_configure_optimizers=False, args=list(arguments)
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - Lightning's signature
        """Let jsonargparse print and exit."""
        parser.parse_args(args)


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
        while reason is not None and not isinstance(reason, NetworkError | UserError | SimulatorError):
            reason = reason.__cause__
        if reason is None or reason is error:
            raise
        raise type(reason)(str(reason)) from None  # anew: the reason itself would be its own context


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


def _rolls_out(trainer: Mapping[str, Any]) -> bool:
    given = trainer.get("callbacks") or []
    entries = given if isinstance(given, list) else [given]
    return any(str(entry.get("class_path", "")).endswith(ROLLOUT) for entry in entries)


def instantiate_stage(
    configs: Sequence[str | Path],
    stage: str,
    overrides: Sequence[tuple[str, Any]] = (),
    run_dir: str | Path | None = None,
) -> StageCLI:
    """Build a stage as `lightning fit` would, without running it.

    Args:
        configs: Experiment files, merged left to right.
        stage: The stage.
        overrides: Dotted keys and values, as on the command line.
        run_dir: The run directory; by default the experiment's.

    Returns:
        A CLI with ``model``, ``datamodule``, ``trainer`` and, for a run, ``execute``.
    """
    line = CommandLine(
        "fit",
        configs=[str(path) for path in configs],
        overrides=list(overrides),
        stage=stage,
        run_dir=None if run_dir is None else str(run_dir),
    )
    return StageCLI("fit", line.stage_config(line.experiment(), stage))
