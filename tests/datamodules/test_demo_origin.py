"""What a checkpoint gets to know of its demos: episodes, words, pictures and releases, as far as files say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import pytest

from datamodules import LiberoDataModule, RobosuiteDataModule
from datamodules.demo_origin import EVERY_EFFECT, DemoOrigin, TaskOrigin, origin_of, read_origin
from datamodules.demos import ReadingSettings, list_demos
from datamodules.readers import READERS

DemoFile = Callable[..., Path]
PICTURES = {"cameras": ["agentview"], "image_size": 16, "shadows": True, "reflections": False, "multisampling": 2}


def origin(path: Path, layout: str = "robomimic", **settings: object) -> DemoOrigin:
    reading = ReadingSettings(["agentview"], **settings)  # type: ignore[arg-type]
    return read_origin(list_demos(path, READERS[layout](), reading))  # type: ignore[index]


def annotate(path: Path, *demos: Mapping[str, str], **data: str) -> Path:
    with h5py.File(path, "r+") as file:
        file["data"].attrs.update(data)
        for index, attributes in enumerate(demos):
            file[f"data/demo_{index}"].attrs.update(attributes)
    return path


def test_collected_demos_say_their_episodes_tasks_and_settings(robomimic_file: DemoFile) -> None:
    path = annotate(
        robomimic_file(),
        {"episode": "libero_object/milk/seed3/init3", "task": "milk", "pictures": json.dumps(PICTURES)},
        {"episode": "libero_object/milk/seed54/init4", "task": "milk", "instruction": "take the milk"},
        {"episode": "robosuite/Lift/seed7", "task": "Lift"},
    )
    found = origin(path)
    assert found.tasks["milk"] == TaskOrigin(2, 0, [3, 54], [3, 4], ["lift the cube", "take the milk"])
    assert found.tasks["Lift"] == TaskOrigin(1, 0, [7], [], ["lift the cube"])
    assert (found.image_sizes, found.effects) == (
        [16],
        [{"shadows": True, "reflections": False, "multisampling": 2}],
    )


def test_official_demos_do_not_say_their_states_but_how_they_were_drawn(libero_file: DemoFile) -> None:
    path = libero_file("renamed_by_me.hdf5")
    with h5py.File(path, "r+") as file:
        file["data"].attrs["bddl_file_name"] = "chiliocosm/bddl_files/libero_10/KITCHEN_SCENE3_turn_on_the_stove.bddl"
    found = origin(path, "libero")
    (task,) = found.tasks
    assert task == "KITCHEN_SCENE3_turn_on_the_stove"  # as the simulator calls it
    assert found.tasks[task].unknown == found.tasks[task].num_demos > 0
    assert found.effects == [EVERY_EFFECT]


def test_releases_are_read_where_files_name_them(robomimic_file: DemoFile) -> None:
    env = json.dumps({"env_name": "Lift", "type": 1, "env_version": "1.5.1", "env_kwargs": {}})
    path = annotate(robomimic_file(), env_args=env, mujoco_version="3.1.1", robocasa_version="0.2.0")
    found = origin(path, instruction="lift")
    assert found.releases == {"robosuite": ["1.5.1"], "mujoco": ["3.1.1"], "robocasa": ["0.2.0"]}
    assert found.effects == [EVERY_EFFECT]  # robomimic's own file


def test_origin_travels_as_plain_values_and_survives_other_versions(robomimic_file: DemoFile) -> None:
    found = origin(annotate(robomimic_file(), {"episode": "robosuite/Lift/seed7"}))
    values = json.loads(json.dumps(found.to_dict()))
    assert DemoOrigin.from_dict(values) == found
    values["tasks"]["Lift"]["of_tomorrow"] = values["of_tomorrow"] = 1
    del values["releases"], values["tasks"]["Lift"]["unknown"]
    assert DemoOrigin.from_dict(values).tasks["Lift"].seeds == [7]


@pytest.mark.parametrize("setting", ["video_only_tasks", "val_fraction"])
def test_demos_of_every_stage_and_those_held_out_for_validation_count(robomimic_file: DemoFile, setting: str) -> None:
    paths = [str(robomimic_file("a.hdf5", task="A")), str(robomimic_file("b.hdf5", task="B"))]
    value = {"video_only_tasks": ["B"], "val_fraction": 0.5}[setting]
    data = RobosuiteDataModule(paths=paths, num_frames=2, action_horizon=2, **{setting: value})  # type: ignore[arg-type]
    data.setup()
    found = origin_of(data)
    assert found is not None
    assert {task: part.num_demos for task, part in found.tasks.items()} == {"A": 3, "B": 3}


def test_words_of_the_data_settings_count_in_place_of_the_files(libero_file: DemoFile) -> None:
    data = LiberoDataModule(paths=str(libero_file()), num_frames=2, action_horizon=2, instruction="do it")
    data.setup()
    found = origin_of(data)
    assert found is not None
    assert [task.instructions for task in found.tasks.values()] == [["do it"]]


def test_few_actions_leave_every_video_in_the_origin_and_are_counted(robomimic_file: DemoFile) -> None:
    """Whoever learns from less is judged by the same held-out episodes."""
    path = str(robomimic_file(lengths=(5, 6, 7, 8)))
    counts = []
    for settings in ({}, {"action_demos": 2}, {"action_demos": 1, "video_demos": 1}):
        found = origin_of(RobosuiteDataModule(path, num_frames=2, action_horizon=2, val_fraction=0.25, **settings))
        assert found is not None
        (task,) = found.tasks.values()
        counts.append((task.num_demos, task.num_with_actions))
    assert counts == [(4, 3), (4, 2), (4, 1)], "three to train on and one held out"
