"""Protocol files, task selection and variation, as `videopolicy evaluate` reads them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from files.errors import UserError
from rollouts.survey import releases
from rollouts.worker_process import survey_simulator
from simulators import SimulatorConfig, SimulatorError
from simulators.libero_tasks import STEP_LIMITS
from simulators.robocasa_adapter import V02_HORIZONS, V02_SCENES
from tests.simulators.conftest import counting
from videopolicy.evaluation import protocol
from videopolicy.evaluation.protocol import (
    Protocol,
    find_protocol,
    protocol_names,
    read_protocol,
    select_tasks,
    stored_protocol,
)

__all__ = ["counting"]  # a fixture

needs_simulators = pytest.mark.skipif(
    importlib.util.find_spec("libero") is None, reason="LIBERO, which brings robosuite, is not installed"
)


def load(name: str) -> Protocol:
    return read_protocol(find_protocol(name))


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_file_names_its_source_and_fifty_episodes_a_task(name: str) -> None:
    path = find_protocol(name)
    assert path.read_text().startswith("# ")
    assert f"videopolicy evaluate --protocol {name}" in path.read_text()
    found = read_protocol(path)
    assert found.name == name
    assert "arXiv" in found.source
    assert found.episodes_per_task == 50
    assert found.first_seed % 50 == 0  # so that the recorded states 0 to 49 come in order, each once


def test_the_protocols_of_the_issue_are_there() -> None:
    suites = {"libero_spatial", "libero_object", "libero_goal", "libero10", "libero90"}
    assert {"lift", "robocasa24", "robocasa24_992", *suites} <= set(protocol_names())


@pytest.mark.parametrize(
    ("name", "limit"),
    [("libero_spatial", 220), ("libero_object", 280), ("libero_goal", 300), ("libero10", 520), ("libero90", 400)],
)
def test_libero_protocols_have_the_published_limits_cameras_and_settling(name: str, limit: int) -> None:
    simulator = load(name).simulator
    assert simulator.max_steps == limit == STEP_LIMITS[simulator.suite]
    assert simulator.cameras == ["agentview", "robot0_eye_in_hand"]
    assert simulator.options == {"settling_steps": 10}
    assert simulator.num_init_states == 50


def test_robocasa_protocols_differ_in_the_step_limit_alone() -> None:
    registered, published = load("robocasa24"), load("robocasa24_992")
    assert registered.simulator.max_steps is None
    assert published.simulator.max_steps == 62 * published.execute_steps == 992
    for found in (registered, published):
        assert found.simulator.options == {"scenes": V02_SCENES, "object_split": "B"}
        assert len(V02_HORIZONS) * found.episodes_per_task == 1200
        seeds = [spec.seed for spec in SimulatorConfig("robocasa", ["A"], ["c"]).episodes(50, found.first_seed)]
        assert [sum(seed % 5 == scene for seed in seeds) for scene in range(5)] == [10] * 5


def test_an_unknown_protocol_lists_those_there_are() -> None:
    with pytest.raises(UserError, match=r"libero_objekt: .* did you mean 'libero_object'\? There are .*robocasa24"):
        find_protocol("libero_objekt")
    with pytest.raises(UserError, match=r"mine\.yaml: no such file"):
        find_protocol("mine.yaml")


def test_an_installation_without_experiments_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(protocol, "FOLDER", tmp_path / "experiments" / "protocols")
    with pytest.raises(UserError, match="installed without its experiments"):
        find_protocol("lift")
    assert protocol_names() == []


ABSENT = "(absent)"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("episode_per_task", 3, "no key episode_per_task; did you mean 'episodes_per_task'"),
        ("warnings", [], "no key warnings"),
        ("source", ABSENT, r"\['source'\] is missing"),
        ("simulator", 3, "simulator is 3; it must be a mapping"),
        ("simulator.task", ["Lift"], r"no key simulator\.task; did you"),
        ("simulator.cameras", ABSENT, r"\['simulator.cameras'\] is missing"),
        ("simulator.name", "robosweet", "unknown simulator 'robosweet'"),
        ("simulator.cameras", "agentview", "is 'agentview'; it must be a list of texts"),
        ("simulator.tasks", "all", "is 'all'; it must be a list of texts"),
        ("simulator.tasks", ["Lift", 3], r"is \['Lift', 3\]; it must be a list of texts"),
        ("simulator.image_size", "64", "is '64'; it must be a whole number"),
        ("simulator.image_size", 64.0, "is 64.0; it must be a whole number"),
        ("simulator.max_steps", "many", "is 'many'; it must be a whole number or null"),
        ("simulator.shadows", 1, "is 1; it must be true or false"),
        ("simulator.python", 3.11, "is 3.11; it must be a text or null"),
        ("simulator.options", [], r"is \[\]; it must be a mapping"),
        ("simulator.variation", {"position": "far"}, "is .* it must be a mapping of names to numbers"),
        ("simulator.instructions", {"Lift": 1}, "is .* it must be a mapping of names to texts"),
        ("source", 5, "is 5; it must be a text"),
        ("episodes_per_task", True, "is True; it must be a whole number"),
        ("episodes_per_task", 0, "is 0; it must be 1 or more"),
        ("execute_steps", "many", "is 'many'; it must be a whole number"),
        ("first_seed", "0", "is '0'; it must be a whole number"),
        ("groups", {"easy": "Lift"}, "is .* it must be a mapping of names to lists of texts"),
        ("timeout_s", "long", "is 'long'; it must be a number"),
    ],
)
def test_a_slip_in_a_protocol_file_is_one_sentence_with_file_and_key(
    tmp_path: Path, key: str, value: object, said: str
) -> None:
    content = yaml.safe_load(find_protocol("lift").read_text())
    section, _, name = key.rpartition(".")
    (content[section] if section else content)[name] = value
    if value == ABSENT:
        del (content[section] if section else content)[name]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises((UserError, SimulatorError), match=rf"mine\.yaml: .*{said}") as refused:
        read_protocol(path)
    assert not said.startswith("is ") or f"{key} is " in str(refused.value)


@needs_simulators
def test_robosuite_lift_can_be_varied_though_other_tasks_of_its_suite_cannot() -> None:
    lift = read_protocol(find_protocol("lift"))
    varied = replace(lift, simulator=replace(lift.simulator, variation={"position": 1.5})).with_tasks()
    assert (varied.simulator.tasks, varied.simulator.variation) == (["Lift"], {"position": 1.5})
    assert varied.survey is not None
    assert releases("robosuite", varied.survey.packages).keys() == {"robosuite", "mujoco"}
    assert varied.survey.instructions["Lift"] == "lift the red cube"
    with pytest.raises(SimulatorError, match=r"\['PickPlaceCan'\] start anywhere in their bin"):
        varied.with_tasks("PickPlaceCan")


@needs_simulators
def test_words_of_29_of_liberos_130_tasks_are_told_before_any_is_built() -> None:
    differ = 0
    for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"):
        one = SimulatorConfig("libero", ["all"], ["agentview"], suite=suite)
        names = survey_simulator(one).instructions
        files = survey_simulator(replace(one, options={"instruction": "bddl"})).instructions
        differ += sum(names[task] != files[task] for task in names)
    assert differ == 29
    task = next(iter(names))
    told = survey_simulator(replace(one, instructions={task: "mine"})).instructions
    assert told[task] == "mine"


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: [1")
    with pytest.raises(UserError, match=r"mine\.yaml: not readable as YAML"):
        read_protocol(path)
    path.write_text("[a]")
    with pytest.raises(UserError, match=r"mine\.yaml: holds a list; a mapping"):
        read_protocol(path)


def test_a_file_of_ones_own_may_begin_with_one_that_is_there(tmp_path: Path) -> None:
    base = find_protocol("libero_object")
    (tmp_path / "mine.yaml").write_text(f"base: {base}\nsimulator: {{max_steps: 300}}\nepisodes_per_task: 10")
    mine, theirs = read_protocol(tmp_path / "mine.yaml"), read_protocol(base)
    assert (mine.name, mine.simulator.max_steps, mine.episodes_per_task) == ("mine", 300, 10)
    assert (mine.source, mine.simulator.suite, mine.simulator.options) == (
        theirs.source,
        "libero_object",
        {"settling_steps": 10},
    )


def test_the_image_size_is_the_files_or_else_the_policys(tmp_path: Path) -> None:
    assert read_protocol(find_protocol("lift"), 64).simulator.image_size == 64
    content = yaml.safe_load(find_protocol("lift").read_text())
    content["simulator"]["image_size"] = 32
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert read_protocol(tmp_path / "mine.yaml", 64).simulator.image_size == 32


def test_tasks_are_chosen_by_name_and_by_index_in_the_protocol() -> None:
    own, available = ["b", "c"], ["a", "b", "c", "d"]
    assert select_tasks("1,0", own, available) == ["c", "b"]
    assert select_tasks("a, 1", own, available) == ["a", "c"]
    with pytest.raises(UserError, match="there are 2 tasks: 0 b, 1 c"):
        select_tasks("2", own, available)
    with pytest.raises(UserError, match=r"--tasks e: no such task; .* There are \['a', 'b', 'c', 'd'\]"):
        select_tasks("a,e", own, available)
    with pytest.raises(UserError, match="b is named twice"):
        select_tasks("b,0", own, available)


def test_the_simulator_names_the_tasks_and_groups_must_be_among_them(counting: Callable[..., SimulatorConfig]) -> None:
    found = Protocol("p", "here", counting(["all"]), 2, 5, 4, groups={"easy": ["up"], "hard": ["crash"]})
    assert found.with_tasks().simulator.tasks == ["up", "down", "left", "crash", "hang", "raise", "mistake"]
    two = found.with_tasks("down,0")
    assert [spec.key for spec in two.episodes()] == [
        "counting/down/seed5",
        "counting/up/seed5",
        "counting/down/seed6",
        "counting/up/seed6",
    ]
    stray = Protocol("p", "here", counting(["all"]), 2, 5, 4, groups={"easy": ["sideways"]})
    with pytest.raises(UserError, match=r"names tasks \['sideways'\] that counting does not have"):
        stray.with_tasks()


def test_a_checkpoints_rollouts_become_a_protocol_with_episodes_a_task(
    counting: Callable[..., SimulatorConfig],
) -> None:
    stored = {
        "simulator": counting(["up", "down"]).to_dict(),
        "num_episodes": 5,
        "first_seed": 7,
        "execute_steps": 3,
        "groups": {"held_out": ["down"]},
    }
    found = stored_protocol(stored, "last")
    assert (found.episodes_per_task, found.first_seed, found.execute_steps) == (3, 7, 3)
    assert found.groups == {"held_out": ["down"]}
