"""Every shipped experiment runs all its stages through the real command, with tiny parts on data in its own layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from policies import load_policy
from videopolicy.experiment.files import load_experiment

ROOT = Path(__file__).resolve().parents[2]
DATA = {
    "lift": ("robomimic_file", {}),
    "libero_object": ("robomimic_file", {"name": "libero_object.hdf5"}),
    "libero_object_small": ("robomimic_file", {"name": "libero_object_small.hdf5"}),
    "metaworld_small": ("robomimic_file", {"cameras": ("corner4", "gripperPOV"), "action_dim": 4}),
    "libero10": ("libero_file", {}),
    "robocasa": ("robocasa_file", {}),
    "robocasa_joint": ("robocasa_file", {}),
}


def test_every_experiment_is_run_here() -> None:
    assert {path.stem for path in (ROOT / "experiments").glob("*.yaml")} == set(DATA)


@pytest.mark.parametrize("name", DATA)
def test_its_stages_train_and_leave_a_whole_run_directory(
    name: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    write_overlay: Callable[..., Path],
    run_lightning: Callable[..., object],
) -> None:
    fixture, arguments = DATA[name]
    demos = request.getfixturevalue(fixture)(**arguments)
    experiment = ROOT / "experiments" / f"{name}.yaml"
    done = run_lightning("fit", "-c", experiment, "-c", write_overlay(experiment, demos))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    run = tmp_path / "runs" / name
    stages = tuple(load_experiment([experiment])["stages"])
    for stage in stages:
        assert (run / stage / "checkpoints" / "last.ckpt").is_file()
        assert (run / stage / "config.yaml").is_file()
        assert json.loads((run / stage / "finished.json").read_text())["global_step"] == 2
        assert "lightning" in json.loads((run / stage / "versions.json").read_text())["packages"]
        assert list((run / stage).glob("events.out.tfevents.*"))
    assert (run / "config.yaml").is_file()
    assert (run / "handoff" / "manifest.json").is_file() == (stages == ("video", "action"))
    policy = load_policy(run / stages[-1] / "checkpoints" / "last.ckpt")  # what `videopolicy evaluate` takes
    assert policy.data.action_horizon == 4
