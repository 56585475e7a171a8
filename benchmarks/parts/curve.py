"""For `../replan_curve.py`: its points as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from videopolicy.evaluation.pictures import as_png, draw_rates
from videopolicy.evaluation.tables import between, terminal_table

REFERENCE = "shared_30"  # the point whose success a cheaper one should reach
KINDS = {"one_pass": "tab:blue", "partial": "tab:green", "shared": "tab:orange"}  # beginnings of names, and colours


@dataclass(frozen=True)
class Cost:
    """What a single replan takes, asked for alone.

    Args:
        seconds: Median on this machine.
        fastest_s: Shortest.
        slowest_s: Longest.
        flop: Matrix products, convolutions and attention, once the instruction is known.
    """

    seconds: float
    fastest_s: float
    slowest_s: float
    flop: int


@dataclass(frozen=True)
class Row:
    """One point, measured."""

    name: str
    successes: int
    episodes: int
    low: float
    high: float
    cost: Cost

    @property
    def kind(self) -> str:
        """Of `KINDS`."""
        return kind_of(self.name)

    @property
    def rate(self) -> float:
        """Share of the episodes that were solved."""
        return self.successes / max(self.episodes, 1)


def kind_of(name: str) -> str:
    """Of `KINDS`, by a point's name."""
    return next((kind for kind in KINDS if name.startswith(kind)), "")


def table(rows: Sequence[Row], published: Cost | None) -> Table:
    """One line a point."""
    header = ("point", "solved", "Wilson 95 %", "s per replan", "GFLOP", "published / this", f"holds {REFERENCE}")
    cells = []
    for row in rows:
        ratio = "" if published is None else f"{published.flop / row.cost.flop:.1f}"
        held = {True: "yes", False: "no", None: ""}[holds_reference(row, rows)]
        solved, interval = f"{row.successes}/{row.episodes}", between(row.low, row.high, digits=2)
        cells.append([row.name, solved, interval, *_cost(row.cost), ratio, held])
    if published is not None:
        cells.append(["published", "", "", *_cost(published), "1", ""])
    return terminal_table("Success against the cost of a replan", header, cells, names=("point", ""))


def _cost(cost: Cost) -> tuple[str, str]:
    return f"{cost.seconds:.3f}", f"{cost.flop / 1e9:.3f}"


def holds_reference(row: Row, rows: Sequence[Row]) -> bool | None:
    """Whether another point's interval contains the rate of the 30-step point; None without both."""
    reference = next((other for other in rows if other.name == REFERENCE and other.episodes), None)
    if reference is None or row.kind == "shared" or not row.episodes:
        return None
    return row.low <= reference.rate <= row.high


def draw(rows: Sequence[Row], published: Cost | None, protocol: str) -> bytes:
    """Success with its interval over seconds and over FLOPs per replan, as a PNG."""
    figure = Figure(figsize=(10.0, 4.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_panel(left, rows, [row.cost.seconds for row in rows], None if published is None else published.seconds)
    draw_panel(right, rows, [row.cost.flop / 1e9 for row in rows], None if published is None else published.flop / 1e9)
    left.set_xlabel("seconds per replan, alone (labels: steps)")
    right.set_xlabel("GFLOP per replan (labels: steps)")
    left.set_ylabel("success rate, 95 % Wilson interval")
    figure.suptitle(f"{protocol}: success against the cost of a replan", fontsize=10)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return as_png(figure)


def draw_panel(axes: Axes, rows: Sequence[Row], places: Sequence[float], published: float | None) -> None:
    """Points of every kind with their labels, and where the published procedure stands."""
    for (kind, colour), mark in zip(KINDS.items(), "o^s", strict=True):
        points = [(x, row) for x, row in zip(places, rows, strict=True) if row.kind == kind and row.episodes]
        if not points:
            continue
        points.sort(key=lambda point: point[0])
        draw_rates(axes, points, label=kind.replace("_", " "), color=colour, marker=mark)
        for number, (place, row) in enumerate(points):  # neighbours cost nearly the same: labels by turns above, below
            label = row.name.removeprefix(f"{kind}_").replace("_", " ")
            axes.annotate(label, (place, row.rate), (4, (6, -12)[number % 2]), textcoords="offset points", fontsize=8)
    if published is not None:
        axes.axvline(published, color="tab:gray", linestyle="--", label="cost of the published procedure")
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.08)
    axes.grid(alpha=0.3)
