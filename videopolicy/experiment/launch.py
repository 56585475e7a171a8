"""Which of how many processes this one is, where the environment and the config may say different things."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.mpi import MPIEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from files.errors import UserError

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK", "JSM_NAMESPACE_RANK")
LAUNCHERS = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)  # in Lightning's order


def settle_rank(trainer: Mapping[str, Any]) -> None:
    """Take rank variables out of the environment that belong to no launch of this run, and say so.

    A shell inside a cluster job, or one from which another program was started, may hold ``RANK=3`` or
    ``SLURM_PROCID=1``. Lightning and this command would then leave what rank 0 does (logs, config, lock) to a process
    that does not exist.

    Args:
        trainer: The stage's trainer config.

    Raises:
        UserError: A launcher did start several processes, but the trainer is of one.
    """
    launcher = next((kind for kind in LAUNCHERS if kind.detect()), None)
    if is_one_process(trainer):
        size = "SLURM_NTASKS" if launcher is SLURMEnvironment else "WORLD_SIZE"
        world = int(os.environ.get(size, "1"))
        others = {name: value for name in RANKS if (value := os.environ.get(name, "0")) != "0"}
        # SLURM names its tasks also in a batch script that starts one process, as rank 0
        if launcher is not None and world > 1 and (others or launcher is TorchElasticEnvironment):
            said = ", ".join(f"{name}={value}" for name, value in others.items()) or f"WORLD_SIZE={world}"
            raise UserError(
                f"{launcher.__name__.removesuffix('Environment')} started {world} processes ({said}), but "
                f"trainer.devices is {trainer.get('devices', 'auto')} with num_nodes {trainer.get('num_nodes') or 1}; "
                "set both to what was started (and trainer.strategy, for instance ddp), or start one process."
            )
        stray = [name for name in RANKS if launcher is None]
    elif launcher is None and "MASTER_PORT" not in os.environ:  # Lightning starts the processes; its children have one
        stray = list(RANKS)
    else:
        stray = []
    ignored = {name: os.environ.pop(name) for name in stray if name in os.environ}
    if set(ignored.values()) - {"0"}:
        said = ", ".join(f"{name}={value}" for name, value in ignored.items())
        print(f"lightning: warning: {said} is left in the environment by something else; ignored", file=sys.stderr)
    if ignored:
        rank_zero_only.rank = 0  # type: ignore[attr-defined]


def is_one_process(trainer: Mapping[str, Any]) -> bool:
    """Whether a trainer config asks for a single process."""
    if int(trainer.get("num_nodes") or 1) != 1:
        return False
    devices = trainer.get("devices")
    if isinstance(devices, list | tuple):
        return len(devices) == 1
    if isinstance(devices, str) and "," in devices:
        return len([number for number in devices.split(",") if number.strip()]) == 1
    if devices in (None, "auto", -1, "-1"):
        on_cpu = trainer.get("accelerator") in ("cpu", "mps") or not torch.cuda.is_available()
        return on_cpu or torch.cuda.device_count() == 1
    return str(devices) == "1"
