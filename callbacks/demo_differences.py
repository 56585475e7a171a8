"""What a rollout shows and tells a policy that its demos did not: picture size, effects, release, words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datamodules.demo_origin import EFFECTS, DemoOrigin
from rollouts.survey import Survey, releases
from simulators import SimulatorConfig

WORDS = "the words of "
"""How `words_warning` begins."""


def differences(origin: DemoOrigin, simulator: SimulatorConfig, survey: Survey) -> list[str]:
    """One sentence for each way in which rollouts differ from the demos, with both sides and the way out.

    Args:
        origin: Of the demos.
        simulator: What is rolled out, its tasks named.
        survey: What its worker has.
    """
    return [*_pictures(origin, simulator), *_releases(origin, simulator, survey), *_words(origin, simulator, survey)]


def unseen_words(
    origin: DemoOrigin, tasks: Sequence[str], words_by_task: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, str]]:
    """Task -> words that none of its demos had, and a wording that they had.

    Every wording of a task's demos counts as seen. A task without demos is one that was held out, and nothing can be
    said of its words, unless none of the tasks goes by a name of the demos': then any wording of any demo counts.

    Args:
        origin: Of the demos.
        tasks: What is rolled out.
        words_by_task: Wordings of the rollouts, of some or all tasks.
    """
    any_named = any(task in origin.tasks for task in tasks)
    union = [words for task in origin.tasks.values() for words in task.instructions]
    found: dict[str, tuple[str, str]] = {}
    for task in tasks:
        demos = origin.tasks.get(task)
        seen = demos.instructions if demos is not None else [] if any_named else union
        for words in words_by_task.get(task, ()):
            if seen and words not in seen:
                found.setdefault(task, (words, seen[0]))
    return found


def _pictures(origin: DemoOrigin, simulator: SimulatorConfig) -> Iterator[str]:
    sizes = origin.image_sizes
    if sizes and simulator.image_size not in sizes:
        yield (
            f"the demos' pictures are {_listed(sizes)} px wide, rollouts draw {simulator.image_size} px: scaled to one "
            f"size they are not equally sharp; set image_size: {sizes[0]} in the simulator section, the policy scales "
            "both alike."
        )
    drawn = {name: getattr(simulator, name) for name in EFFECTS}
    if origin.effects and not any(_agree(drawn, effects) for effects in origin.effects):
        theirs = origin.effects[0]
        yield (
            f"the demos were drawn with {_settings(theirs)}, rollouts with {_settings(drawn)}; set these in the "
            "simulator section as the demos have them."
        )


def _agree(drawn: Mapping[str, Any], effects: Mapping[str, Any]) -> bool:
    return all(drawn[name] == effects[name] for name in effects)


def _settings(effects: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {str(value).lower()}" for name, value in effects.items())


def _releases(origin: DemoOrigin, simulator: SimulatorConfig, survey: Survey) -> Iterator[str]:
    """Releases that differ in their first two numbers: later ones mend without changing what an episode does."""
    here = releases(simulator.name, survey.packages)
    for package, theirs in origin.releases.items():
        if package in here and _series(here[package]) not in {_series(release) for release in theirs}:
            yield (
                f"the demos were made with {package} {_listed(theirs)}, rollouts run {package} {here[package]}: "
                "a release may start, move and draw episodes otherwise; set python in the simulator section to an "
                f"interpreter that has {package} {theirs[0]}, or collect demos with this one."
            )


def _series(release: str) -> str:
    """``1.5`` of ``1.5.2`` and of ``praxis-robosuite 1.5.2.post1``."""
    return ".".join(release.rpartition(" ")[2].split(".")[:2])


def _words(origin: DemoOrigin, simulator: SimulatorConfig, survey: Survey) -> Iterator[str]:
    if simulator.variation.get("instruction"):  # other words are the purpose
        return
    told = {task: [words] for task, words in survey.instructions.items()}
    unseen = unseen_words(origin, simulator.tasks, told)
    if unseen:
        yield words_warning(unseen, len(simulator.tasks))


def words_warning(unseen: Mapping[str, tuple[str, str]], num_tasks: int) -> str:
    """One sentence for all tasks whose words training never saw; the first three are spelled out."""
    shown = "; ".join(f"{task}: {now!r}, the demos say {then!r}" for task, (now, then) in list(unseen.items())[:3])
    more = f"; and {len(unseen) - 3} more" if len(unseen) > 3 else ""
    return (
        f"{WORDS}{len(unseen)} of {num_tasks} tasks are none that training saw ({shown}{more}); "
        "`evaluate --words demos` takes the demos' words, and so does instructions: {task: words} in the simulator "
        "section (for LIBERO's official demos also options: {instruction: bddl})."
    )


def _listed(values: Sequence[object]) -> str:
    return " and ".join(map(str, values))
