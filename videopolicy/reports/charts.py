"""Geometry of the page's charts. Numbers only: the template draws them, and text stays text of the page.

A plot is a square of 1000 by 1000 units that the page stretches to the space there is; lines and marks keep their width
(`vector-effect`), labels stand outside it and keep their size, on a phone as on paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

SIDE = 1000.0
MAX_POINTS = 300  # of a line; more are averaged
LOG_FROM = 30.0  # a curve that spans more than this factor gets a logarithmic axis

_Place = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Tick:
    """A label and its place: per cent of the axis, from the left or from the bottom."""

    at: float
    label: str


@dataclass(frozen=True)
class Series:
    """One line of a chart as SVG paths: the line, a mark a point where there are few, and the band of its interval."""

    name: str
    style: str
    line: str
    marks: str = ""
    band: str = ""


@dataclass(frozen=True)
class Chart:
    """A line chart."""

    title: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    series: list[Series]
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Points:
    """A curve before it is drawn: (step, value), and (low, high) of each where there are intervals."""

    name: str
    style: str
    values: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float]] = ()


def line_chart(
    title: str,
    curves: Sequence[Points],
    top: float | None = None,
    note: str = "",
    table: list[list[str]] | None = None,
    x_label: str = "optimizer steps",
) -> Chart:
    """Lay curves over one another on common axes.

    Args:
        title: What the chart shows.
        curves: At least one, each with at least one point.
        top: End of the y axis, which then starts at 0; None fits it to the values.
        note: What a reader must know.
        table: Header and rows of the numbers; None lists the points of the curves.
        x_label: What the horizontal axis counts.
    """
    thin = [thinned(curve) for curve in curves]
    xs = [x for curve in thin for x, _ in curve.values]
    ys = [y for curve in thin for _, y in curve.values if math.isfinite(y)]
    left, right = (0.0, max(xs)) if max(xs) > 0 else (-0.5, 0.5)
    logarithmic = top is None and bool(ys) and min(ys) > 0 and max(ys) / min(ys) > LOG_FROM
    marks_y = log_ticks(min(ys), max(ys)) if logarithmic else ticks(0.0, top or max(ys, default=1.0))
    bottom, end = marks_y[0], marks_y[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        share = math.log(y / bottom) / math.log(end / bottom) if logarithmic else (y - bottom) / (end - bottom)
        return round((x - left) / (right - left) * SIDE, 1), round((1 - share) * SIDE, 1)

    rows = table or _listed(thin)
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=[Tick(100 * (x - left) / (right - left), steps(x)) for x in ticks(0.0, right, inside=True)],
        y_ticks=[Tick(100 - place(0, y)[1] / SIDE * 100, f"{y:g}") for y in marks_y],
        series=[_drawn(curve, place) for curve in thin],
        header=rows[0],
        rows=rows[1:],
        note=" ".join(filter(None, [note, "The vertical axis is logarithmic." if logarithmic else ""])),
    )


def _drawn(curve: Points, place: _Place) -> Series:
    found = [place(x, y) for x, y in curve.values if math.isfinite(y)]
    band = ""
    if curve.intervals:
        low = [place(x, bounds[0]) for (x, _), bounds in zip(curve.values, curve.intervals, strict=True)]
        high = [place(x, bounds[1]) for (x, _), bounds in zip(curve.values, curve.intervals, strict=True)]
        band = " ".join(f"M{x:g} {y0:g}V{y1:g}" for (x, y0), (_, y1) in zip(low, high, strict=True))
    few = len(found) <= 40
    return Series(
        curve.name,
        curve.style,
        line="M" + " L".join(f"{x:g} {y:g}" for x, y in found) if len(found) > 1 else "",
        marks=" ".join(f"M{x:g} {y:g}h0" for x, y in found) if few else "",
        band=band,
    )


def thinned(curve: Points) -> Points:
    """Average neighbours until `MAX_POINTS` are left; curves with intervals are left alone."""
    size = math.ceil(len(curve.values) / MAX_POINTS)
    if size <= 1 or curve.intervals:
        return curve
    groups = [curve.values[start : start + size] for start in range(0, len(curve.values), size)]
    mean = [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]
    return Points(f"{curve.name} (mean of {size} logged values)", curve.style, mean)


def ticks(low: float, high: float, inside: bool = False) -> list[float]:
    """Three to six round numbers over a range; the last is at least `high`, or at most with `inside`."""
    span = high - low if high > low else 1.0
    raw = span / 4
    unit = 10.0 ** math.floor(math.log10(raw))
    size = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999)
    count = math.floor(span / size + 1e-9) if inside else math.ceil(span / size - 1e-9)
    return [low + index * size for index in range(count + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around a range."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def steps(value: float) -> str:
    """A number of steps as a label: 800, 2,500, 20 k, 1.5 M."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if value >= 10 * unit or (value >= unit and unit > 1_000):
            return f"{value / unit:g} {name}"
    return f"{value:,g}"


def _listed(curves: Sequence[Points]) -> list[list[str]]:
    """Header and about twenty rows of a curve's numbers, the last point among them."""
    at: dict[float, dict[str, float]] = {}
    for curve in curves:
        for x, y in curve.values:
            at.setdefault(x, {})[curve.name] = y
    every = math.ceil(len(at) / 20)
    shown = [x for index, x in enumerate(reversed(sorted(at))) if index % every == 0][::-1]
    names = [curve.name for curve in curves]
    cells = [[f"{x:,g}", *(f"{at[x][name]:.4g}" if name in at[x] else "" for name in names)] for x in shown]
    return [["step", *names], *cells]
