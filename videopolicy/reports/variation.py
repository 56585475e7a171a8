"""Success over growing variation, from evaluations that differ in one kind of it."""

from __future__ import annotations

from collections.abc import Sequence

from videopolicy.reports.charts import Chart, Points, line_chart
from videopolicy.reports.evaluations import Evaluation
from videopolicy.reports.figures import rate
from videopolicy.reports.sections import solved


def success_over_variation(evaluations: Sequence[Evaluation]) -> list[Chart]:
    """One curve with Wilson intervals a kind; the evaluation without variation is level 0 of every kind.

    Evaluations that vary two kinds at once are in no curve.
    """
    measured = [item for item in evaluations if item.protocol and item.summary.total.episodes]
    standard = [item for item in measured if not item.variation]
    kinds = dict.fromkeys(kind for item in measured if len(item.variation) == 1 for kind in item.variation)
    charts = []
    for kind in sorted(kinds):
        levels = {0.0: standard[0]} if standard else {}
        levels |= {item.variation[kind]: item for item in measured if item.variation.keys() == {kind}}
        totals = {level: levels[level].summary.total for level in sorted(levels)}
        points = Points(
            "solved, Wilson 95 % interval",
            "strong",
            [(level, total.success_rate) for level, total in totals.items()],
            [(total.low, total.high) for total in totals.values()],
        )
        rows = [[f"{level:g}", rate(total.success_rate), *solved(total)] for level, total in totals.items()]
        table = [["level", "rate", "solved", "Wilson 95 %"], *rows]
        title, label = f"Success over variation of {kind}", "level; 0 is the standard"
        charts.append(line_chart(title, [points], top=1.0, table=table, x_label=label))
    return charts
