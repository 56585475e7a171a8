"""A run that goes on: what the optimizer remembers comes from the checkpoint, how it is set comes from the config."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from files.errors import UserError


class ResumedOptimizer(Callback):
    """Let the config's learning rate, weight decay, betas and schedule hold when a run goes on.

    torch restores them from the checkpoint, so that a changed config would be read, listed and ignored, and a cosine
    whose end was moved would rise again. Here a checkpoint gives the optimizer's moments only. The schedule is made
    anew from the config and stepped to where the run stands: its rate at step k is that of a run which had this config
    from the start, whatever its class, bit for bit where nothing was changed.

    Another optimizer class, or a setting under which it remembers something else (``amsgrad``), cannot be gone on with.

    Raises:
        UserError: The optimizer is another one than the checkpoint's.
    """

    def __init__(self) -> None:
        self._settings: list[list[dict[str, Any]]] = []  # an optimizer, a parameter group: as the config makes them
        self._saved: dict[str, Any] | None = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember what the checkpoint was made with; keep its schedules from being restored."""
        if trainer.state.fn != "fit" or "optimizer_states" not in checkpoint:
            return
        own = checkpoint.get("callbacks", {}).get(self.state_key, {})
        self._saved = {
            "classes": own.get("classes"),
            "schedules": checkpoint.get("lr_schedulers") or [],
            "groups": [state.get("param_groups", []) for state in checkpoint["optimizer_states"]],
            "step": checkpoint["global_step"],
            "epoch": checkpoint["epoch"],
        }
        checkpoint["lr_schedulers"] = []
        self._require_same_classes(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember what the config says, before the checkpoint's numbers replace it."""
        self._settings = [
            [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]
        self._require_same_classes(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is restored: put the config's settings back and bring the schedules to this step."""
        if self._saved is None:
            return
        for optimizer, groups, saved in zip(trainer.optimizers, self._settings, self._saved["groups"], strict=True):
            _require_same_state(optimizer, groups, saved)
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                for name in set(group) - set(settings) - {"params"}:
                    del group[name]  # initial_lr of a schedule that the config has no longer
                group.update(settings)
        for index, config in enumerate(trainer.lr_scheduler_configs):
            states = self._saved["schedules"]
            done = states[index].get("last_epoch") if index < len(states) else None
            if done is None:
                done = self._saved["step"] if config.interval == "step" else self._saved["epoch"]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that no step of the optimizer came between two of the schedule
                for _ in range(done):
                    config.scheduler.step()  # type: ignore[call-arg]
        self._saved = None

    def state_dict(self) -> dict[str, Any]:
        """Which optimizers these are; their own state does not say."""
        return {"classes": self._classes}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing is known of the optimizers yet."""
        self._classes: list[str] = []

    def _require_same_classes(self, trainer: Trainer) -> None:
        """Compare as soon as both sides are known: a strategy may restore before or after it makes the optimizers."""
        if not self._settings:
            return
        self._classes = [_name(optimizer) for optimizer in trainer.optimizers]
        if self._saved is None:
            return
        saved = self._saved["classes"] or [_guess(groups, trainer) for groups in self._saved["groups"]]
        if saved != self._classes:
            raise UserError(_refusal(", ".join(saved), ", ".join(self._classes)))


def _name(optimizer: Optimizer) -> str:
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def _guess(groups: list[dict[str, Any]], trainer: Trainer) -> str:
    """The optimizer of a checkpoint that does not name it: the configured one, if its settings have these names."""
    names = set(groups[0]) - {"params", "initial_lr"} if groups else set()
    for optimizer in trainer.optimizers:
        if names <= set(optimizer.param_groups[0]):
            return _name(optimizer)
    return f"an optimizer with {', '.join(sorted(names))}"


def _require_same_state(optimizer: Optimizer, wanted: list[dict[str, Any]], saved: list[dict[str, Any]]) -> None:
    """Refuse settings under which the optimizer would remember other things than the checkpoint holds."""
    changed = {
        name
        for settings, before in zip(wanted, saved, strict=True)
        for name, value in settings.items()
        if name in before and name not in ("lr", "initial_lr") and not _same(before[name], value)
    }
    remembered = next(((w, s) for w, s in optimizer.state.items() if s), None)
    if not changed or remembered is None:
        return
    weight, state = remembered
    if set(state) != (needed := _state_names(optimizer, wanted[0], weight)):
        said = ", ".join(f"{name} {wanted[0][name]!r}" for name in sorted(changed & set(wanted[0])))
        raise UserError(_refusal(f"a state of {sorted(state)}", f"one of {sorted(needed)} ({said})"))


def _state_names(optimizer: Optimizer, settings: Mapping[str, Any], weight: torch.Tensor) -> set[str]:
    """What the optimizer with these settings remembers of a weight, found by a step on a weight of zeros."""
    twin = torch.nn.Parameter(torch.zeros_like(weight))
    twin.grad = torch.zeros_like(twin)
    taken = set(inspect.signature(type(optimizer)).parameters)
    probe = type(optimizer)([twin], **{name: value for name, value in settings.items() if name in taken})
    probe.step()
    return set(probe.state[twin])


def _same(a: Any, b: Any) -> bool:  # noqa: ANN401 - settings of an optimizer
    return (list(a) if isinstance(a, tuple) else a) == (list(b) if isinstance(b, tuple) else b)


def _refusal(saved: str, configured: str) -> str:
    return (
        f"model.optimizer: the checkpoint was trained with {saved}, the config says {configured}, which cannot go on "
        "from it; set it as it was, or begin anew with the weights: another --run_dir and --ckpt_path "
        "checkpoints/best.ckpt of this run."
    )
