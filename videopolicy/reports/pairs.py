"""Two evaluations over the same episodes, for the page."""

from __future__ import annotations

from dataclasses import dataclass

from rollouts import Comparison, EpisodeResult, compare
from videopolicy.compare import require_same_protocol
from videopolicy.errors import CommandError
from videopolicy.reports.evaluations import Evaluation


@dataclass(frozen=True)
class PairedEvaluations:
    """A comparison, and the episodes that only one of the two solved.

    Args:
        a: The evaluation that the page is about.
        b: What it is compared with.
        counts: Pairs by outcome, of each task and of all, with intervals and p.
        changed: (result of a, result of b) where exactly one is a success; what a lost comes first.
        notes: What else the two differ in.
    """

    a: Evaluation
    b: Evaluation
    counts: Comparison
    changed: list[tuple[EpisodeResult, EpisodeResult]]
    notes: list[str]


def pair(a: Evaluation, b: Evaluation) -> PairedEvaluations:
    """Compare two evaluations episode by episode.

    Raises:
        CommandError: They followed different protocols, or share no episode that both could run.
    """
    notes = require_same_protocol([a.path, b.path], [a.protocol or None, b.protocol or None])
    counts = compare(a.results, b.results)
    if not counts.total.episodes:
        raise CommandError(
            f"{a.path} and {b.path}: no episode in common, so nothing can be paired; "
            "evaluate both with the same tasks, --episodes and --first-seed."
        )
    by_key = {result.key: result for result in b.results}
    shared = [(result, by_key[result.key]) for result in a.results if result.key in by_key]
    changed = [(x, y) for x, y in shared if {x.success, y.success} == {True, False}]
    changed.sort(key=lambda two: (two[0].success, two[0].task, two[0].seed))
    return PairedEvaluations(a, b, counts, changed, notes)
