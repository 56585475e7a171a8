"""Success rates as pictures, drawn by matplotlib without a display: a PNG for a folder, an SVG for a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Protocol

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rollouts.statistics import TaskSummary

INK = "#6d767d"  # of frame and text on a page: readable on white paper and on a dark screen
COLOUR = "#7fb3bf"


class Rated(Protocol):
    """Episodes with a success rate and its 95 % interval."""

    @property
    def successes(self) -> int: ...  # noqa: D102
    @property
    def episodes(self) -> int: ...  # noqa: D102
    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of a size in inches, with one plot of success rates."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("success rate, 95 % Wilson interval")
    axes.grid(alpha=0.3)
    return figure, axes


def draw_rates(axes: Axes, points: Sequence[tuple[float, Rated]], **style: Any) -> None:  # noqa: ANN401 - matplotlib's
    """A line of rates with their intervals; a point without an outcome has no mark.

    Args:
        axes: Where.
        points: (place, episodes).
        style: What `Axes.errorbar` takes: ``label``, ``color``, ``marker``.
    """
    measured = [(x, row) for x, row in points if row.episodes]
    rates = [row.successes / row.episodes for _, row in measured]
    bars = [
        [rate - row.low for rate, (_, row) in zip(rates, measured, strict=True)],
        [row.high - rate for rate, (_, row) in zip(rates, measured, strict=True)],
    ]
    axes.errorbar([x for x, _ in measured], rates, bars, capsize=3, linewidth=1.5, **style)


def rates_by_task(tasks: Sequence[TaskSummary]) -> str:
    """A bar a task, the first at the top, as SVG."""
    figure = Figure(figsize=(7.5, 0.7 + 0.27 * len(tasks)), layout="constrained")
    axes = figure.add_subplot()
    measured = [(place, row) for place, row in enumerate(tasks) if row.episodes]
    bars = [[row.success_rate - row.low for _, row in measured], [row.high - row.success_rate for _, row in measured]]
    axes.barh(
        [place for place, _ in measured],
        [row.success_rate for _, row in measured],
        xerr=bars,
        color=COLOUR,
        error_kw={"ecolor": INK, "capsize": 3},
    )
    names = [row.task if len(row.task) <= 48 else f"{row.task[:24]}…{row.task[-23:]}" for row in tasks]
    axes.set_yticks(range(len(tasks)), names, parse_math=False)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return as_svg(figure)


def rates_over(points: Sequence[tuple[float, Rated]], x_label: str) -> str:
    """Rates over training steps or levels of variation, as SVG."""
    figure, axes = new_figure(7.5, 2.8)
    draw_rates(axes, points, color=COLOUR, marker="o")
    end = max((x for x, _ in points), default=0) or 1
    axes.set_xlim(-0.02 * end, 1.02 * end)
    axes.set_xlabel(x_label)
    axes.set_ylabel("success rate")
    return as_svg(figure)


def as_png(figure: Figure) -> bytes:
    """The figure as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def as_svg(figure: Figure) -> str:
    """The figure as text: transparent, its words set in the reader's own fonts, the same whenever it is drawn."""
    for axes in figure.axes:
        axes.tick_params(colors=INK)
        for part in (axes.xaxis.label, axes.yaxis.label):
            part.set_color(INK)
        for side in axes.spines.values():
            side.set_color(INK)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "videopolicy"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()
