"""The folder of one run: what was run, where each stage stands, and who is using it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from files.errors import UserError
from files.locks import HeldError, hold_folder
from files.writing import write_text
from videopolicy.experiment.files import Config
from videopolicy.experiment.named_callbacks import with_named_callbacks

LIMITS = ("max_steps", "max_epochs", "max_time")  # what says when a stage is finished
FINISHED = "finished.json"
HANDOFF = "handoff.json"
_locks: dict[Path, FileLock] = {}  # kept until the process ends


def is_rank_zero() -> bool:
    """Whether this process writes files, known from the launcher's environment before any Trainer exists.

    `launch.settle_rank` has taken away by then what belongs to no launcher.
    """
    ranks = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


class StageDirectory:
    """One stage's part of a run directory.

    Holds ``config.yaml`` (complete), ``versions.json``, ``checkpoints/last.ckpt`` and ``best.ckpt``, TensorBoard
    events, and once the stage has reached its limit ``finished.json``.

    Args:
        root: The run directory.
        stage: ``video``, ``action`` or ``joint``.
    """

    def __init__(self, root: Path, stage: str) -> None:
        self.root = root
        self.stage = stage
        self.path = root / stage
        self.config = self.path / "config.yaml"
        self.versions = self.path / "versions.json"
        self.last = self.path / "checkpoints" / "last.ckpt"
        self.best = self.path / "checkpoints" / "best.ckpt"

    # --- use ----------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the folder and lock it until this process ends; only rank 0 does anything.

        Raises:
            UserError: The folder cannot be written, or another process trains in it.
        """
        if not is_rank_zero():
            return
        if self.path.resolve() in _locks:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _locks[self.path.resolve()] = hold_folder(self.path)
        except HeldError as error:
            raise UserError(
                f"{self.path}: the run directory is in use by {error.holder}; wait for it, stop it, or give another "
                "folder with --run_dir."
            ) from error
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); give another folder with --run_dir."
            ) from error

    def release(self) -> None:
        """Give the lock back; the end of the process does it too."""
        if (lock := _locks.pop(self.path.resolve(), None)) is not None:
            lock.release()

    # --- where the stage stands -----------------------------------------------------------------------------------

    def finished(self) -> dict[str, Any] | None:
        """What was recorded when the stage last reached its limits, if what it trained is still there."""
        path = self.path / FINISHED
        if not path.is_file():
            return None
        record: dict[str, Any] = json.loads(path.read_text())
        whole = self.last.is_file() or record.get("global_step") == 0  # a stage without steps saves no checkpoint
        return record if whole else None

    def mark_finished(self, config: Mapping[str, Any], **facts: object) -> None:
        """Record that the stage reached the limits of this config; atomic."""
        record = {"limits": limits(config), **facts}
        write_text(self.path / FINISHED, json.dumps(record, indent=2))

    def checkpoint(self) -> Path:
        """The checkpoint to judge: the best one, else the last.

        Raises:
            UserError: The stage has none yet.
        """
        for path in (self.best, self.last):
            if path.is_file():
                return path
        raise UserError(
            f"{self.last.parent}: no checkpoint of the {self.stage} stage; train it first or give one with --ckpt_path."
        )

    def handoff_manifest(self, config: Mapping[str, Any]) -> Path:
        """Manifest of the handoff between the stages: the one the config names, or the run's own."""
        return Path(config.get("handoff") or self.root / "handoff").expanduser() / "manifest.json"

    def require_same_handoff(self, manifest: Path) -> None:
        """Refuse to go on with an action stage under which the video network was replaced.

        Raises:
            UserError: Its checkpoint was trained on another handoff.
        """
        record = self.path / HANDOFF
        if not (manifest.is_file() and record.is_file() and self.last.is_file()):
            return  # nothing to compare; a handoff that is missing is the callback's to say
        if json.loads(manifest.read_text())["sha256"] != json.loads(record.read_text())["sha256"]:
            raise UserError(
                f"{self.last}: was trained on another video network than {manifest.parent} holds now (SHA-256 differs "
                f"from {record}); remove {self.path} to train the action stage anew, or give another --run_dir."
            )

    def record_handoff(self, manifest: Path) -> None:
        """Remember which video network this action stage is trained on."""
        if manifest.is_file():
            sha256 = json.loads(manifest.read_text())["sha256"]
            write_text(self.path / HANDOFF, json.dumps({"folder": str(manifest.parent), "sha256": sha256}))

    def record_config(self, document: Mapping[str, Any]) -> None:
        """Remember the complete config of this start."""
        write_text(self.config, yaml.safe_dump(dict(document), sort_keys=False))

    def recorded_config(self) -> Config | None:
        """The complete config of the last start, if there was one."""
        if not self.config.is_file():
            return None
        return with_named_callbacks(yaml.safe_load(self.config.read_text()))


def limits(config: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer settings that end a stage."""
    trainer = config.get("trainer") or {}
    return {name: trainer[name] for name in LIMITS if trainer.get(name) is not None}


def write_experiment(root: Path, experiment: Mapping[str, Any]) -> None:
    """Record the merged experiment as ``config.yaml`` at the top of the run directory."""
    text = "# The merged experiment of this run; `lightning fit -c` takes it.\n"
    write_text(root / "config.yaml", text + yaml.safe_dump(dict(experiment), sort_keys=False))
