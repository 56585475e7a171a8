"""Experiments of before our callbacks had keys of their own: read as a whole, refused where both spellings meet."""

from typing import Any

import pytest

from files.errors import UserError
from videopolicy.experiment.files import stage_config
from videopolicy.experiment.named_callbacks import with_named_callbacks

OLD: dict[str, Any] = {
    "data": "D",
    "trainer": {"devices": 1},
    "stages": {
        "video": {"trainer": {"callbacks": [{"class_path": "callbacks.PredictedVideos"}, "Timer"], "max_steps": 1}},
        "action": {
            "trainer": {
                "callbacks": [
                    {"class_path": "TrainableWeightAveraging", "init_args": {"decay": 0.5}},
                    {
                        "class_path": "callbacks.SimulationRollout",
                        "init_args": {
                            "simulator": {"name": "robosuite"},
                            "num_episodes": 10,
                            "first_seed": 7,
                            "execute_steps": 8,
                            "groups": None,
                        },
                    },
                ]
            }
        },
    },
}


def test_an_older_experiment_is_read() -> None:
    new = with_named_callbacks(OLD)
    assert (new["data"], new["trainer"]) == ("D", {"devices": 1})
    assert new["stages"]["video"] == {"trainer": {"callbacks": ["Timer"], "max_steps": 1}, "videos": {}}
    action = new["stages"]["action"]
    assert action["trainer"] == {"callbacks": None}
    assert action["averaging"] == {"decay": 0.5}
    protocol = action["rollout"].pop("protocol")
    assert action["rollout"] == {"num_episodes": 10, "first_seed": 7}
    assert (protocol["simulator"], protocol["execute_steps"]) == ({"name": "robosuite"}, 8)
    assert "groups" not in protocol
    assert with_named_callbacks(new) == new


def test_the_config_of_a_finished_stage_is_read() -> None:
    (entry,) = OLD["stages"]["action"]["trainer"]["callbacks"][:1]
    recorded = {"stage": "action", "trainer": {"callbacks": entry}}
    assert with_named_callbacks(recorded)["averaging"] == {"decay": 0.5}


@pytest.mark.parametrize("new", [{"rollout": None}, {"stages": {"action": {"features": {}}}}])
def test_both_spellings_are_refused_with_the_new_one(new: dict[str, Any]) -> None:
    both = {**new, "trainer": {"callbacks": [{"class_path": "TrainableWeightAveraging"}]}}
    with pytest.raises(UserError, match=r"trainer\.callbacks: names TrainableWeightAveraging.*`averaging: "):
        with_named_callbacks(both)


def test_a_list_on_the_command_line_that_names_one_of_ours_is_refused_too() -> None:
    override = ("trainer.callbacks", [{"class_path": "TrainableWeightAveraging"}])
    with pytest.raises(UserError, match="names TrainableWeightAveraging"):
        stage_config({"averaging": {"decay": 0.5}}, "video", [override])
