"""The engine on the real robosuite: the same results for one and two workers, nothing drawn for a blind policy."""

from __future__ import annotations

import pytest

from rollouts.engine import RolloutEngine
from rollouts.policies import Actor, RandomPolicy, ScriptedPolicy
from simulators.config import SimulatorConfig

pytest.importorskip("robosuite")


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("policy", "solved"), [(ScriptedPolicy(), True), (RandomPolicy(8), False)], ids=["scripted", "random"]
)
def test_lift_gives_the_same_results_for_one_and_two_workers(policy: Actor, solved: bool) -> None:
    config = SimulatorConfig("robosuite", ["Lift"], ["no such camera"], image_size=16, max_steps=60)  # never drawn
    runs = []
    for num_workers in (1, 2):
        with RolloutEngine(config, num_workers, execute_steps=8) as engine:
            results = engine.run(policy, config.episodes(2, 200_000), progress=False)
        runs.append([(result.key, result.success, result.steps, result.replans) for result in results])
    assert runs[0] == runs[1]
    assert [success for _, success, _, _ in runs[0]] == [solved, solved]
