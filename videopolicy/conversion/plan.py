"""Published checkpoints into ours and back: every weight accounted for, none computed, none held twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from files.errors import UserError
from videopolicy.conversion.autoencoder_names import fold_quant_conv, quant_conv
from videopolicy.conversion.layout import (
    LABEL_BY_PART,
    NATIVE_PREFIX_BY_PART,
    Weight,
    expected_weights,
    is_extra,
    part_of,
)
from videopolicy.conversion.names import PREFIX_BY_PART
from videopolicy.conversion.source import Source

LISTED = 50  # names of a kind in one message
OURS_ALONE = ("video.preconditioning.", "standardizer.", "action_preconditioning.")
FIRST_STAGE = NATIVE_PREFIX_BY_PART["first_stage"]


@dataclass(frozen=True)
class PartSummary:
    """One row of what is said about a file.

    Attributes:
        label: The part.
        keys: Its names in the file.
        parameters: Numbers behind them.
        matched: Names that are expected and fit; None: not looked at.
        dtypes: Their data types.
    """

    label: str
    keys: int
    parameters: int
    matched: int | None
    dtypes: tuple[str, ...]


@dataclass
class Plan:
    """What goes where.

    Attributes:
        weights: Weights that are in the file and fit.
        ours_alone: Names in a native file that no published checkpoint can hold.
        ignored: Problems that were forgiven, each a name with what is wrong.
        parts: What is there, part by part.
    """

    weights: list[Weight]
    ours_alone: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    parts: list[PartSummary] = field(default_factory=list)


def plan(source: Source, model: Any, ignore: Sequence[str] = ()) -> Plan:  # noqa: ANN401 - as `expected_weights`
    """Find the place of every weight of a file.

    Args:
        source: The file.
        model: Networks that the weights are of, as `expected_weights` takes them; a part of them that the file lacks as
            a whole is not asked for.
        ignore: Patterns (``*`` and ``?``) of names that may be missing, unknown or misshaped; they are left out.

    Raises:
        UserError: The U-Net is not there, the file has a part that the networks lack, a weight is missing,
            unknown or misshaped, or a pattern forgives none.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in source.weights.items()}
    if not any(part_of(name, source.naming) == "unet" for name in shapes):
        prefix = {"published": PREFIX_BY_PART, "native": NATIVE_PREFIX_BY_PART}[source.naming]["unet"]
        raise UserError(f"{source.path}: holds no video U-Net (names that start with {source.shown(prefix)!r}).")
    expected = _expected(source, shapes, expected_weights(model))
    ours_alone = [name for name in shapes if source.naming == "native" and name.startswith(OURS_ALONE)]
    problems = _problems(expected, shapes, set(ours_alone), source)
    forgiven = {name for name in problems if any(fnmatchcase(source.shown(name), pattern) for pattern in ignore)}
    for pattern in ignore:
        if not any(fnmatchcase(source.shown(name), pattern) for name in problems):
            raise UserError(
                f"{source.path}: --ignore {pattern!r} forgives nothing: no missing, unknown or misshaped name matches "
                "it; leave it out or correct it."
            )
    if wrong := {name: found for name, found in problems.items() if name not in forgiven}:
        raise UserError(_message(source, wrong))
    fitting = [weight for name, weight in expected.items() if name in shapes and name not in problems]
    return Plan(
        fitting,
        ours_alone,
        [f"{source.shown(name)} ({' '.join(problems[name]).strip()})" for name in problems],
        _summaries(source, {name for name in expected if name in shapes and name not in problems}),
    )


def native_tables(source: Source, found: Plan) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A stage's state dict, and by published name what our networks lack; takes the tensors out of the source."""
    state: dict[str, Tensor] = {}
    extras: dict[str, Tensor] = {}
    for weight in found.weights:
        name = weight.name(source.naming)
        assert name is not None
        tensor = source.weights.pop(name)
        if weight.native is not None:
            state[weight.native] = tensor.reshape(weight.native_shape)
        else:
            extras[name] = tensor
    for name in found.ours_alone:
        state[name] = source.weights.pop(name)
    before = state.get(f"{FIRST_STAGE}encoder.conv_out.weight")
    if source.naming == "published" and before is not None:
        for kind, tensor in zip(("weight", "bias"), quant_conv(before), strict=True):
            state[f"{FIRST_STAGE}quant_conv.{kind}"] = tensor
    return state, extras


def published_table(source: Source, found: Plan) -> dict[str, Tensor]:
    """A published table; takes the tensors out of the source.

    Raises:
        UserError: The source holds statistics that the published networks have no place for.
    """
    if found.ours_alone:
        raise UserError(
            f"{source.path}: {_listed(found.ours_alone)} cannot be written in the published layout, whose networks "
            "have neither residual preconditioning nor standardised features; train with EDMPreconditioning and "
            "features.init_args.standardize: false."
        )
    table: dict[str, Tensor] = {}
    for weight in found.weights:
        name = weight.name(source.naming)
        assert name is not None
        if weight.published is not None:
            table[weight.published] = source.weights.pop(name).reshape(weight.published_shape)
    if source.naming == "native":
        _fold(table, source.weights)
    return table


def cast(table: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Turn the floating-point tensors of a table into another type, one at a time."""
    for name in list(table):
        tensor = table.pop(name)
        table[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor


def _fold(table: dict[str, Tensor], left: dict[str, Tensor]) -> None:
    """Multiply the first stage's `quant_conv`, which the published one lacks, into the convolution before it."""
    ends = [left.pop(f"{FIRST_STAGE}quant_conv.{kind}", None) for kind in ("weight", "bias")]
    names = [f"{PREFIX_BY_PART['first_stage']}encoder.conv_out.{kind}" for kind in ("weight", "bias")]
    if ends[0] is not None and ends[1] is not None and all(name in table for name in names):
        table[names[0]], table[names[1]] = fold_quant_conv(ends[0], ends[1], table[names[0]], table[names[1]])


def _expected(source: Source, shapes: Mapping[str, tuple[int, ...]], weights: Sequence[Weight]) -> dict[str, Weight]:
    """By name in the file: every weight that must be there.

    A native file need not hold what our networks lack; it keeps its published name there.
    """
    there = {part_of(name, source.naming) for name in shapes}
    if lacking := [part for part in LABEL_BY_PART if part in there - {weight.part for weight in weights}]:
        raise UserError(
            f"{source.path}: has {' and '.join(LABEL_BY_PART[part] for part in lacking)}, which the networks given "
            f"have not; {_advice(lacking)}"
        )
    named = {weight.name(source.naming): weight for weight in weights if weight.part in there}
    expected = {name: weight for name, weight in named.items() if name is not None}
    extras = {name for name, weight in expected.items() if is_extra(weight)}
    if extras.isdisjoint(shapes):
        expected = {name: weight for name, weight in expected.items() if name not in extras}
    is_free = {name for name, weight in expected.items() if weight.native is None} - extras
    absent = is_free - shapes.keys() if source.naming == "native" else set()
    return {name: weight for name, weight in expected.items() if name not in absent}


def _advice(lacking: Sequence[str]) -> str:
    if "condition_encoder" in lacking:
        return (
            "for a condition encoder of its own add --model.video experiments/networks/reference.yaml, or set "
            "separate_condition_encoder: true."
        )
    return "give the experiment that these weights were trained with (-c)."


def _problems(
    expected: Mapping[str, Weight], shapes: Mapping[str, tuple[int, ...]], allowed: set[str], source: Source
) -> dict[str, tuple[str, str]]:
    """By name: what is wrong, and with a shape how."""
    problems = {name: ("missing", "") for name in expected if name not in shapes}
    problems |= {name: ("unknown", "") for name in shapes if name not in expected and name not in allowed}
    for name, weight in expected.items():
        wanted = weight.shape(source.naming)
        if name in shapes and shapes[name] != wanted:
            problems[name] = ("misshaped", f"is {shapes[name]}, must be {wanted}")
    return problems


def _message(source: Source, wrong: Mapping[str, tuple[str, str]]) -> str:
    kinds = []
    for kind in ("missing", "unknown", "misshaped"):
        names = [f"{source.shown(n)} {how}".strip() for n, (found, how) in wrong.items() if found == kind]
        if names:
            kinds.append(f"{kind}: {_listed(names)}")
    return (
        f"{source.path}: {len(wrong)} of its weights do not fit: {'; '.join(kinds)}. Give a whole checkpoint and the "
        "experiment that it was trained with, or name with --ignore what may be left out."
    )


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    rest = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return ", ".join(every[:LISTED]) + rest


def _summaries(source: Source, matched: set[str]) -> list[PartSummary]:
    rows = []
    for part, label in LABEL_BY_PART.items():
        names = [n for n in source.weights if part_of(n, source.naming) == part]
        if source.naming == "native":  # what our networks lack keeps its published name
            names += [n for n in source.weights if part_of(n, "published") == part]
        tensors = [source.weights[name] for name in names]
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        fit = sum(name in matched for name in names)
        rows.append(PartSummary(label, len(names), sum(tensor.numel() for tensor in tensors), fit, tuple(dtypes)))
    if source.unused[0]:
        rows.append(PartSummary("vision tower, not used", *source.unused, None, ()))
    return rows
