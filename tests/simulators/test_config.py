from __future__ import annotations

from collections.abc import Callable

import pytest

from rollouts.worker_process import check_simulator
from simulators.config import SimulatorConfig
from simulators.errors import SimulatorError


def config(**changes: object) -> SimulatorConfig:
    arguments: dict[str, object] = {
        "name": "robosuite",
        "tasks": ["Lift", "Stack"],
        "cameras": ["agentview"],
        **changes,
    }
    return SimulatorConfig(**arguments)  # type: ignore[arg-type]


def test_episodes_are_spread_evenly_and_seeds_do_not_depend_on_the_number_of_tasks() -> None:
    both, lift = config().episodes(5, first_seed=7), config(tasks=["Lift"]).episodes(3, first_seed=7)
    assert [(e.task, e.seed) for e in both] == [("Lift", 7), ("Stack", 7), ("Lift", 8), ("Stack", 8), ("Lift", 9)]
    assert [e for e in both if e.task == "Lift"] == lift


def test_recorded_initial_states_are_taken_in_turn() -> None:
    episodes = config(name="libero", suite="libero_10", tasks=["a"]).episodes(51, first_seed=0)
    assert [e.init_state for e in episodes] == [*range(50), 0]
    assert episodes[50].seed == 50
    assert config(tasks=["Lift"]).episodes(1)[0].init_state is None


def test_config_survives_its_dictionary() -> None:
    assert SimulatorConfig(**config(options={"control_freq": 10}).to_dict()) == config(options={"control_freq": 10})


def test_a_level_of_zero_is_the_standard_and_numbers_become_floats() -> None:
    assert config(variation={"camera": 0, "position": 0.0}) == config()
    assert config(variation={"camera": 1}).to_dict()["variation"] == {"camera": 1.0}


def test_check_names_the_kind_that_a_simulator_cannot_vary(counting: Callable[..., SimulatorConfig]) -> None:
    assert check_simulator(counting(variation={"instruction": 1.0}))
    with pytest.raises(SimulatorError, match=r"cannot vary \['camera'\]; it can vary \['instruction'\]"):
        check_simulator(counting(variation={"camera": 1.0, "instruction": 1.0}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "gazebo"},
            r"unknown simulator 'gazebo'; there are \['libero', 'metaworld', 'robocasa', 'robosuite'\]",
        ),
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": ["Lift", "Lift"]}, "doubles"),
        ({"cameras": []}, "cameras is empty"),
        ({"image_size": 0}, "image_size is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        (
            {"variation": {"weather": 1.0}},
            r"unknown kind \['weather'\]; there are \['position', 'appearance'",
        ),
        ({"variation": {"camera": -0.5}}, "variation 'camera': level is -0.5; it must be a finite number, 0 or more"),
        ({"variation": {"camera": float("nan")}}, "level is nan"),
        ({"variation": {"camera": True}}, "level is True"),
        ({"gl": "directx"}, r"'directx'; allowed are \['egl', 'osmesa', 'glfw'\]"),
    ],
)
def test_a_wrong_setting_is_one_sentence(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SimulatorError, match=message):
        config(**changes)


def test_zero_episodes_are_refused() -> None:
    with pytest.raises(SimulatorError, match="number of episodes is 0"):
        config().episodes(0)


def test_check_lists_the_tasks_when_one_is_unknown(counting: Callable[..., SimulatorConfig]) -> None:
    with pytest.raises(SimulatorError, match=r"counting has no task \['sideways'\]; there are \['up', 'down'"):
        check_simulator(counting(["up", "sideways"]))


def test_check_turns_all_into_the_tasks(counting: Callable[..., SimulatorConfig]) -> None:
    assert check_simulator(counting(["all"])).tasks[:2] == ["up", "down"]


def test_check_passes_the_adapters_own_complaint_on(counting: Callable[..., SimulatorConfig]) -> None:
    with pytest.raises(SimulatorError, match="the counter is broken"):
        check_simulator(counting(options={"broken": True}))


def test_check_says_when_the_interpreter_is_missing(counting: Callable[..., SimulatorConfig]) -> None:
    with pytest.raises(SimulatorError, match="cannot start its Python '/nowhere/python'"):
        check_simulator(counting(python="/nowhere/python"))


def test_check_says_which_module_of_an_adapter_is_missing() -> None:
    with pytest.raises(SimulatorError, match="cannot import no_such_module"):
        check_simulator(config(name="no_such_module:Adapter"))
