"""Experiment files: parts, merging, stages, interpolation, and the way back."""

from pathlib import Path
from typing import Any

import pytest

from files.errors import UserError
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


def test_files_merge_left_to_right_and_a_list_replaces_a_list(tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", "trainer: {max_steps: 1, devices: 2, callbacks: [A]}")
    two = write(tmp_path / "two.yaml", "trainer: {max_steps: 2, callbacks: [B]}")
    assert load_experiment([one, two])["trainer"] == {"max_steps": 2, "devices": 2, "callbacks": ["B"]}


def test_an_overlay_multiplies_a_number_and_a_whole_one_stays_whole(tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", "stages: {video: {trainer: {max_steps: 260, lr: 0.5}}, action: {}}")
    half = write(tmp_path / "half.yaml", "stages: {video: {trainer: {max_steps: '${times:0.25}', lr: '${times: 3}'}}}")
    assert load_experiment([one, half])["stages"]["video"]["trainer"] == {"max_steps": 65, "lr": 1.5}
    with pytest.raises(UserError, match=r"max_steps: 65 times 0\.25 is no whole number; give one"):
        load_experiment([one, half, half])
    two = write(tmp_path / "two.yaml", "trainer: {max_steps: '${times:2}'}")
    with pytest.raises(UserError, match=r"times:2.* multiplies the number .* they say 'many'"):
        load_experiment([write(tmp_path / "many.yaml", "trainer: {max_steps: many}"), two])
    with pytest.raises(UserError, match=r"trainer\.max_steps of the action stage: .*they say None; give a number"):
        stage_config(load_experiment([write(tmp_path / "none.yaml", "stages: {action: {}}"), two]), "action")


def test_a_joint_stage_may_begin_as_another_and_takes_the_place_of_both(tmp_path: Path) -> None:
    action = "{data: {size: 1}, model: {class_path: A, init_args: {x: 1, y: 2}}, trainer: {max_steps: 5}}"
    two = write(tmp_path / "two.yaml", f"stages: {{video: {{model: {{class_path: V}}}}, action: {action}}}")
    joint = "{base: action, model: {class_path: J, init_args: {y: null, z: 3}}, trainer: {max_steps: 7}}"
    one = write(tmp_path / "one.yaml", f"stages: {{joint: {joint}}}")
    assert load_experiment([two, one])["stages"] == {
        "joint": {
            "data": {"size": 1},
            "model": {"class_path": "J", "init_args": {"x": 1, "z": 3}},
            "trainer": {"max_steps": 7},
        }
    }
    nothing = write(tmp_path / "nothing.yaml", "stages: {joint: {base: acting, model: {class_path: J}}}")
    with pytest.raises(UserError, match=r"stages\.joint\.base is 'acting'; name another stage"):
        load_experiment([two, nothing])


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
    old: dict[str, Any] = {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}}
    assert merge(old, {"class_path": "torch.optim.Adam"}) == {"class_path": "torch.optim.Adam"}
    assert merge(old, {"class_path": "SGD", "init_args": {"lr": 1}})["init_args"] == {"momentum": 0.9, "lr": 1}
    common = {"init_args": {"video": {"class_path": "Net"}}}
    assert merge(common, {"class_path": "VideoStage", "init_args": {"n": 1}}) == {
        "class_path": "VideoStage",
        "init_args": {"video": {"class_path": "Net"}, "n": 1},
    }
    assert common == {"init_args": {"video": {"class_path": "Net"}}}  # merging leaves its inputs alone


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


MISTAKES = {
    "missing": ({"lift.yaml": "{}"}, ["lfit.yaml"], r"lfit\.yaml: no such file; that folder has lift\.yaml\.$"),
    "missing part": (
        {"a.yaml": "data: data/none.yaml"},
        ["a.yaml"],
        r"data/none\.yaml: no such file named in .*a\.yaml",
    ),
    "older simulator": ({"a.yaml": "data: simulators/lift.yaml"}, ["a.yaml"], "rollout.protocol: protocols/lift.yaml"),
    "broken": ({"a.yaml": "a: [1, 2\nb: 3"}, ["a.yaml"], r"a\.yaml: not readable as YAML"),
    "list": ({"a.yaml": "- 1"}, ["a.yaml"], "holds a list; a mapping of config keys is needed"),
    "circle": ({"a.yaml": "data: a.yaml"}, ["a.yaml"], "includes itself"),
    "unknown stage": ({"a.yaml": "stages: {vidoe: {}}"}, ["a.yaml"], "no stage 'vidoe' in `stages`; .* 'video'"),
    "no stage": ({"a.yaml": "stages: {video: null}"}, ["a.yaml"], "leaves every stage out; keep one of video, action"),
    "joint and action": (
        {"a.yaml": "stages: {joint: {n: 1}}", "b.yaml": "stages: {action: {n: 2}}"},
        ["a.yaml", "b.yaml"],
        r"a\.yaml \+ .*b\.yaml: `stages` holds action beside joint",
    ),
    "appended": ({"a.yaml": "trainer: {callbacks+: [C]}"}, ["a.yaml"], r"a\.yaml: callbacks\+: nothing is appended"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_with_the_file(mistake: str, tmp_path: Path) -> None:
    contents, given, message = MISTAKES[mistake]
    for name, text in contents.items():
        write(tmp_path / name, text)
    with pytest.raises(UserError, match=message) as caught:
        load_experiment([tmp_path / name for name in given])
    assert "\n" not in str(caught.value)


def test_a_stage_or_key_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="no stage 'actoin'; did you mean 'action'"):
        stage_config({}, "video", [("stages.actoin.trainer.max_steps", 1)])
    with pytest.raises(UserError, match=r"model\.frames of the video stage: .*'data\.frames' not found"):
        stage_config({"model": {"frames": "${data.frames}"}}, "video")


def test_an_overlay_leaves_a_stage_out_by_null(tmp_path: Path) -> None:
    below = write(tmp_path / "a.yaml", "stages: {video: {n: 1}, action: {n: 2}}")
    experiment = load_experiment([below, write(tmp_path / "b.yaml", "stages: {video: null, action: {m: 3}}")])
    assert experiment["stages"] == {"action": {"n": 2, "m": 3}}
    assert stages_of_experiment(experiment) == ("action",)


def test_an_experiment_has_two_stages_or_the_joint_one() -> None:
    for two in ({"stages": {"video": {}}}, {}):
        assert stages_of_experiment(two) == ("video", "action")
    config = {"seed": 0, "model": {"class_path": "J"}}
    joined = join_stages({"joint": config})
    assert stages_of_experiment(joined) == ("joint",)
    assert stage_config(joined, "joint") == config
