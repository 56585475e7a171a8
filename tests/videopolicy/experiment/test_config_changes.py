"""What counts as another config, and what does not."""

from typing import Any

import pytest

from videopolicy.experiment.config_changes import changed_keys, described, flatten


def config(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """A complete config, with values changed by key; ``__`` stands for a dot."""
    document: dict[str, Any] = {
        "seed_everything": 0,
        "run_dir": "runs/a",
        "trainer": {
            "devices": 1,
            "max_steps": 10,
            "logger": None,
            "precision": "32-true",
            "callbacks": None,
        },
        "rollout": {"num_episodes": 5, "protocol": {"source": "there"}},
        "model": {
            "class_path": "lightning_modules.VideoStage",
            "init_args": {
                "optimizer": {"class_path": "A", "init_args": {"lr": 1.0, "betas": [0.9, 0.99]}},
                "lora": None,
            },
        },
        "data": {"class_path": "D", "init_args": {"paths": "demos/lift.hdf5", "num_workers": 0, "batch_size": 8}},
    }
    for key, value in changes.items():
        *parts, last = key.split("__")
        node = document
        for part in parts:
            node = node[part]
        node[last] = value
    return document


FREE = {
    "run_dir": "runs/b",
    "trainer__devices": 8,
    "trainer__max_steps": 20,
    "trainer__logger": False,
    "data__init_args__num_workers": 4,
    "data__init_args__paths": "/elsewhere/lift.hdf5",
}
COUNTS = {
    "seed_everything": 1,
    "trainer__precision": "bf16-mixed",
    "model__class_path": "lightning_modules.JointStage",
    "data__init_args__paths": "demos/other.hdf5",
    "data__init_args__batch_size": 4,
}


@pytest.mark.parametrize("key", FREE)
def test_what_changes_no_number_is_free(key: str) -> None:
    assert not changed_keys(config(), config(**{key: FREE[key]}))


@pytest.mark.parametrize("key", COUNTS)
def test_what_changes_a_number_counts(key: str) -> None:
    changed = changed_keys(config(), config(**{key: COUNTS[key]}))
    assert list(changed) == [key.replace("__init_args", "").replace("__", ".")]
    assert next(iter(changed.values()))[1] == COUNTS[key]


def test_a_callback_goes_by_its_name_and_a_bar_does_not_count() -> None:
    bar = {"class_path": "lightning.pytorch.callbacks.TQDMProgressBar"}
    pruning = {"class_path": "lightning.pytorch.callbacks.ModelPruning", "init_args": {"amount": 0.5}}
    pruned = config(trainer__callbacks=[pruning])
    assert not changed_keys(pruned, config(trainer__callbacks=[pruning, bar]))
    less = config(trainer__callbacks=[{**pruning, "init_args": {"amount": 0.25}}])
    assert described(changed_keys(pruned, less)) == "trainer.callbacks.ModelPruning.amount: was 0.5, is 0.25"
    assert "trainer.callbacks.ModelPruning.class_path" in changed_keys(pruned, config())


@pytest.mark.parametrize("is_", [None, {"num_episodes": 9, "protocol": {"source": "here"}}])
def test_other_rollouts_count_and_the_words_of_their_protocol_do_not(is_: dict[str, Any] | None) -> None:
    changed = changed_keys(config(), config(rollout=is_))
    assert list(changed) == ["rollout.num_episodes"]
    assert not changed_keys(config(features=None), config(features={"folder": "a"}))


def test_a_part_put_in_counts_and_a_key_of_another_version_does_not() -> None:
    lora = {"class_path": "networks.LoRA", "init_args": {"rank": 4}}
    assert "model.lora.rank" in changed_keys(config(), config(model__init_args__lora=lora))
    assert not changed_keys(config(), config(data__init_args__new_argument=3))


def test_many_changes_are_counted() -> None:
    changes = {f"k{index}": (0, 1) for index in range(12)}
    assert described(changes).endswith("k9: was 0, is 1 and 2 more")


def test_init_args_are_left_out_of_a_key() -> None:
    assert flatten({"a": {"class_path": "B", "init_args": {"c": [1]}}}) == {"a.class_path": "B", "a.c": [1]}
