"""What rollouts show and tell a policy otherwise than its demos did."""

from __future__ import annotations

from typing import Any

import pytest

from callbacks.demo_differences import differences
from datamodules.demo_origin import EVERY_EFFECT, DemoOrigin, TaskOrigin
from rollouts.survey import Survey, releases
from simulators import SimulatorConfig

LIFT = TaskOrigin(1, 1, instructions=["lift the red cube", "raise the cube"])


def found(origin: DemoOrigin, words: dict[str, str] | None = None, **config: Any) -> list[str]:  # noqa: ANN401
    simulator = SimulatorConfig(
        "robosuite", **{"tasks": ["Lift"], "cameras": ["agentview"], "image_size": 64, **config}
    )
    packages = {"python": "3.11", "robosuite": "1.4.0", "mujoco": "3.8.1"}
    return differences(origin, simulator, Survey(["Lift", "Stack"], packages, words or {}))


def test_equal_settings_are_not_mentioned() -> None:
    origin = DemoOrigin({"Lift": LIFT}, [64], [dict(EVERY_EFFECT)], {"robosuite": ["1.4.1"], "mujoco": ["3.8.0"]})
    assert found(origin, {"Lift": "raise the cube"}, **EVERY_EFFECT) == []
    assert found(DemoOrigin(), {"Lift": "lift"}) == []  # nothing is known


@pytest.mark.parametrize(
    ("origin", "both"),
    [
        (DemoOrigin(image_sizes=[128]), ("128 px", "64 px")),
        (DemoOrigin(effects=[dict(EVERY_EFFECT)]), ("shadows true", "shadows false")),
        (DemoOrigin(releases={"robosuite": ["1.5.1"]}), ("robosuite 1.5.1", "robosuite 1.4.0")),
        (DemoOrigin(releases={"mujoco": ["3.1.1"]}), ("mujoco 3.1.1", "mujoco 3.8.1")),
        (DemoOrigin({"Lift": TaskOrigin(1, 1, instructions=["pick it"])}), ("'lift'", "'pick it'")),
    ],
)
def test_what_differs_is_one_sentence_that_names_both(origin: DemoOrigin, both: tuple[str, str]) -> None:
    (sentence,) = found(origin, {"Lift": "lift"})
    assert all(side in sentence for side in both)


def test_held_out_tasks_have_words_of_their_own_and_unknown_names_any() -> None:
    origin = DemoOrigin({"Stack": TaskOrigin(1, 1, instructions=["stack"])})
    assert found(origin, {"Lift": "lift", "Stack": "stack"}, tasks=["Lift", "Stack"]) == []
    renamed = DemoOrigin({"my_demos": TaskOrigin(1, 1, instructions=["lift", "stack"])})
    assert found(renamed, {"Lift": "lift"}) == []
    assert "'drop'" in found(renamed, {"Lift": "drop"})[0]


def test_varied_words_are_not_warned_of() -> None:
    assert found(DemoOrigin({"Lift": LIFT}), {"Lift": "lift"}, variation={"instruction": 1.0}) == []


def test_releases_are_those_of_the_simulator_whatever_their_package_is_called() -> None:
    packages = {"python": "3", "numpy": "2", "praxis-robosuite": "1.5.2", "mujoco": "3.9", "hf_libero": "0.1.4"}
    assert releases("robosuite", packages) == {"robosuite": "praxis-robosuite 1.5.2", "mujoco": "3.9"}
    assert releases("libero", packages)["libero"] == "hf_libero 0.1.4"
    assert releases("robocasa", {"rpent-robocasa365": "1.0.1"}) == {"robocasa": "rpent-robocasa365 1.0.1"}
    assert releases("my.module:Mine", packages).keys() == {"robosuite", "mujoco", "libero"}
