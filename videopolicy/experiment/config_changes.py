"""What differs between the config that a stage was started with and the one it is started with now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

ABSENT = "(absent)"
# Another run in the same folder, whatever else is equal: a run that goes on cannot change these halfway.
IDENTITY = ("seed_everything", "model.class_path", "data.class_path")
# What may differ between two starts without changing what is trained or how it is judged. Limits are compared apart.
FREE = {
    *("run_dir", "stage", "handoff", "ckpt_path", "config", "subcommand", "last_checkpoint"),
    *("features", "compile"),
    *(f"rollout.protocol.{name}" for name in ("name", "source", "episodes_per_task", "first_seed")),
    *("trainer.logger", "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.enable_checkpointing"),
    *("trainer.log_every_n_steps", "trainer.profiler", "trainer.default_root_dir", "trainer.plugins"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.benchmark"),
    *("trainer.detect_anomaly", "trainer.barebones", "trainer.fast_dev_run", "trainer.num_sanity_val_steps"),
    *("trainer.max_steps", "trainer.max_epochs", "trainer.max_time", "trainer.min_steps", "trainer.min_epochs"),
}
FREE_NAMES = {"num_workers", "gradient_checkpointing", "max_images", "python", "gl", "latents"}
FREE_CALLBACKS = {
    *("Timer", "LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor", "ModelSummary", "RichModelSummary"),
    *("ProgressBar", "TQDMProgressBar", "RichProgressBar"),
}
PATHS = ("paths", "pretrained", "folder")  # a file that was moved is the same file: its name counts

Changes = dict[str, tuple[Any, Any]]


def changed_keys(recorded: Mapping[str, Any], config: Mapping[str, Any]) -> Changes:
    """Dotted key -> (was, is), wherever two complete configs differ in what is trained, on what, or how it is judged.

    A key that only one of the two versions of this framework has is passed over; a part that was put in or taken out
    is not.
    """
    before, now = flatten(recorded), flatten(config)
    changes = {}
    for key in sorted({*before, *now}):
        was, is_ = before.get(key, ABSENT), now.get(key, ABSENT)
        if _is_free(key) or _comparable(key, was) == _comparable(key, is_):
            continue
        other = before if key not in before else now
        if (key in before and key in now) or key.endswith("class_path") or _ancestor_is_leaf(key, other):
            changes[key] = (was, is_)
    return changes


def described(changes: Changes, most: int = 10) -> str:
    """``key: was X, is Y``, one after the other."""
    parts = [f"{key}: was {was!r}, is {is_!r}" for key, (was, is_) in changes.items()]
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return "; ".join(parts[:most]) + more


def flatten(value: object, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; ``init_args`` is left out, a list of classes goes by name."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "class_path" in item for item in value):
        value = {str(item["class_path"]).rpartition(".")[2]: item for item in value}
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        inner = prefix if key == "init_args" else f"{prefix}.{key}" if prefix else str(key)
        flat |= flatten(item, inner)
    return flat


def _is_free(key: str) -> bool:
    parts = key.split(".")
    callback = key.startswith("trainer.callbacks.") and parts[2] in FREE_CALLBACKS
    above = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return bool(above & FREE) or parts[-1] in FREE_NAMES or callback


def _comparable(key: str, value: Any) -> Any:  # noqa: ANN401 - any config value
    """A value as it counts: of a path its last part, of an empty list of callbacks nothing."""
    if isinstance(value, tuple | list):
        return [_comparable(key, item) for item in value] or None
    if isinstance(value, str) and key.rpartition(".")[2].endswith(PATHS):
        return PurePath(value).name
    return value


def _ancestor_is_leaf(key: str, flat: Mapping[str, Any]) -> bool:
    parts = key.split(".")
    return any(".".join(parts[:end]) in flat for end in range(1, len(parts)))
