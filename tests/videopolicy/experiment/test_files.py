"""Experiment files: parts, merging, stages, interpolation, and the way back."""

from pathlib import Path
from typing import Any

import pytest

from videopolicy.errors import CommandError
from videopolicy.experiment.command_line import parse
from videopolicy.experiment.files import join_stages, load_experiment, merge, nested, stage_config, stages_of_experiment


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_string_that_names_a_yaml_file_is_its_content_relative_to_the_file_it_is_in(tmp_path: Path) -> None:
    write(tmp_path / "data" / "sizes.yaml", "image_size: 64")
    write(tmp_path / "data" / "lift.yaml", "class_path: Demos\ninit_args: {sizes: sizes.yaml}")
    top = write(tmp_path / "lift.yaml", "data: data/lift.yaml\ntrainer: {callbacks: [data/sizes.yaml]}")
    assert load_experiment([top]) == {
        "data": {"class_path": "Demos", "init_args": {"sizes": {"image_size": 64}}},
        "trainer": {"callbacks": [{"image_size": 64}]},
    }


def test_base_is_a_part_with_changes(tmp_path: Path) -> None:
    write(tmp_path / "part.yaml", "a: 1\nb: {c: 2, d: 3}")
    top = write(tmp_path / "top.yaml", "data: {base: part.yaml, b: {c: 4}}")
    assert load_experiment([top])["data"] == {"a": 1, "b": {"c": 4, "d": 3}}


def test_files_merge_left_to_right_and_a_list_replaces_a_list(tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", "trainer: {max_steps: 1, devices: 2, callbacks: [A]}")
    two = write(tmp_path / "two.yaml", "trainer: {max_steps: 2, callbacks: [B]}")
    assert load_experiment([one, two])["trainer"] == {"max_steps": 2, "devices": 2, "callbacks": ["B"]}
    three = write(tmp_path / "three.yaml", "trainer: {callbacks+: [C]}")
    with pytest.raises(CommandError, match=r"three\.yaml: callbacks\+: nothing is appended"):
        load_experiment([one, three])


PART_OVER_PART = {
    "a file": ("part: two.yaml", {"b": 2}),
    "a base": ("part: {base: two.yaml, c: 3}", {"b": 2, "c": 3}),
    "a mapping": ("part: {b: 3}", {"a": {"x": 1}, "b": 3}),
    "changed and named again": ("part: {base: one.yaml, a: {y: 2}}", {"a": {"x": 1, "y": 2}, "b": 1}),
}


@pytest.mark.parametrize("what", PART_OVER_PART)
def test_a_part_replaces_what_stood_in_its_place_and_a_mapping_is_merged(what: str, tmp_path: Path) -> None:
    text, expected = PART_OVER_PART[what]
    write(tmp_path / "one.yaml", "a: {x: 1}\nb: 1")
    write(tmp_path / "two.yaml", "b: 2")
    under = write(tmp_path / "under.yaml", "part: one.yaml")
    assert load_experiment([under, write(tmp_path / "over.yaml", text)])["part"] == expected
    based = write(tmp_path / "based.yaml", f"base: under.yaml\n{text}")
    assert load_experiment([based])["part"] == expected


def test_a_part_on_the_command_line_replaces_the_part_and_not_what_a_stage_says_of_it(tmp_path: Path) -> None:
    write(tmp_path / "eight.yaml", "devices: 8\nstrategy: ddp")
    one = write(tmp_path / "one.yaml", "devices: 1")
    stages = "{video: {trainer: {max_steps: 5}, model: {net: {class_path: A, init_args: {x: 1}}}}}"
    experiment = load_experiment([write(tmp_path / "top.yaml", f"trainer: eight.yaml\nstages: {stages}")])
    config = stage_config(experiment, "video", parse(["fit", "--trainer", str(one)]).overrides)
    assert config["trainer"] == {"devices": 1, "max_steps": 5}
    net = write(tmp_path / "net.yaml", "class_path: A\ninit_args: {y: 2}")
    config = stage_config(experiment, "video", parse(["fit", "--model.net", str(net), "--model.net.z", "3"]).overrides)
    assert config["model"]["net"] == {"class_path": "A", "init_args": {"y": 2, "z": 3}}


def test_what_is_said_in_common_of_a_callback_reaches_the_stages_that_have_it() -> None:
    experiment = {"rollout": {"n": 1}, "videos": {}, "averaging": {}, "stages": {"action": {"rollout": {"m": 2}}}}
    overrides = parse(["fit", "--rollout.n", "3", "--stages.video.averaging", "null"]).overrides
    assert stage_config(experiment, "video", overrides) == {"videos": {}, "averaging": None}
    assert stage_config(experiment, "action", overrides) == {"averaging": {}, "rollout": {"n": 3, "m": 2}}
    assert stage_config(experiment, "joint", overrides).keys() == {"videos", "averaging", "rollout"}


def test_a_changed_class_drops_the_old_arguments_and_a_class_added_to_common_arguments_keeps_them() -> None:
    old = {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}}
    assert merge(old, {"class_path": "torch.optim.Adam"}) == {"class_path": "torch.optim.Adam"}
    assert merge(old, {"class_path": "SGD", "init_args": {"lr": 1}})["init_args"] == {"momentum": 0.9, "lr": 1}
    common = {"init_args": {"video": {"class_path": "Net"}}}
    assert merge(common, {"class_path": "VideoStage", "init_args": {"n": 1}}) == {
        "class_path": "VideoStage",
        "init_args": {"video": {"class_path": "Net"}, "n": 1},
    }


def test_merging_leaves_its_inputs_alone() -> None:
    below: dict[str, Any] = {"a": {"b": [1]}}
    merge(below, {"a": {"b": [2], "c": 3}})
    assert below == {"a": {"b": [1]}}


def test_interpolation_sees_the_stage_and_the_overrides() -> None:
    experiment = {
        "data": {"class_path": "D", "init_args": {"cameras": ["a", "b"], "num_frames": 8}},
        "model": {"frames": "${data.init_args.num_frames}", "views": "${len:${data.init_args.cameras}}"},
        "stages": {"video": {"data": {"init_args": {"num_frames": 4}}}},
    }
    assert stage_config(experiment, "video")["model"] == {"frames": 4, "views": 2}
    assert stage_config(experiment, "action", [("data.num_frames", 2)])["model"]["frames"] == 2


def test_an_override_reaches_one_stage_or_all() -> None:
    overrides = [("trainer.max_steps", 10), ("stages.video.trainer.max_steps", 5)]
    assert stage_config({}, "video", overrides)["trainer"]["max_steps"] == 5
    assert stage_config({}, "action", overrides)["trainer"]["max_steps"] == 10


def test_an_override_may_leave_init_args_out_and_name_a_class_by_a_string() -> None:
    config = {"data": {"class_path": "D", "init_args": {"jitter": {"class_path": "J", "init_args": {"hue": 1}}}}}
    assert nested(config, "data.jitter.hue", 2) == {"data": {"init_args": {"jitter": {"init_args": {"hue": 2}}}}}
    assert nested(config, "data.jitter", "K") == {"data": {"init_args": {"jitter": {"class_path": "K"}}}}


def test_floats_in_files_are_those_of_omegaconf(tmp_path: Path) -> None:
    assert load_experiment([write(tmp_path / "a.yaml", "lr: 1e-5")]) == {"lr": 1e-5}


def test_joined_stages_give_every_stage_its_config_back() -> None:
    video = {
        "seed": 0,
        "model": {"class_path": "V", "init_args": {"net": {"class_path": "N", "init_args": {"w": [1, 2]}}, "lr": None}},
        "trainer": {"callbacks": [{"class_path": "A"}], "options": {}, "max_steps": 1},
    }
    action = {
        "seed": 0,
        "model": {
            "class_path": "W",
            "init_args": {"net": {"class_path": "N", "init_args": {"w": [1, 2]}}, "taps": [1]},
        },
        "trainer": {"callbacks": [], "options": {"x": 1}, "max_steps": 1, "extra": 3},
    }
    joined = join_stages({"video": video, "action": action})
    assert joined["model"]["init_args"]["net"] == {"class_path": "N", "init_args": {"w": [1, 2]}}
    assert stage_config(joined, "video") == video
    assert stage_config(joined, "action") == action


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_those_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "lift.yaml", "{}")
    with pytest.raises(CommandError, match=r"lfit\.yaml: no such file; that folder has lift\.yaml\.$"):
        load_experiment([tmp_path / "lfit.yaml"])


def test_a_missing_part_names_the_file_that_wants_it(tmp_path: Path) -> None:
    top = write(tmp_path / "top.yaml", "data: data/none.yaml")
    with pytest.raises(CommandError, match=r"data/none\.yaml: no such file named in .*top\.yaml"):
        load_experiment([top])


def test_broken_yaml_is_one_sentence_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"broken\.yaml: not readable as YAML") as caught:
        load_experiment([write(tmp_path / "broken.yaml", "a: [1, 2\nb: 3")])
    assert "\n" not in str(caught.value)


def test_a_list_is_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="holds a list; a mapping of config keys is needed"):
        load_experiment([write(tmp_path / "list.yaml", "- 1")])


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="includes itself"):
        load_experiment([write(tmp_path / "a.yaml", "data: a.yaml")])


def test_an_unknown_stage_is_refused_with_the_nearest(tmp_path: Path) -> None:
    top = write(tmp_path / "top.yaml", "stages: {vidoe: {}}")
    with pytest.raises(CommandError, match="no stage 'vidoe' in `stages`; did you mean 'video'"):
        load_experiment([top])
    with pytest.raises(CommandError, match="no stage 'actoin'; did you mean 'action'"):
        stage_config({}, "video", [("stages.actoin.trainer.max_steps", 1)])


def test_an_experiment_has_two_stages_or_the_joint_one(tmp_path: Path) -> None:
    joint = write(tmp_path / "joint.yaml", "data: D\nstages: {joint: {n: 1}}")
    assert stages_of_experiment(load_experiment([joint])) == ("joint",)
    assert stages_of_experiment({"stages": {"video": {}}}) == stages_of_experiment({}) == ("video", "action")
    both = write(tmp_path / "both.yaml", "stages: {action: {n: 2}}")
    with pytest.raises(CommandError, match=r"joint\.yaml \+ .*both\.yaml: `stages` holds action beside joint"):
        load_experiment([joint, both])


def test_a_joint_experiment_is_written_and_read_back() -> None:
    config = {"seed": 0, "model": {"class_path": "J"}}
    joined = join_stages({"joint": config})
    assert stages_of_experiment(joined) == ("joint",)
    assert stage_config(joined, "joint") == config


def test_an_interpolation_of_nothing_names_its_key() -> None:
    with pytest.raises(CommandError, match=r"model\.frames of the video stage: .*'data\.frames' not found"):
        stage_config({"model": {"frames": "${data.frames}"}}, "video")
