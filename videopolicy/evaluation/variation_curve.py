"""Success over variation, in three forms: curve.png to look at, curve.md for a report, curve.json for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from files.writing import replacing, write_text
from rollouts import EpisodeResult, compare, summarize
from rollouts.statistics import holm
from videopolicy.evaluation.pictures import as_png, draw_rates, new_figure
from videopolicy.evaluation.tables import between, markdown_table, terminal_table

FORMAT = 1
NOTE = (
    "lost, won: episodes that only the standard or only the varied one solved, by seed; p: McNemar's exact test, "
    "corrected for the {} comparisons of this table (Holm)."
)
STYLES = {
    "position": ("tab:blue", "o"),
    "appearance": ("tab:orange", "s"),
    "camera": ("tab:green", "^"),
    "instruction": ("tab:purple", "D"),
}
"""Colour and mark of each kind: told apart without colour too."""


@dataclass(frozen=True)
class Place:
    """Where on the curve.

    Args:
        kind: Empty for the standard, level 0 of every kind.
        level: 0 or more.
        folder: Of its results, inside the sweep's.
    """

    kind: str
    level: float
    folder: str


@dataclass(frozen=True)
class Point(Place):
    """One kind at one level, measured.

    Args:
        successes: Episodes solved.
        episodes: Episodes with an outcome.
        errors: Episodes without one, which count neither way.
        low: Lower end of the success rate's 95 % Wilson interval.
        high: Upper end.
        lost: Episodes that the standard solved and this did not; None for the standard itself.
        won: Episodes that this solved and the standard did not.
        p_value: McNemar's exact test of the two.
    """

    successes: int
    episodes: int
    errors: int
    low: float
    high: float
    lost: int | None = None
    won: int | None = None
    p_value: float | None = None

    @property
    def rate(self) -> float | None:
        """Successes per episode; None without episodes."""
        return self.successes / self.episodes if self.episodes else None


@dataclass
class Curve:
    """All points of a sweep.

    Args:
        policy: What names the policy, as in ``protocol.json``.
        protocol: Name of the protocol.
        episodes_per_task: Episodes of each task at each point.
        simulator: The standard `SimulatorConfig`.
        points: In the order they were run; the standard first.
    """

    policy: dict[str, Any]
    protocol: str
    episodes_per_task: int
    simulator: dict[str, Any]
    points: list[Point] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._standard: Sequence[EpisodeResult] = ()

    def add(self, place: Place, results: Sequence[EpisodeResult]) -> None:
        """Sum up the episodes of a place; the standard's come first."""
        total = summarize(results).total
        numbers = (place.kind, place.level, place.folder, total.successes, total.episodes, total.errors)
        if place.kind:
            pairs = compare(self._standard, results).total
            against = (pairs.only_a, pairs.only_b, pairs.p_value)
            self.points.append(Point(*numbers, total.low, total.high, *against))
        else:
            self._standard = results
            self.points.append(Point(*numbers, total.low, total.high))

    def kinds(self) -> dict[str, list[Point]]:
        """Kind -> its points by level, the standard among them."""
        named = dict.fromkeys(point.kind for point in self.points if point.kind)
        return {
            kind: sorted((point for point in self.points if point.kind in ("", kind)), key=lambda point: point.level)
            for kind in named
        }

    def rows(self) -> list[list[str]]:
        """Cells of a table, the head first."""
        head = ["kind", "level", "solved", "rate", "Wilson 95 %", "lost", "won", "p (Holm)", "errors"]
        corrected = self.corrected()
        return [head, *(_cells(point, corrected.get(point.folder)) for point in self.points)]

    def corrected(self) -> dict[str, float]:
        """Folder of a varied point -> its p value, corrected for all that were tested (Holm)."""
        tested = {point.folder: point.p_value for point in self.points if point.p_value is not None}
        return dict(zip(tested, holm(list(tested.values())), strict=True))

    def table(self) -> Table:
        """For the terminal."""
        shown = slice(None) if any(point.errors for point in self.points) else slice(-1)  # 80 columns are few
        head, *rows = (row[shown] for row in self.rows())
        table = terminal_table(self.title(), head, rows, names=("kind", ""))
        table.caption = f"p corrected for {len(self.corrected())} comparisons (Holm)"
        return table

    def title(self) -> str:
        """What was swept."""
        name = self.policy["kind"]
        if "path" in self.policy:
            name = "/".join(Path(self.policy["path"]).parts[-4:])  # every run has a last.ckpt: run, stage, folder, file
        return f"{name}, {self.protocol}: {self.episodes_per_task} episodes a task and point"


def _cells(point: Point, corrected: float | None) -> list[str]:
    solved = f"{point.successes}/{point.episodes}"
    rate = "" if point.rate is None else f"{point.rate:.2f}"
    pairs = ["", "", ""] if corrected is None else [str(point.lost), str(point.won), f"{corrected:.3g}"]
    interval = between(point.low, point.high, digits=2)
    return [point.kind or "standard", f"{point.level:g}", solved, rate, interval, *pairs, str(point.errors)]


def write_curve(curve: Curve, folder: Path) -> None:
    """Write ``curve.json``, ``curve.md`` and, as soon as something was varied, ``curve.png``."""
    content = {"format": FORMAT, **asdict(curve)}
    for point, written in zip(curve.points, content["points"], strict=True):
        written["rate"] = point.rate
        written["p_value_holm"] = curve.corrected().get(point.folder)
    write_text(folder / "curve.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
    write_text(folder / "curve.md", to_markdown(curve))
    if curve.kinds():
        with replacing(folder / "curve.png") as part:
            part.write_bytes(draw(curve))


def to_markdown(curve: Curve) -> str:
    """The table, with what its columns mean."""
    head, *rows = curve.rows()
    title = f"# Success over variation: {curve.title()}"
    return "\n".join([title, "", markdown_table(head, rows), "", NOTE.format(len(curve.corrected())), ""])


def draw(curve: Curve) -> bytes:
    """The curve as a PNG: a line a kind, with 95 % Wilson intervals."""
    figure, axes = new_figure(6.4, 4.2)
    kinds = curve.kinds()
    widest = max(point.level for point in curve.points)
    for index, (kind, points) in enumerate(kinds.items()):
        aside = 0.012 * widest * (index - (len(kinds) - 1) / 2)  # bars of two kinds do not hide each other
        colour, mark = STYLES[kind]
        places = [(point.level + aside, point) for point in points]
        draw_rates(axes, places, label=kind, color=colour, marker=mark)
    axes.set_xticks(sorted({point.level for point in curve.points}))
    axes.set_xlabel("level of variation (0: standard)")
    axes.set_title(curve.title(), fontsize=10)
    axes.legend(loc="lower left")
    return as_png(figure)
