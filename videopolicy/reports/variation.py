"""Success over growing variation, from evaluations that differ in one kind of it."""

from __future__ import annotations

from collections.abc import Sequence

from videopolicy.reports.charts import Chart, Points, line_chart
from videopolicy.reports.evaluations import Evaluation
from videopolicy.reports.figures import rate
from videopolicy.reports.sections import solved


def success_over_variation(evaluations: Sequence[Evaluation]) -> list[Chart]:
    """One curve with Wilson intervals a kind and policy; its evaluation without variation is level 0 of every kind.

    Evaluations that vary two kinds at once are in no curve. Of two at one level the newest counts.

    Args:
        evaluations: As `standard_first` orders them. They belong to one curve if they differ in level and number of
            episodes only: another checkpoint, sampling, protocol or choice of tasks is another curve.
    """
    measured = [item for item in evaluations if item.protocol and item.summary.total.episodes]
    groups: dict[tuple[str, ...], list[Evaluation]] = {}
    for item in measured:
        groups.setdefault(item.standard_key, []).append(item)
    varied = [group for group in groups.values() if any(len(item.variation) == 1 for item in group)]
    charts = [chart for group in varied for chart in _curves(group, named=len(varied) > 1)]
    return sorted(charts, key=lambda chart: chart.title)


def _curves(group: Sequence[Evaluation], named: bool) -> list[Chart]:
    """One curve a kind of one policy's evaluations; titles name the policy where there are several."""
    charts = []
    whose = f"; {group[0].policy_name}, {group[0].protocol['protocol'].get('name')}" if named else ""
    for kind in {kind for item in group if len(item.variation) == 1 for kind in item.variation}:
        levels: dict[float, Evaluation] = {}
        for item in group:
            if item.variation.keys() <= {kind}:
                levels.setdefault(item.variation.get(kind, 0.0), item)
        totals = {level: levels[level].summary.total for level in sorted(levels)}
        points = Points(
            "solved, Wilson 95 % interval",
            "strong",
            [(level, total.success_rate) for level, total in totals.items()],
            [(total.low, total.high) for total in totals.values()],
        )
        rows = [[f"{level:g}", rate(total.success_rate), *solved(total)] for level, total in totals.items()]
        table = [["level", "rate", "solved", "Wilson 95 %"], *rows]
        title, label = f"Success over variation of {kind}{whose}", "level; 0 is the standard"
        charts.append(line_chart(title, [points], top=1.0, table=table, x_label=label))
    return charts
