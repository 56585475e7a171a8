"""The `lightning` command on lift with tiny parts: configs, refusals, one stage at a time."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from files.errors import UserError
from simulators.errors import SimulatorError
from videopolicy.experiment.command_line import parse
from videopolicy.experiment.files import load_experiment, stage_config
from videopolicy.experiment.named_callbacks import NAMED_CALLBACKS
from videopolicy.experiment.stage_run import StageRun
from videopolicy.lightning_cli import is_users_mistake, main

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
OVERLAYS = sorted(path for kind in ("ablations", "controls") for path in (ROOT / "experiments" / kind).glob("*.yaml"))
OVERLAYS = [path for path in OVERLAYS if path.stem != "joint"]  # which has another stage
TWO_STAGES = [path for path in EXPERIMENTS if path.stem != "robocasa_joint"]
PUBLISHED = [path for path in EXPERIMENTS if path.stem in ("robocasa", "robocasa_joint", "libero10")]
FITS = {  # others fit every experiment
    "independent_noise": TWO_STAGES,
    "lora": TWO_STAGES,
    "one_pass_noise": TWO_STAGES,
    "observation_features": TWO_STAGES,
    "partly_denoised": TWO_STAGES,
    "several_draws": TWO_STAGES,
    "shared_levels": [path for path in EXPERIMENTS if path.stem == "lift"],
    "small_unet": [path for path in EXPERIMENTS if path.stem == "lift"],
    "without_stage1": TWO_STAGES,
    "fused_adam": PUBLISHED,  # the others have optimizers of their own
}
TRAINERS = sorted((ROOT / "experiments" / "trainer").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "simulators"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    document: dict[str, object] = yaml.safe_load(capsys.readouterr().out)
    return document


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence on stderr of a command that ends with status 2."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("lightning: ")
    assert "\n" not in message
    return message


# --- print_config and help --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_printed_config_is_complete_and_prints_itself_when_given_back(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = printed(capsys, "fit", "-c", path, "--print_config")
    (tmp_path / "printed.yaml").write_text(yaml.safe_dump(first))
    assert printed(capsys, "fit", "-c", tmp_path / "printed.yaml", "--print_config") == first
    classes = {"video": "VideoStage", "action": "ActionStage", "joint": "JointStage"}
    for stage, name in ((stage, classes[stage]) for stage in load_experiment([path])["stages"]):
        config = stage_config(first, stage)
        assert config["model"]["class_path"] == f"lightning_modules.{name}"
        assert (
            config["model"]["init_args"]["video"]["init_args"]["num_frames"]
            == config["data"]["init_args"]["num_frames"]
        )
        assert "accumulate_grad_batches" in config["trainer"]  # a default that no file mentions


@pytest.mark.parametrize(
    ("overlay", "path"),
    [(overlay, path) for overlay in OVERLAYS for path in FITS.get(overlay.stem, EXPERIMENTS)],
    ids=lambda path: path.stem,
)
def test_every_overlay_fits_its_experiments(path: Path, overlay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = printed(capsys, "fit", "-c", path, "-c", overlay, "--print_config")
    for stage in load_experiment([path])["stages"]:
        config, own = stage_config(document, stage), stage_config(load_experiment([path]), stage, [("run_dir", "r")])
        on = {key for key in NAMED_CALLBACKS if config.get(key) is not None}
        taken = {"features"} if overlay.stem == "shared_levels" else set()  # with shared levels features change
        assert {key for key in NAMED_CALLBACKS if own.get(key) is not None} - taken <= on  # an ablation takes none away


def test_the_better_choices_reach_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    experiments = ROOT / "experiments"
    better = experiments / "ablations" / "better_choices.yaml"
    for path, stages in ((experiments / "robocasa.yaml", ("video", "action")), (PUBLISHED[-1], ("joint",))):
        document = printed(capsys, "fit", "-c", path, "-c", better, "--print_config")
        for stage in stages:
            config = stage_config(document, stage)
            assert config["data"]["init_args"]["action_padding"] == "hold"
            assert config["model"]["init_args"]["dropout_scope"] == "sample"
            assert config["model"]["init_args"]["lr_scheduler"]["init_args"]["total_steps"] == 369_000
            assert config["trainer"]["precision"] == "bf16-mixed"
            assert config["averaging"]["decay"] == 0.9999


@pytest.mark.parametrize("name", ["ablations/independent_noise", "controls/without_stage1"])
def test_an_overlay_of_two_stages_is_refused_over_the_joint_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    experiments = ROOT / "experiments"
    files = ("-c", experiments / "robocasa_joint.yaml", "-c", experiments / f"{name}.yaml")
    assert "beside joint, which trains video and action together" in refusal(capsys, "fit", *files)


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda path: path.stem)
def test_every_trainer_part_fits(trainer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robocasa = ROOT / "experiments" / "robocasa.yaml"
    config = stage_config(printed(capsys, "fit", "-c", robocasa, "--trainer", trainer, "--print_config"), "video")
    assert config["trainer"]["devices"] == yaml.safe_load(trainer.read_text())["devices"]
    assert config["trainer"]["max_steps"] == 369_000
    if config["trainer"]["devices"] == 1:  # not the ddp of the experiment's own eight
        assert (config["trainer"]["strategy"], config["trainer"]["num_nodes"]) == ("auto", 1)


def test_the_papers_settings_are_those_of_the_robocasa_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    document = printed(capsys, "fit", "-c", ROOT / "experiments" / "robocasa.yaml", "--print_config")
    for stage in ("video", "action"):
        config = stage_config(document, stage)
        data, model, trainer = config["data"]["init_args"], config["model"]["init_args"], config["trainer"]
        assert 1 + len(data["cameras"]) * data["num_frames"] == 25
        assert (data["frame_stride"], data["action_horizon"], data["image_size"]) == (4, 32, 256)
        assert data["batch_size"] * trainer["devices"] == 32
        assert trainer["precision"] == "16-mixed"
        assert model["condition_dropout"] == 0.1
    assert model["taps"] == [9, 13, 16, 19, 22]
    assert (model["adapter_lr_scale"], model["action_lr_scale"], model["features"]) == (5.0, 5.0, None)
    assert model["action_weight"] is None  # by rows


def test_one_stage_is_printed_alone(capsys: pytest.CaptureFixture[str], lift_overlay: list[str]) -> None:
    document = printed(capsys, "fit", *lift_overlay, "--stage", "video", "--print_config")
    assert document["stage"] == "video"
    assert "stages" not in document


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_says_what_to_type(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "-c experiments/lift.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        (["--help"], "--run_dir"),
        (["--help"], "--rollout.num_episodes"),
        (["--data.help", "RobosuiteDataModule"], "--data.cameras"),
    ],
)
def test_a_subcommand_lists_its_keys_and_those_of_a_class(
    option: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *option])
    assert ended.value.code == 0
    assert shown in capsys.readouterr().out


# --- mistakes ---------------------------------------------------------------------------------------------------------


SLIPS = {
    "--trainer.max_step 3": "trainer.max_step: no such key; did you mean 'trainer.max_steps'?",
    "--trianer.max_steps 3": "trianer.max_steps: no such key; did you mean 'trainer'?",
    "--last_checkpoint.every_minute 1": "did you mean 'last_checkpoint.every_minutes'?",
    "--data.batch_sise 3": "data.init_args.batch_sise: RobosuiteDataModule takes no argument 'batch_sise'; "
    "did you mean 'batch_size'?",
    "--model.optimizer.lrr 3": "model.init_args.optimizer.init_args.lrr: MuonAdamW takes no argument 'lrr'; "
    "did you mean 'lr'?",
    "--model.video.unet.in_chanels 3": "unet.init_args.in_chanels: VideoUNet takes no argument 'in_chanels'; "
    "did you mean 'in_channels'?",
    "--model.video.class_path networks.VideoModl": "model.init_args.video.class_path: no class 'VideoModl'; "
    "did you mean 'VideoModel'?",
    "--trainer.callbacks [Timr]": "trainer.callbacks.class_path: no class 'Timr'; did you mean 'Timer'?",
    "--stages.action.model.noise_levels shared": "argument 'noise_levels'; say features: {class_path: SharedLevels}",
    "--stages.action.model.tap [1]": "model.init_args.tap: ActionStage takes no argument 'tap'; did you mean 'taps'?",
    "--rollout.num_episode 3": "rollout.num_episode: no such key; did you mean 'rollout.num_episodes'?",
    "--rollout.protocol.execute_stepz 3": "did you mean 'rollout.protocol.execute_steps'?",
    "--averaging.decay x": "averaging.decay: expected float, found x.",
    "--data.num_frames x": "data.init_args.num_frames: expected int, found x.",
    "--data.orientation up": "data.init_args.orientation: expected one of 'upright'",
    "--trainer.limit_val_batches x": "trainer.limit_val_batches: expected int or expected float, found x.",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_refused_with_its_key_and_the_nearest_right_one(
    slip: str, capsys: pytest.CaptureFixture[str], lift_overlay: list[str]
) -> None:
    assert SLIPS[slip] in refusal(capsys, "fit", *lift_overlay, "--stage", "video", *slip.split())
    assert not Path("runs").exists()


def test_errors_of_ours_are_for_the_user_and_those_of_torch_keep_their_traceback() -> None:
    ours = (UserError("x"), SimulatorError("x"), MisconfigurationException("x"))
    assert all(is_users_mistake(error) for error in ours)
    torchs = torch.utils.checkpoint.CheckpointError("recomputed tensors differ")
    assert not is_users_mistake(torchs)
    assert not is_users_mistake(ValueError("x"))


def test_missing_demos_are_one_sentence(capsys: pytest.CaptureFixture[str], lift_overlay: list[str]) -> None:
    message = refusal(capsys, "fit", *lift_overlay, "--stage", "video", "--data.paths", "none.hdf5")
    assert "none.hdf5" in message


def test_a_run_directory_that_cannot_be_written_is_one_sentence(
    capsys: pytest.CaptureFixture[str], lift_overlay: list[str]
) -> None:
    Path("file").write_text("")
    message = refusal(capsys, "fit", *lift_overlay, "--stage", "video", "--run_dir", "file")
    assert "file/video: cannot be written (Not a directory); give another folder with --run_dir." in message


def test_the_action_stage_without_a_handoff_is_refused(
    capsys: pytest.CaptureFixture[str], lift_overlay: list[str]
) -> None:
    assert "no handoff here" in refusal(capsys, "fit", *lift_overlay, "--stage", "action")


def test_a_malicious_checkpoint_is_refused_and_not_run(
    capsys: pytest.CaptureFixture[str], lift_overlay: list[str], tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path}/mark",)

    last = Path("runs/lift/video/checkpoints/last.ckpt")
    last.parent.mkdir(parents=True)
    torch.save({"state_dict": {}, "callbacks": Evil()}, last)
    message = refusal(capsys, "fit", *lift_overlay, "--stage", "video")
    assert "last.ckpt: holds pickled objects" in message
    assert not (tmp_path / "mark").exists()


# --- one stage in this process ----------------------------------------------------------------------------------------


def test_a_stage_goes_on_when_its_limit_is_raised_and_says_what_changed(
    capsys: pytest.CaptureFixture[str], lift_overlay: list[str]
) -> None:
    video = ("fit", *lift_overlay, "--stage", "video")
    assert main(video) == 0
    finished = Path("runs/lift/video/finished.json")
    assert json.loads(finished.read_text())["global_step"] == 2
    assert main(video) == 0
    assert "video stage: finished after 2 steps (max_steps 2)" in capsys.readouterr().out
    assert main((*video, "--trainer.max_steps", "4", "--model.condition_dropout", "0.3")) == 0
    shown = capsys.readouterr()
    assert "video stage: going on from runs/lift/video/checkpoints/last.ckpt" in shown.out
    assert "changed config: model.condition_dropout: was 0.0, is 0.3" in shown.err
    assert json.loads(finished.read_text())["global_step"] == 4
    recorded = yaml.safe_load(Path("runs/lift/video/config.yaml").read_text())
    assert (recorded["trainer"]["max_steps"], recorded["stage"], recorded["run_dir"]) == (4, "video", "runs/lift")
    assert main(["validate", "-c", "runs/lift/video/config.yaml"]) == 0  # a recorded config knows its stage


def composed(words: list[str], stage: str) -> StageRun:
    line = parse(["fit", *words])
    return StageRun(line.stage_config(line.experiment(), stage))


def test_a_stage_is_built_and_leaves_no_trace_before_it_runs(lift_overlay: list[str]) -> None:
    run = composed([*lift_overlay, "--model.num_predicted", "1"], "action")
    run.build()
    assert type(run.model).__name__ == "ActionStage"
    assert run.model.num_predicted == 1
    assert run.datamodule.batch_size == 2
    names = [type(callback).__name__ for callback in run.trainer.callbacks]
    assert {"CheckpointHandoff", "LastCheckpoint", "BestCheckpoint", "StageProgress", "LearningRateMonitor"} <= set(
        names
    )
    assert names.count("CheckpointHandoff") == 1
    assert not Path("runs").exists()


def test_the_joint_stage_is_a_whole_run_without_a_handoff(
    capsys: pytest.CaptureFixture[str], joint_overlay: list[str]
) -> None:
    run, fit = Path("runs/robocasa_joint"), ("fit", *joint_overlay)
    assert main(fit) == 0
    assert json.loads((run / "joint" / "finished.json").read_text())["global_step"] == 2
    assert not (run / "handoff").exists()
    assert main(fit) == 0
    assert "joint stage: finished after 2 steps (max_steps 2)" in capsys.readouterr().out
    assert main((*fit, "--trainer.max_steps", "4")) == 0
    assert "joint stage: going on from runs/robocasa_joint/joint/checkpoints/last.ckpt" in capsys.readouterr().out
    assert json.loads((run / "joint" / "finished.json").read_text())["global_step"] == 4
    assert main(["validate", "-c", str(run / "config.yaml")]) == 0  # the merged experiment knows its stage
    assert "val/action_error" in capsys.readouterr().out
    assert (run / "joint" / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--handoff", "x"], "handoff: a JointStage trains all its networks"),
        (
            ["--trainer.callbacks", "[{class_path: CheckpointHandoff, init_args: {folder: x}}]"],
            "trainer.callbacks: CheckpointHandoff: a JointStage trains all its networks",
        ),
        (["--stage", "video"], "has no stage 'video'; it has joint."),
        (["--model.video_weight", "2"], "video_weight is 2"),
    ],
)
def test_what_the_joint_stage_would_ignore_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], joint_overlay: list[str]
) -> None:
    assert message in refusal(capsys, "fit", *joint_overlay, *options)


def test_the_best_policy_is_the_most_successful_one_where_there_are_rollouts(
    lift_overlay: list[str],
) -> None:
    assert composed(lift_overlay, "action").config.best_checkpoint.monitor == "rollout/success_rate"
    assert composed(lift_overlay, "video").config.best_checkpoint.monitor is None
    assert composed([*lift_overlay, "--rollout", "null"], "action").config.best_checkpoint.monitor is None
