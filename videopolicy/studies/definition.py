"""What a study file says: rows of experiments, numbers of action demos, training seeds, and how they are judged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from files.errors import UserError
from files.nearest import nearest
from videopolicy.experiment.files import Config, compose, merge, read_part

REQUIRED = ("protocol", "episodes", "seeds", "action_demos", "rows")
OPTIONAL = ("experiment", "overlays", "overrides", "variation", "cost", "videos")
ROW_KEYS = ("experiment", "overlays", "overrides", "policy")
BLIND = ("replay", "zero", "random", "scripted")  # what a row may name in place of a training


@dataclass(frozen=True)
class Cost:
    """Hours of one job at each part of a run, as a study's head gives them; what finished runs took comes before.

    Attributes:
        video: Stage 1, which runs may share.
        action: The stage that is rolled out.
        evaluation: Rollouts of one run, at one level of variation.
        hardware: Of what the job ran on.
    """

    video: float = 0.0
    action: float = 0.0
    evaluation: float = 0.0
    hardware: str = "unknown hardware"


@dataclass(frozen=True)
class Study:
    """A study, its parts read in.

    Attributes:
        name: Of the file.
        experiments: Row -> its experiment; over it the overlays and overrides of all rows, then the row's own.
        protocol: Content of a protocol file.
        episodes: Held-out episodes of each task.
        seeds: Training seeds, which also draw the action demos.
        action_demos: Numbers of action demos a task; None stands for all.
        variation: Kind of variation (`videopolicy variation`) that the policies are rolled out under; None: none.
        levels: Its levels.
        cost: Hours.
        videos: So many first episodes of every run are filmed.
        blind: Row -> what acts in place of a trained policy, see `BLIND`; ``replay`` plays the demos of its experiment.
    """

    name: str
    experiments: dict[str, Config]
    protocol: Config
    episodes: int
    seeds: tuple[int, ...]
    action_demos: tuple[int | None, ...]
    variation: str | None = None
    levels: tuple[float, ...] = (0.0,)
    cost: Cost = field(default_factory=Cost)
    videos: int = 0
    blind: dict[str, str] = field(default_factory=dict)


def read_study(path: Path, laid_over: Sequence[Config] = ()) -> Study:
    """Read a study file; paths in it are relative to it, as in experiments.

    Args:
        path: The file.
        laid_over: Laid over the experiments of all rows, before what each row lays over its own.

    Raises:
        UserError: It cannot be read, or a key is missing, unknown or of another kind.
    """
    content = read_part(path)
    _require_keys(path, "", content, (*REQUIRED, *OPTIONAL), REQUIRED)
    rows = content["rows"]
    if not isinstance(rows, Mapping) or not rows:
        raise UserError(f"{path}: rows is {rows!r}; it must be a mapping of names to experiment, overlays, overrides.")
    variation = content.get("variation") or {}
    kind, levels = next(iter(variation.items()), (None, [0.0])) if isinstance(variation, Mapping) else (None, [])
    if not _numbers(levels, float) or len(variation) > 1:
        raise UserError(
            f"{path}: variation is {variation!r}; name one kind and its levels, as in {{position: [0, 1]}}."
        )
    ks = content["action_demos"]
    if not isinstance(ks, list) or not _numbers([k for k in ks if k is not None], int, least=1, empty=True) or not ks:
        raise UserError(f"{path}: action_demos is {ks!r}; list numbers of demos a task from 1 on, null for all.")
    if len(ks) > 1 and len(levels) > 1:
        raise UserError(f"{path}: several action_demos and several levels of variation; keep one of either.")
    if not _numbers(content["seeds"], int, least=0):
        raise UserError(f"{path}: seeds is {content['seeds']!r}; list training seeds, as in [0, 1, 2].")
    if not _numbers([content["episodes"]], int, least=1):
        raise UserError(f"{path}: episodes is {content['episodes']!r}; give a number of episodes a task from 1 on.")
    if not _numbers([content.get("videos") or 0], int, least=0):
        raise UserError(f"{path}: videos is {content['videos']!r}; give a number of episodes to film from 0 on.")
    if not isinstance(content["protocol"], Mapping):
        raise UserError(f"{path}: protocol is {content['protocol']!r}; name a file of experiments/protocols.")
    return Study(
        name=path.stem,
        experiments={name: _experiment(path, name, content, row or {}, laid_over) for name, row in rows.items()},
        protocol={"name": path.stem, **content["protocol"]},
        episodes=content["episodes"],
        seeds=tuple(content["seeds"]),
        action_demos=tuple(ks),
        variation=kind,
        levels=tuple(float(level) for level in levels),
        cost=_cost(path, content.get("cost") or {}),
        videos=content.get("videos") or 0,
        blind={name: row["policy"] for name, row in rows.items() if row and "policy" in row},
    )


def _experiment(
    path: Path,
    name: str,
    common: Mapping[str, Any],
    row: Any,  # noqa: ANN401 - YAML
    laid_over: Sequence[Config],
) -> Config:
    if not re.fullmatch(r"[a-z0-9_]+", str(name)):
        raise UserError(f"{path}: rows.{name}: a row's name is part of file names; use small letters, digits and _.")
    if not isinstance(row, Mapping):
        raise UserError(f"{path}: rows.{name} is {row!r}; it must be a mapping of {', '.join(ROW_KEYS)}.")
    _require_keys(path, f"rows.{name}.", row, ROW_KEYS, ())
    if row.get("policy", BLIND[0]) not in BLIND:
        raise UserError(f"{path}: rows.{name}.policy is {row['policy']!r}; choose one of {', '.join(BLIND)}.")
    experiment = row.get("experiment", common.get("experiment"))
    if not isinstance(experiment, Mapping):
        raise UserError(f"{path}: rows.{name}: no experiment, here or for all rows; name its file.")
    shared, own = ([*(keys.get("overlays") or []), keys.get("overrides") or {}] for keys in (common, row))
    return compose([experiment, *shared, *laid_over, *own], f"{path}: rows.{name}")


def _cost(path: Path, content: Any) -> Cost:  # noqa: ANN401 - YAML
    names = [item.name for item in fields(Cost)]
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: cost is {content!r}; it must be a mapping of {', '.join(names)}.")
    _require_keys(path, "cost.", content, names, ())
    hours = {name: value for name, value in content.items() if name != "hardware"}
    if not _numbers(list(hours.values()), float, least=0, empty=True):
        raise UserError(f"{path}: cost is {dict(content)!r}; give hours as numbers.")
    return Cost(**content)


def _require_keys(
    path: Path, prefix: str, content: Mapping[str, Any], known: Sequence[str], required: Sequence[str]
) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{path}: no key {prefix}{key}; {nearest(str(key), known)}")
    if missing := [key for key in required if content.get(key) is None]:
        raise UserError(f"{path}: {missing} is missing; a study has the keys {list(known)}.")


def _numbers(values: Any, kind: type, least: float = 0, empty: bool = False) -> bool:  # noqa: ANN401 - YAML
    """Whether this is a list of different numbers from `least` on."""
    if not isinstance(values, list) or not (values or empty):
        return False
    allowed = (int, float) if kind is float else (int,)
    fits = all(isinstance(value, allowed) and not isinstance(value, bool) and value >= least for value in values)
    return fits and (kind is float or len(set(values)) == len(values))


def with_run(experiment: Config, action_demos: int | None, seed: int) -> Config:
    """An experiment with one run's seed, which also draws its action demos."""
    data = {"init_args": {"action_demos": action_demos, "demo_seed": seed}}
    return merge(experiment, {"seed_everything": seed, "data": data})
