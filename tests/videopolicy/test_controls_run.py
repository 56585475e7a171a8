"""Every control is laid over the Lift experiment, with tiny parts, and runs through the real command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from policies import ObservationFeatures, VideoPolicy, load_policy
from videopolicy.experiment.run_directory import StageDirectory

from .conftest import ROOT

CONTROLS = sorted((ROOT / "experiments" / "controls").glob("*.yaml"))


@pytest.mark.parametrize("control", CONTROLS, ids=lambda path: path.stem)
def test_a_control_trains_and_leaves_a_policy_that_acts(
    control: Path,
    tmp_path: Path,
    robomimic_file: Callable[..., Path],
    write_overlay: Callable[..., Path],
    run_lightning: Callable[..., object],
) -> None:
    lift = ROOT / "experiments" / "lift.yaml"
    tiny = write_overlay(lift, robomimic_file())
    tiny.write_text(tiny.read_text().replace("num_frames: 2", "num_frames: 4"))
    files = ("-c", lift, "-c", tiny, "-c", control)
    done = run_lightning("fit", *files, "--data.action_demos", 1, "--rollout", "null", "--run_dir", tmp_path / "run")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    last_stage = "joint" if control.stem == "joint" else "action"
    video, action = (StageDirectory(tmp_path / "run", stage) for stage in ("video", last_stage))
    policy = load_policy(action.last)
    assert isinstance(policy, VideoPolicy)
    document = torch.load(action.last, weights_only=True)
    (task,) = document["demo_origin"]["tasks"].values()
    assert (task["num_demos"], task["num_with_actions"]) == (3, 1)

    if control.stem == "joint":
        assert json.loads((action.path / "finished.json").read_text())["global_step"] == 2
        assert not (tmp_path / "run" / "handoff").exists()
        return
    trained = json.loads((video.path / "finished.json").read_text())["global_step"]
    data, watched = policy.data, video.recorded_config()["data"]["init_args"]
    found = {
        "without_stage1": trained == 0,
        "observation_features": trained == 0 and isinstance(policy.features, ObservationFeatures),
        "horizon_0": data.num_frames == policy.video.num_frames == 1 and trained == 2,
        "horizon_half": (data.num_frames, data.frame_stride) == (4, 1) and trained == 2,
        "stage1_on_action_demos": watched["video_demos"] == 1 and trained == 2,
    }
    assert found[control.stem], (trained, data, watched)
