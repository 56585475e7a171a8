"""What the page says of one evaluation, of two in pairs, and of rates over steps or levels of variation."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from files.errors import UserError
from rollouts import Comparison, EpisodeResult, compare
from rollouts.statistics import TaskSummary
from videopolicy.evaluation.identity import fingerprint, require_same_protocol
from videopolicy.evaluation.pictures import rates_by_task, rates_over
from videopolicy.evaluation.request import EvaluationRequest
from videopolicy.evaluation.results_directory import PROTOCOL, Evaluation
from videopolicy.evaluation.tables import between, interval, rate
from videopolicy.reports.contents import Contents, Titled
from videopolicy.reports.videos import Clip, VideoBudget

MAX_ROWS = 600  # episodes of an outcome; the rest is counted and said
OUTCOMES = {False: "failure", None: "error", True: "success"}  # in the order in which a reader needs them
PLURALS = {"failure": "failures", "error": "errors", "success": "successes"}
PACKAGES = ("videopolicy", "torch", "lightning", "diffusers", "numpy")

Facts = dict[str, str]
Rows = list[list[str]]


@dataclass(frozen=True)
class Episode:
    """One episode, with its video if there is one and room for it, and the command that runs it again."""

    result: EpisodeResult
    clip: Clip | None
    recorded: Path | None
    command: str | None


@dataclass(frozen=True)
class Chart:
    """A picture of rates with its numbers."""

    title: str
    svg: str
    header: Sequence[str]
    rows: Rows


@dataclass(frozen=True)
class Section:
    """One evaluation on the page.

    Args:
        id: Of its heading.
        title: Of its heading.
        evaluation: It.
        tasks: Rates by task, the lowest first.
        groups: Caption, outcome and episodes: failures, then errors, then successes, those with a video first.
        facts: What a reader must know of policy and protocol, how long it took and what it ran on.
        means: Rows of groups of tasks.
    """

    id: str
    title: str
    evaluation: Evaluation
    tasks: Chart | None
    groups: list[tuple[str, str, list[Episode]]]
    facts: Facts
    means: Rows

    @property
    def expected(self) -> int | None:
        """Episodes that the protocol asks for; None where it does not say."""
        tasks = self.evaluation.protocol.get("simulator", {}).get("tasks", ["all"])
        per_task = self.evaluation.protocol.get("episodes_per_task")
        return None if per_task is None or tasks == ["all"] else len(tasks) * int(per_task)


def section(id: str, item: Titled, budget: VideoBudget) -> Section:
    """One evaluation; its videos go into the budget in the order of its rows."""
    evaluation = item.evaluation
    groups = []
    for success, outcome in OUTCOMES.items():
        results = [result for result in evaluation.results if result.success is success]
        if results:
            results.sort(key=lambda result: (evaluation.video(result) is None, result.task, result.seed))
            episodes = [episode(item, result, id, budget) for result in results[:MAX_ROWS]]
            caption = f"{len(results)} {outcome if len(results) == 1 else PLURALS[outcome]}"
            more = f", the first {MAX_ROWS} of them; the rest is in the results file" if len(results) > MAX_ROWS else ""
            groups.append((caption + more, outcome, episodes))
    tasks = sorted(evaluation.summary.tasks, key=lambda task: (not task.episodes, task.success_rate, task.task))
    means = [[group.name, rate(group, 2), *solved(group.total)] for group in evaluation.summary.groups]
    return Section(id, item.title, evaluation, _by_task(tasks), groups, _facts(evaluation), means)


def episode(item: Titled, result: EpisodeResult, place: str, budget: VideoBudget) -> Episode:
    """An episode at a place of the page."""
    video = item.evaluation.video(result)
    clip = budget.embed(video, place) if video else None
    return Episode(result, clip, video, again(item, result))


def again(item: Titled, result: EpisodeResult) -> str | None:
    """The command that runs this one episode again, with a video; None where no command makes the policy.

    The protocol is the file that the evaluation wrote: one of the same name may be another today, and no option says
    what a training's rollouts or a protocol of the user's own are.
    """
    evaluation = item.evaluation
    folder = evaluation.path if evaluation.path.is_dir() else evaluation.path.parent
    identity = evaluation.policy if evaluation.policy.get("path") else evaluation.policy | {"path": item.checkpoint}
    request = EvaluationRequest.of_identity(
        identity,
        protocol=str(folder / PROTOCOL) if evaluation.document else None,
        tasks=result.task,
        episodes=1,
        first_seed=result.seed,
        workers=1,
        output=folder / "repeat" / f"{result.task}_seed{result.seed}",
    )
    return None if request is None else shlex.join(request.command())


def solved(total: TaskSummary) -> list[str]:
    """Counts and Wilson interval as two cells."""
    return [f"{total.successes} of {total.episodes}", interval(total, 2)]


def _by_task(tasks: Sequence[TaskSummary]) -> Chart | None:
    if not tasks:
        return None
    rows = [[row.task, rate(row, 2), *solved(row), str(row.errors)] for row in tasks]
    header = ("task", "rate", "solved", "Wilson 95 %", "errors")
    return Chart("Success rate by task, the lowest first", rates_by_task(tuple(tasks)), header, rows)


def _facts(evaluation: Evaluation) -> Facts:
    policy, protocol, versions = evaluation.policy, evaluation.protocol, evaluation.document.get("versions", {})
    simulator, results = protocol.get("simulator", {}), evaluation.results
    valid = [result for result in results if result.success is not None]
    wall, thinking = sum(result.wall_s for result in valid), sum(result.policy_s for result in valid)
    replans, steps = sum(result.replans for result in valid), [result.steps for result in valid if result.success]
    runs = evaluation.summary_file.get("runs", [])
    packages = {**{name: versions.get("packages", {}).get(name) for name in PACKAGES}, **versions.get("simulator", {})}
    limits = ", ".join(dict.fromkeys(str(result.max_steps) for result in results if result.max_steps))
    facts = {
        "policy": policy.get("kind"),
        "checkpoint": policy.get("path"),
        "SHA-256": (policy.get("sha256") or "")[:16],
        "sampling": _words({**(policy.get("sampling") or {}), "precision": policy.get("precision")}),
        "protocol": protocol.get("name"),
        "its source": protocol.get("source"),
        "simulator": " ".join(filter(None, (simulator.get("name"), simulator.get("suite")))),
        "variation": _words(evaluation.variation),
        "episodes a task": protocol.get("episodes_per_task"),
        "first seed": protocol.get("first_seed"),
        "actions executed a replan": protocol.get("execute_steps"),
        "step limit": simulator.get("max_steps") or limits,
        "fingerprint": evaluation.document.get("fingerprint"),
        "wall time": f"{sum(run['seconds'] for run in runs):,.0f} s" if runs else None,
        "workers": ", ".join(dict.fromkeys(str(run["workers"]) for run in runs)),
        "episodes an hour and worker": f"{3600 * len(valid) / wall:,.0f}" if wall else None,
        "seconds a replan": f"{thinking / replans:.3g}" if replans and thinking else None,
        "mean steps to success": f"{sum(steps) / len(steps):.1f}" if steps else None,
        "hardware": versions.get("device_name"),
        "device": versions.get("device"),
        "commit": versions.get("git_commit"),
        "packages": _words(packages),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _words(content: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in content.items() if value is not None)


# --- rates over something ---------------------------------------------------------------------------------------------


def success_over_steps(contents: Contents) -> Chart | None:
    """Success of every validation's rollouts; None before the first."""
    totals = {step: evaluation.summary.total for step, evaluation in contents.rollouts.items()}
    points = tuple((float(step), total) for step, total in totals.items() if total.episodes)
    rows = [[f"{step:,}", rate(row, 2), *solved(row), str(row.errors)] for step, row in totals.items()]
    header = ("step", "rate", "solved", "Wilson 95 %", "errors")
    picture = rates_over(points, "optimizer steps") if points else ""
    return Chart("Rollouts of every validation", picture, header, rows) if points else None


def success_over_variation(evaluations: Sequence[Evaluation]) -> list[Chart]:
    """One curve a kind and policy; its evaluation without variation is level 0 of every kind.

    Evaluations that vary two kinds at once are in no curve. Of two at one level the first counts.

    Args:
        evaluations: The newest first. They belong to one curve if they differ in level and number of episodes only:
            another checkpoint, sampling, protocol or choice of tasks is another curve.
    """
    groups: dict[tuple[str, ...], list[Evaluation]] = {}
    for item in evaluations:
        if item.document and item.summary.total.episodes:
            groups.setdefault(_without_variation(item), []).append(item)
    varied = [group for group in groups.values() if any(len(item.variation) == 1 for item in group)]
    charts = []
    for group in varied:
        whose = f"; {policy_name(group[0])}, {group[0].protocol.get('name')}" if len(varied) > 1 else ""
        for kind in {kind for item in group if len(item.variation) == 1 for kind in item.variation}:
            levels: dict[float, TaskSummary] = {}
            for item in group:
                if item.variation.keys() <= {kind}:
                    levels.setdefault(item.variation.get(kind, 0.0), item.summary.total)
            points = tuple(sorted(levels.items(), key=lambda point: point[0]))
            rows = [[f"{level:g}", rate(total, 2), *solved(total)] for level, total in points]
            picture = rates_over(points, "level; 0 is the standard")
            header = ("level", "rate", "solved", "Wilson 95 %")
            charts.append(Chart(f"Success over variation of {kind}{whose}", picture, header, rows))
    return sorted(charts, key=lambda chart: chart.title)


def _without_variation(item: Evaluation) -> tuple[str, ...]:
    """The same for evaluations that differ in their variation and the number of episodes only."""
    simulator = {**item.protocol["simulator"], "variation": {}}
    return (fingerprint({"policy": item.policy, "protocol": {**item.protocol, "simulator": simulator}}),
            *simulator.get("tasks", ()))  # fmt: skip


def policy_name(item: Evaluation) -> str:
    """Who acted, in a few words: the end of a checkpoint's path, for every run has a last.ckpt."""
    policy = item.policy
    name = "/".join(Path(policy["path"]).parts[-4:]) if policy.get("path") else str(policy.get("kind"))
    changes = _words({**(policy.get("sampling") or {}), "precision": policy.get("precision")})
    return ", ".join(filter(None, (name, changes)))


# --- two in pairs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """Two evaluations over the same episodes.

    Args:
        a: What the page is about.
        b: What it is compared with.
        counts: Pairs by outcome, with interval and p.
        notes: What else the two differ in.
        tasks: Rows of a table.
        changed: Both sides of the episodes that exactly one of them solved; those that `a` lost come first.
    """

    a: Evaluation
    b: Evaluation
    counts: Comparison
    notes: list[str]
    tasks: Rows
    changed: list[tuple[Episode, Episode]] = field(default_factory=list)


def paired(a: Titled, b: Titled, budget: VideoBudget) -> Paired:
    """Compare two evaluations episode by episode.

    Raises:
        UserError: They followed different protocols, or share no episode that both could run.
    """
    first, second = a.evaluation, b.evaluation
    notes = require_same_protocol([first.path, second.path], [first.document, second.document])
    counts = compare(first.results, second.results)
    if not counts.total.episodes:
        raise UserError(
            f"{first.path} and {second.path}: no episode in common, so nothing can be paired; "
            "evaluate both with the same tasks, --episodes and --first-seed."
        )
    rows = [
        [task.task, *map(str, task.successes), str(task.episodes), f"{task.difference:+.2f}",
         between(*task.interval, 2, "+")]
        for task in sorted(counts.tasks, key=lambda task: task.difference)
    ]  # fmt: skip
    others = {result.key: result for result in second.results}
    both = [(result, others[result.key]) for result in first.results if result.key in others]
    changed = sorted(
        ((x, y) for x, y in both if {x.success, y.success} == {True, False}), key=lambda two: bool(two[0].success)
    )
    episodes = [(episode(a, x, "pairs", budget), episode(b, y, "pairs", budget)) for x, y in changed[:MAX_ROWS]]
    return Paired(first, second, counts, notes, rows, episodes)
