"""Texts typed after a key, by the type of what they are for."""

from pathlib import Path
from typing import Any

import pytest

from files.errors import UserError
from videopolicy.experiment.files import load_experiment
from videopolicy.experiment.override_values import kinds_of, read_override, type_of

CONFIG: dict[str, Any] = {
    "data": {"class_path": "RobosuiteDataModule", "init_args": {}},
    "model": {
        "class_path": "VideoStage",
        "init_args": {
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1.0}},
            "video": {
                "class_path": "networks.VideoModel",
                "init_args": {"text_encoder": {"class_path": "networks.OpenCLIPTextEncoder"}},
            },
        },
    },
    "trainer": {},
}
WORDS = [
    "put block #2 on block #1", "#1", "yes", "off", "12", "012", "1e3", "12:30", "pick: the cup", "a: b #c", "[a] b",
    "[a, b]", "{a: 1}", "see notes.yaml", "it's here", "~", "", "'quoted'", " spaces ", "2026-01-01", "*x", "true",
]  # fmt: skip
ARGUMENTS = ["data.instruction", "data.init_args.instruction", "model.video.text_encoder.pretrained", "run_dir"]


@pytest.mark.parametrize("text", WORDS)
@pytest.mark.parametrize("key", ARGUMENTS)
def test_words_for_a_text_arrive_as_given(key: str, text: str) -> None:
    assert read_override(CONFIG, key, text) == text


def test_null_is_none_where_none_may_be_and_a_word_elsewhere() -> None:
    assert read_override(CONFIG, "data.instruction", "null") is None
    assert read_override(CONFIG, "model.video.text_encoder.model", "null") == "null"


VALUES: dict[tuple[str, str], object] = {
    ("data.cameras", "[front, wrist]"): ["front", "wrist"],
    ("data.paths", "[a #1.hdf5, b.hdf5]"): "[a #1.hdf5, b.hdf5]",  # YAML would read half of it
    ("data.paths", "['a #1.hdf5', b.hdf5]"): ["a #1.hdf5", "b.hdf5"],
    ("data.paths", "demos #2/*.hdf5"): "demos #2/*.hdf5",
    ("data.paths", "12"): "12",
    ("data.batch_size", "4"): 4,
    ("data.filter_key", "20"): "20",
    ("trainer.max_steps", "10"): 10,
    ("trainer.devices", "2"): 2,
    ("trainer.devices", "auto"): "auto",
    ("trainer.precision", "32-true"): "32-true",
    ("trainer.precision", "32"): 32,
    ("trainer.logger", "false"): False,
    ("trainer.callbacks", "[Timer]"): ["Timer"],
    ("rollout", "null"): None,
    ("rollout.num_episodes", "20"): 20,
    ("rollout.folder", "20"): "20",
    ("rollout.protocol.execute_steps", "8"): 8,
    ("rollout.protocol.simulator.python", "3"): "3",
    ("averaging", "{}"): {},
    ("model.optimizer.lr", "1e-5"): 1e-5,
    ("model.optimizer.betas", "[0.5, 0.9]"): [0.5, 0.9],
    ("model.optimizer", "torch.optim.SGD"): "torch.optim.SGD",
    ("model.lr_scheduler", "null"): None,
    ("model.val_sigmas", "[1, 2]"): [1, 2],
    ("best_checkpoint.monitor", "yes"): "yes",
    ("last_checkpoint.every_steps", "5"): 5,
    ("unknown.key", "[1]"): [1],
}


@pytest.mark.parametrize(("key", "text"), VALUES)
def test_other_arguments_read_yaml(key: str, text: str) -> None:
    value = read_override(CONFIG, key, text)
    assert value == VALUES[key, text]
    assert type(value) is type(VALUES[key, text])


@pytest.mark.parametrize(
    ("key", "text"), [("unknown.key", "a #b"), ("data.batch_size", "4 # four"), ("trainer.callbacks", "Timer #1")]
)
def test_nothing_is_dropped_in_silence(key: str, text: str) -> None:
    with pytest.raises(UserError, match="YAML drops what follows ' #'"):
        read_override(CONFIG, key, text)


def test_a_part_file_is_one_where_a_part_is_wanted(tmp_path: Path) -> None:
    part = tmp_path / "my part.yaml"
    part.write_text("fps_id: 3")
    assert read_override(CONFIG, "model.video", str(part)) == {"fps_id": 3}
    for key in ("trainer", "rollout", "rollout.protocol"):
        assert read_override(CONFIG, key, str(part)) == {"fps_id": 3}
    assert read_override(CONFIG, "data.instruction", str(part)) == str(part)
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        read_override(CONFIG, "model.video", "none.yaml")


def test_words_in_a_file_that_end_like_a_file_are_words(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data: {init_args: {instruction: see notes.yaml}}")
    assert load_experiment([path])["data"]["init_args"]["instruction"] == "see notes.yaml"


def test_a_type_is_found_through_bases_and_parts() -> None:
    assert kinds_of(type_of(CONFIG, "data.num_workers")) == {int}
    assert kinds_of(type_of(CONFIG, "model.condition_dropout")) == {float, int}
    assert kinds_of(type_of(CONFIG, "model.lora")) == {dict, type(None)}
    assert type_of(CONFIG, "model.nothing") is None
