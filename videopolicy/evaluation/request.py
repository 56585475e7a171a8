"""One evaluation as it is asked for: the options of `videopolicy evaluate`, typed, and the way back to them."""

from __future__ import annotations

import argparse
import collections.abc
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from datamodules.demo_files import find_files
from files.errors import UserError
from files.hashes import file_sha256, json_sha256
from networks.inference import CompileMode, Precision
from networks.sampling import SCHEDULERS
from videopolicy.evaluation.protocol import protocol_names
from videopolicy.evaluation.sampling_overrides import SamplingOverrides

Kind = Literal["checkpoint", "untrained", "replay", "scripted", "random", "zero"]
LEARNED: tuple[Kind, ...] = ("checkpoint", "untrained")
"""Policies that a checkpoint makes."""


def default_device() -> str:
    """A GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class EvaluationRequest:
    """Who is evaluated, by which episodes and how: a field an option of `videopolicy evaluate`.

    What is None is the protocol's, or what the checkpoint was trained with. `HELP` says what each is.
    """

    checkpoint: Path | None = None
    policy: Kind = "checkpoint"
    demos: Path | None = None
    protocol: str | None = None
    tasks: str | None = None
    episodes: int | None = None
    first_seed: int | None = None
    as_in_training: bool = False
    words: Literal["simulator", "demos"] = "simulator"
    timeout: float | None = None
    execute_steps: int | None = None
    max_steps: int | None = None
    variation: Mapping[str, float] = field(default_factory=dict)
    simulator: str | None = None
    suite: str | None = None
    python: str | None = None
    workers: int = 2
    threads: int | None = None
    videos: int = 2
    device: str = field(default_factory=default_device)
    action_steps: int | None = None
    action_scheduler: str | None = None
    guidance: float | None = None
    video_steps: int | None = None
    precision: Precision = "float32"
    compile: CompileMode | None = None
    output: Path | None = None

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Declare an option a field, and `--record` for `--videos` without end."""
        videos = parser.add_mutually_exclusive_group()
        sampling = parser.add_argument_group("sampling", "in place of the checkpoint's own; part of protocol.json")
        groups = {"videos": videos, **dict.fromkeys((item.name for item in fields(SamplingOverrides)), sampling)}
        for name, hint in get_type_hints(EvaluationRequest).items():
            default = [] if name == "variation" else getattr(EvaluationRequest(), name)
            settings = {"default": default, "help": HELP[name], "metavar": _METAVARS.get(name), **_argparse(hint)}
            settings = {key: value for key, value in settings.items() if value is not None}
            groups.get(name, parser).add_argument(f"--{name.replace('_', '-')}", **settings)
            if name == "videos":
                said = "record every episode"
                videos.add_argument("--record", dest="videos", action="store_const", const=sys.maxsize, help=said)

    @classmethod
    def of(cls, args: argparse.Namespace) -> EvaluationRequest:
        """From a command line that `add_arguments` declared.

        Raises:
            UserError: A level of variation is no number, or a kind comes twice.
        """
        given = {item.name: getattr(args, item.name) for item in fields(cls)}
        return cls(**{**given, "variation": read_variation(given["variation"])})

    @classmethod
    def parse(cls, words: Sequence[str]) -> EvaluationRequest:
        """From words, as they stand behind `videopolicy evaluate`."""
        parser = argparse.ArgumentParser(prog="videopolicy evaluate")
        cls.add_arguments(parser)
        return cls.of(parser.parse_args(words))

    def command(self) -> list[str]:
        """The words that ask for the same, those that are said anyway left out."""
        words = ["videopolicy", "evaluate"]
        for item, default in zip(fields(self), vars(EvaluationRequest()).values(), strict=True):
            value, name = getattr(self, item.name), f"--{item.name.replace('_', '-')}"
            if item.name == "variation":
                words += [word for kind, level in value.items() for word in (name, f"{kind}={level!r}")]
            elif value != default:
                words += [name] if value is True else [name, str(value)]
        return words

    @property
    def sampling(self) -> SamplingOverrides:
        """What differs from the checkpoint's own sampling."""
        return SamplingOverrides(**{item.name: getattr(self, item.name) for item in fields(SamplingOverrides)})

    def identity(self) -> dict[str, Any]:
        """What names the policy in ``protocol.json``; all that its episodes depend on is part of it."""
        if self.policy == "replay":
            assert self.demos is not None, "`prepare` asks for it"
            return checkpoint_identity(self.demos, self.policy)
        if self.policy not in LEARNED:
            return {"kind": self.policy}
        assert self.checkpoint is not None, "`prepare` asks for it"
        identity = checkpoint_identity(self.checkpoint, self.policy) | {"sampling": self.sampling.given()}
        if self.precision != "float32":  # rounds otherwise: its episodes do not mix with float32's
            identity["precision"] = self.precision
        return identity

    @classmethod
    def of_identity(cls, identity: Mapping[str, Any], **rest: Any) -> EvaluationRequest | None:  # noqa: ANN401
        """Undo `identity`; None where no option makes the policy.

        Args:
            identity: ``policy`` of a ``protocol.json``.
            rest: Other fields.
        """
        kind, path = identity.get("kind", "checkpoint"), identity.get("path")
        files = {"checkpoint": path if kind in LEARNED else None, "demos": path if kind == "replay" else None}
        if kind not in get_args(Kind) or (kind in (*LEARNED, "replay") and not path):
            return None
        rest |= {name: Path(str(file)) for name, file in files.items() if file}
        changes = {**(identity.get("sampling") or {}), "precision": identity.get("precision", "float32")}
        return cls(policy=kind, **changes, **rest)


HELP = {
    "checkpoint": "a .ckpt of the action stage",
    "policy": "what acts: the checkpoint (default), its networks with what was trained drawn anew, blind replay of "
    "--demos, the simulator's scripted expert, random or zero actions",
    "demos": "demo file, or folder of such, whose actions --policy replay plays",
    "protocol": f"one of {', '.join(protocol_names())}, or a file of your own",
    "tasks": "names or indices, comma separated, or 'all'",
    "episodes": "episodes of each task",
    "first_seed": "seed of every task's first episode; episodes are then taken as they come",
    "as_in_training": "take the episodes of the rollouts during training (with --protocol: all of its episodes), also "
    "those that chose the checkpoint or stood in its demos (default: held-out episodes)",
    "words": "whose words the policy is given: the simulator's (default), or the demos' where these had others",
    "timeout": "seconds a simulator may take over a chunk or reset (default: the protocol's, or the training's)",
    "execute_steps": "actions executed before the policy is asked again",
    "max_steps": "step limit of an episode",
    "variation": "vary position, appearance, camera or instruction (level 1 unless given; may be repeated)",
    "simulator": "robosuite, libero, robocasa or package.module:Class, without a protocol",
    "suite": "suite of tasks, for instance libero_10",
    "python": "interpreter of the simulator's workers",
    "workers": "simulator processes (default 2)",
    "threads": "torch threads of a policy on the CPU (default: what the workers leave, at least 1)",
    "videos": "record the first so many episodes (default 2)",
    "device": "where the policy runs",
    "action_steps": "denoising steps of the actions",
    "action_scheduler": f"one of {', '.join(SCHEDULERS)}; with shared levels the video's too",
    "guidance": "classifier-free guidance; 1 does without",
    "video_steps": "denoising steps of the video: with shared levels of both; else before the features are read, 0 for "
    "none",
    "precision": "type of the networks' weights",
    "compile": "torch.compile's mode; reduce-overhead is CUDA graphs on a GPU",
    "output": "results; episodes that are already there are not run again",
}
_METAVARS = {
    "protocol": "NAME|FILE",
    "timeout": "S",
    "variation": "KIND[=LEVEL]",
    "action_steps": "N",
    "action_scheduler": "NAME",
    "guidance": "G",
    "video_steps": "N",
    "output": "DIR",
}


def _argparse(hint: Any) -> dict[str, Any]:  # noqa: ANN401 - a type hint
    """What argparse is told of a field's type."""
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if get_origin(hint) is collections.abc.Mapping:
        return {"action": "append"}
    if hint is bool:
        return {"action": "store_true"}
    if type(None) in get_args(hint):
        return _argparse(next(part for part in get_args(hint) if part is not type(None)))
    return {"type": home_path if hint is Path else hint}


def home_path(text: str) -> Path:
    """A path; `~` is the home folder also where the shell left it, as in `--output=~/results`."""
    return Path(text).expanduser()


def checkpoint_identity(path: Path, kind: str = "checkpoint") -> dict[str, Any]:
    """What names a policy that a file (or a folder of files) makes: what it is, where that was, and its SHA-256."""
    sha256 = json_sha256([file_sha256(file) for file in find_files(path)]) if path.is_dir() else file_sha256(path)
    return {"kind": kind, "path": str(path.resolve()), "sha256": sha256}


def read_variation(words: Sequence[str]) -> dict[str, float]:
    """Levels of variation from what follows every `--variation`: ``KIND=LEVEL``, or ``KIND`` for level 1.

    Raises:
        UserError: A level is no number, or a kind comes twice.
    """
    levels: dict[str, float] = {}
    for word in words:
        kind, _, text = word.partition("=")
        try:
            level = float(text) if "=" in word else 1.0
        except ValueError:
            level = math.nan
        if math.isnan(level):
            raise UserError(f"--variation {word}: {text!r} is no number; write for instance {kind}=1.5.")
        if kind in levels:
            raise UserError(f"--variation {word}: {kind} is given twice; give each kind once.")
        levels[kind] = level
    return levels
