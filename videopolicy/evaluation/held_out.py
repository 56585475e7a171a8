"""Which episodes neither stood in a checkpoint's demos nor chose it, and what to say where there are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

from datamodules.demo_origin import DemoOrigin, TaskOrigin
from simulators import EpisodeSpec, SimulatorConfig

Numbers = frozenset[int]
FIRST_SEED = 200_000  # neither demos (from 0) nor the rollouts during training (from 100,000) start there


@dataclass(frozen=True)
class Taken:
    """Starts of one task's episodes that a checkpoint has met; of a simulator without recorded states, seeds only.

    Args:
        demo_seeds: Seeds of the demos, as far as they are known.
        demo_states: Recorded initial states of the demos; all of them where the demos do not say which they had.
        judged_seeds: Seeds of the rollouts during training, which chose the checkpoint.
        judged_states: Their recorded initial states.
        guessed: Whether demos did not say where they started.
    """

    demo_seeds: Numbers = frozenset()
    demo_states: Numbers = frozenset()
    judged_seeds: Numbers = frozenset()
    judged_states: Numbers = frozenset()
    guessed: bool = False

    def in_demos(self, spec: EpisodeSpec) -> bool:
        """Whether an episode starts as a demo did."""
        return spec.seed in self.demo_seeds if spec.init_state is None else spec.init_state in self.demo_states

    def judged(self, spec: EpisodeSpec) -> bool:
        """Whether an episode starts as one of the training's rollouts did."""
        return spec.seed in self.judged_seeds if spec.init_state is None else spec.init_state in self.judged_states


@dataclass(frozen=True)
class HeldOut:
    """Choose held-out episodes; with nothing taken, those of the seeds as they come.

    Args:
        taken: Task -> what its episodes should keep clear of.
    """

    taken: Mapping[str, Taken] = field(default_factory=dict)

    def episodes(self, simulator: SimulatorConfig, per_task: int, first_seed: int) -> list[EpisodeSpec]:
        """Held-out episodes, one of each task after the other, by growing seeds.

        A task's episodes take the recorded states that neither demos nor the training's rollouts had; if there are
        none, those that no demo had; if there are none either, all. They begin again where these are fewer than
        episodes.
        """
        by_task = [self._of_task(simulator, task, per_task, first_seed) for task in simulator.tasks]
        return [spec for together in zip(*by_task, strict=True) for spec in together]

    def _of_task(self, simulator: SimulatorConfig, task: str, per_task: int, first_seed: int) -> list[EpisodeSpec]:
        taken = self.taken.get(task, Taken())
        allowed = allowed_states(simulator, taken)
        specs = (simulator.episode(task, seed) for seed in count(first_seed))
        seeds = taken.demo_seeds | taken.judged_seeds
        fresh = (spec for spec in specs if spec.seed not in seeds)
        return list(islice((spec for spec in fresh if allowed is None or spec.init_state in allowed), per_task))

    def changes(self, simulator: SimulatorConfig, first_seed: int) -> bool:
        """Whether episodes from a seed on are others than without."""
        return any(
            len(allowed_states(simulator, taken) or ()) < (simulator.num_init_states or 0)
            or any(seed >= first_seed for seed in taken.demo_seeds | taken.judged_seeds)
            for taken in self.taken.values()
        )

    def warnings(self, specs: Sequence[EpisodeSpec], chosen: bool) -> list[str]:
        """What keeps a rate over these episodes from being a held-out one, a sentence a reason.

        Args:
            specs: The episodes.
            chosen: Their seeds were asked for; else they are the best that `episodes` could find.
        """
        demos: list[str] = []
        guessed: list[str] = []
        judged: list[str] = []
        for spec in specs:
            taken = self.taken.get(spec.task, Taken())
            if taken.in_demos(spec):
                (guessed if taken.guessed else demos).append(spec.task)
            elif taken.judged(spec):
                judged.append(spec.task)
        reasons = (
            (demos, "stood in the training's demos"),
            (guessed, "may have stood in the training's demos, which do not say where they started"),
            (judged, "stood in the training's demos or in its rollouts, which chose the checkpoint"),
        )
        return [_warning(tasks, reason, chosen) for tasks, reason in reasons if tasks]


def _warning(tasks: Sequence[str], reason: str, chosen: bool) -> str:
    names = list(dict.fromkeys(tasks))
    named = ", ".join(names[:3]) + (f" and {len(names) - 3} more tasks" if len(names) > 3 else "")
    if chosen:
        return (
            f"not held out: the starts of {len(tasks)} episodes of {named} {reason}; without --first-seed and "
            "--as-in-training held-out ones are taken, as far as there are any."
        )
    return f"not held out: of {named} no recorded initial state is left, for each {reason}."


def allowed_states(simulator: SimulatorConfig, taken: Taken) -> Numbers | None:
    """Recorded initial states that episodes of a task may start from; None where there are none recorded."""
    if not simulator.num_init_states:
        return None
    every = frozenset(range(simulator.num_init_states))
    return every - taken.demo_states - taken.judged_states or every - taken.demo_states or every


def held_out(simulator: SimulatorConfig, origin: DemoOrigin | None, rollout: Mapping[str, Any] | None) -> HeldOut:
    """What the episodes of a checkpoint should keep clear of.

    Args:
        simulator: What is rolled out, its tasks named.
        origin: Of the checkpoint's demos; None if it does not say.
        rollout: What `SimulationRollout` left in the checkpoint; None if it was trained without.
    """
    judged: list[EpisodeSpec] = []
    if rollout is not None:
        trained = SimulatorConfig(**rollout["simulator"])
        # "all" stands in converted weights, which nobody has rolled out
        if (trained.name, trained.suite) == (simulator.name, simulator.suite) and trained.tasks != ["all"]:
            judged = trained.episodes(rollout["num_episodes"], rollout["first_seed"])
    taken = {}
    for task in simulator.tasks:
        demos = TaskOrigin() if origin is None else origin.tasks.get(task, TaskOrigin())
        mine = [spec for spec in judged if spec.task == task]
        every = range(simulator.num_init_states or 0)
        known = demos.init_states or [seed % len(every) for seed in demos.seeds if every]
        guessed = bool(every) and demos.unknown > 0
        taken[task] = Taken(
            demo_seeds=frozenset(demos.seeds),
            demo_states=frozenset(every if guessed else known),
            judged_seeds=frozenset(spec.seed for spec in mine),
            judged_states=_numbers(spec.init_state for spec in mine),
            guessed=guessed,
        )
    return HeldOut({task: part for task, part in taken.items() if part != Taken()})


def _numbers(values: Iterable[int | None]) -> Numbers:
    return frozenset(value for value in values if value is not None)
