"""Baselines as overlays: published settings, over every two-stage experiment, through the real command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies import DiffusionPolicy, load_policy
from tests.videopolicy.conftest import DATA, ROLLOUT, TRAINER
from videopolicy.experiment.files import load_experiment, stage_config, stages_of_experiment
from videopolicy.experiment.stage_run import StageRun

ROOT = Path(__file__).resolve().parents[2]
BASELINES = sorted((ROOT / "experiments" / "baselines").glob("*.yaml"))
TWO_STAGES = [
    path
    for path in sorted((ROOT / "experiments").glob("*.yaml"))
    if stages_of_experiment(load_experiment([path])) == ("video", "action")
]
TINY_POLICY = {
    "text_encoder": {"class_path": "networks.SeededTextEncoder", "init_args": {"embed_dim": 16, "width": 16}},
    "encoder": {"init_args": {"crop_size": 12, "widths": [16], "num_blocks": 1, "num_keypoints": 4, "feature_dim": 4}},
    "action_unet": {"init_args": {"step_embed_dim": 16, "widths": [16, 32], "kernel_size": 3, "num_groups": 4}},
    "schedule": {"init_args": {"num_steps": 2}},
}


def composed(*names: str) -> dict[str, Any]:
    """The action stage's config."""
    experiment = load_experiment([ROOT / "experiments" / f"{name}.yaml" for name in names])
    return stage_config(experiment, "action", [("run_dir", "run"), ("stage", "action")])


def test_the_published_settings_of_diffusion_policy_are_these() -> None:
    """Image settings of Chi et al. 2023 (arXiv 2303.04137, appendix) and its configuration files."""
    config = composed("lift", "baselines/diffusion_policy")
    data, model, trainer = config["data"]["init_args"], config["model"]["init_args"], config["trainer"]
    policy = model["policy"]["init_args"]
    assert (data["num_observations"], data["action_horizon"]) == (2, 16)
    assert config["rollout"]["protocol"]["execute_steps"] == 8
    assert (data["image_size"], policy["encoder"]["init_args"]["crop_size"]) == (84, 76)
    assert data["proprio"] == ["robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"]
    assert (data["batch_size"], data["action_padding"], data["colour_jitter"]) == (64, "hold", None)
    assert policy["encoder"]["init_args"] == {"crop_size": 76, "num_keypoints": 32}  # a ResNet18 from scratch
    unet = policy["action_unet"]["init_args"]
    assert (unet["widths"], unet["kernel_size"], unet["num_groups"]) == ([512, 1024, 2048], 5, 8)
    assert (unet["step_embed_dim"], unet["activation"], unet["zero_init"]) == (128, "Mish", False)
    schedule = policy["schedule"]["init_args"]
    assert (schedule["scheduler"], schedule["num_train_steps"], schedule["num_steps"]) == ("DDPMScheduler", 100, 100)
    assert (schedule["beta_schedule"], schedule["clip_sample"]) == ("squaredcos_cap_v2", True)
    assert schedule["prediction"] == "epsilon"
    assert config["averaging"] == {"decay": 0.9999, "warmup": 0.75}
    assert model["optimizer"] == {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": 1e-4, "betas": [0.95, 0.999], "weight_decay": 1e-6},
    }
    rate = model["lr_scheduler"]
    assert rate["class_path"].endswith("WarmUpCosineLR")
    assert rate["init_args"] == {"total_steps": trainer["max_steps"], "warm_up_steps": 500}


@pytest.mark.parametrize("overlay", BASELINES, ids=lambda path: path.stem)
@pytest.mark.parametrize("path", TWO_STAGES, ids=lambda path: path.stem)
def test_every_baseline_takes_the_place_of_both_stages(path: Path, overlay: Path) -> None:
    experiment = load_experiment([path, overlay])
    assert stages_of_experiment(experiment) == ("action",)
    config = composed(path.stem, f"baselines/{overlay.stem}")
    config["model"]["init_args"]["policy"]["init_args"]["text_encoder"] = TINY_POLICY["text_encoder"]  # no download
    stage, data = StageRun(config).parts()
    assert isinstance(stage.policy, DiffusionPolicy)
    own = composed(path.stem)
    assert (data.cameras, str(data.paths)) == (own["data"]["init_args"]["cameras"], own["data"]["init_args"]["paths"])
    assert (config.get("rollout") is None) == (own.get("rollout") is None)


@pytest.fixture
def tiny(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Write an overlay that makes a baseline train in seconds, on generated demos."""

    def write(demos: str, **data: Any) -> Path:  # noqa: ANN401 - settings of data
        init_args = {**DATA, "paths": str(request.getfixturevalue(demos)()), **data}
        overlay = {
            "trainer": TRAINER,
            "rollout": ROLLOUT,
            "stages": {
                "action": {
                    "data": {"init_args": init_args},
                    "model": {
                        "init_args": {
                            "policy": {"init_args": TINY_POLICY},
                            "lr_scheduler": {"init_args": {"warm_up_steps": 1}},
                            "num_predicted": 1,
                        }
                    },
                    "trainer": {"max_steps": 2, "val_check_interval": 2},
                }
            },
        }
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(overlay))
        return tmp_path / "tiny.yaml"

    return write


@pytest.mark.parametrize(
    ("name", "experiment", "demos", "data"),
    [
        ("diffusion_policy", "lift", "robomimic_file", {"proprio": None}),  # two observations
        ("diffusion_policy_small", "robocasa", "robocasa_file", {}),  # three cameras
    ],
)
def test_it_trains_and_rolls_out_through_the_ordinary_command(
    name: str,
    experiment: str,
    demos: str,
    data: dict[str, Any],
    tiny: Callable[..., Path],
    tmp_path: Path,
    run_lightning: Callable[..., Any],
) -> None:
    folder = ROOT / "experiments"
    files = (folder / f"{experiment}.yaml", folder / "baselines" / f"{name}.yaml", tiny(demos, **data))
    words = [word for file in files for word in ("-c", file)]
    done = run_lightning("fit", *words, "--run_dir", tmp_path / "run")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert not (tmp_path / "run" / "video").exists()
    assert json.loads((tmp_path / "run" / "action" / "finished.json").read_text())["global_step"] == 2
    assert len(list((tmp_path / "run" / "action" / "rollouts").glob("*.jsonl"))) == 1
    policy = load_policy(tmp_path / "run" / "action" / "checkpoints" / "last.ckpt")
    assert isinstance(policy, DiffusionPolicy)
    assert policy.num_observations == (2 if name == "diffusion_policy" else 1)
