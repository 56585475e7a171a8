"""Which episodes a checkpoint is judged by, and what is said where none is held out."""

from __future__ import annotations

from typing import Any

from datamodules.demo_origin import DemoOrigin, TaskOrigin
from simulators import SimulatorConfig
from videopolicy.evaluation.held_out import held_out

LIBERO = SimulatorConfig("libero", ["milk", "butter"], ["agentview"])  # 50 recorded states a task
LIFT = SimulatorConfig("robosuite", ["Lift"], ["agentview"])


def origin(**tasks: TaskOrigin) -> DemoOrigin:
    return DemoOrigin(tasks=tasks)


def rollout(simulator: SimulatorConfig, num_episodes: int, first_seed: int) -> dict[str, Any]:
    return {"simulator": simulator.to_dict(), "num_episodes": num_episodes, "first_seed": first_seed}


def test_seeds_of_demos_and_of_rollouts_during_training_are_passed_over() -> None:
    found = held_out(LIFT, origin(Lift=TaskOrigin(2, 0, [1, 200_001])), rollout(LIFT, 2, 200_002))
    specs = found.episodes(LIFT, 3, 200_000)
    assert [spec.seed for spec in specs] == [200_000, 200_004, 200_005]
    assert found.warnings(specs, chosen=False) == []
    assert found.changes(LIFT, 200_000)
    assert not found.changes(LIFT, 200_004)


def test_without_anything_taken_the_seeds_come_in_order() -> None:
    found = held_out(LIFT, None, None)
    assert found.episodes(LIFT, 3, 5) == LIFT.episodes(3, 5)
    assert found.episodes(LIBERO, 2, 5) == LIBERO.episodes(4, 5)
    assert not found.changes(LIBERO, 0)


def test_recorded_states_of_demos_are_left_out_and_the_rest_repeats() -> None:
    half = TaskOrigin(25, 0, list(range(25)), list(range(25)))
    found = held_out(LIBERO, origin(milk=half, butter=half), None)
    specs = found.episodes(LIBERO, 30, 200_000)
    milk = [spec for spec in specs if spec.task == "milk"]
    assert [spec.init_state for spec in milk] == [*range(25, 50), *range(25, 30)]
    assert all(spec.seed % 50 == spec.init_state for spec in milk)  # `--first-seed` finds each of them again
    assert len({spec.key for spec in specs}) == 60
    assert found.warnings(specs, chosen=False) == []


def test_states_that_chose_the_checkpoint_come_last_but_before_those_of_demos() -> None:
    demos = TaskOrigin(45, 0, list(range(45)), list(range(45)))
    judged = rollout(LIBERO, 4, 100_045)  # states 45 and 46 of both tasks
    found = held_out(LIBERO, origin(milk=demos), judged)
    assert {spec.init_state for spec in found.episodes(LIBERO, 9, 0) if spec.task == "milk"} == {47, 48, 49}
    found = held_out(LIBERO, origin(milk=demos), rollout(LIBERO, 10, 100_045))
    specs = [spec for spec in found.episodes(LIBERO, 9, 0) if spec.task == "milk"]
    assert {spec.init_state for spec in specs} == {45, 46, 47, 48, 49}
    (warning,) = found.warnings(specs, chosen=False)
    assert "of milk no recorded initial state is left" in warning
    assert "which chose the checkpoint" in warning


def test_demos_that_do_not_say_where_they_started_count_as_all_states() -> None:
    found = held_out(LIBERO, origin(milk=TaskOrigin(50, 50)), None)
    specs = found.episodes(LIBERO, 50, 200_000)
    assert [spec.init_state for spec in specs if spec.task == "milk"] == list(range(50))  # the published protocol
    (warning,) = found.warnings(specs, chosen=False)
    assert "of milk no recorded initial state is left" in warning
    assert "do not say where they started" in warning
    assert "butter" not in warning  # a task without demos is held out as a whole


def test_seeds_that_were_asked_for_are_taken_and_their_overlap_is_said() -> None:
    found = held_out(LIFT, origin(Lift=TaskOrigin(2, 0, [0, 1])), rollout(LIFT, 2, 2))
    demos, judged = found.warnings(LIFT.episodes(5, 0), chosen=True)
    assert "2 episodes of Lift stood in the training's demos" in demos
    assert "chose the checkpoint" in judged
    assert found.warnings(LIFT.episodes(5, 4), chosen=True) == []


def test_rollouts_in_another_simulator_and_of_converted_weights_chose_nothing() -> None:
    every = SimulatorConfig("robosuite", ["all"], ["agentview"])
    assert not held_out(LIFT, None, rollout(every, 5, 200_000)).taken
    assert not held_out(LIFT, None, rollout(LIBERO, 5, 200_000)).taken


def test_a_state_follows_from_the_seed_where_a_demo_names_only_that() -> None:
    found = held_out(LIBERO, origin(milk=TaskOrigin(1, 0, [103])), None)
    assert 3 not in {spec.init_state for spec in found.episodes(LIBERO, 50, 0) if spec.task == "milk"}
