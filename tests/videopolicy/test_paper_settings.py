"""What the paper's experiment files build is the published setting, without a flag: docs/fidelity.md, row by row.

That the classes themselves compute the published numbers is proven by the goldens (`python -m pytest -m golden`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor, nn

from datamodules import RoboCasaDataModule
from lightning_modules import ActionStage, JointStage, Stage, VideoStage
from networks import Conditioning, EDMPreconditioning
from policies import SharedLevels
from videopolicy.experiment.command_line import CommandLine
from videopolicy.experiment.skeleton import skeleton
from videopolicy.experiment.stage_run import StageRun

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
STAGES = [
    ("robocasa", "video"),
    ("robocasa", "action"),
    ("libero10", "video"),
    ("libero10", "action"),
    ("robocasa_joint", "joint"),
]
ROWS = {"robocasa": 25, "robocasa_joint": 25, "libero10": 17}
NARROW = {  # the published layout on few channels
    "unet.init_args": {
        "pretrained": None,
        "block_out_channels": [32, 32, 32, 32],
        "num_attention_heads": [2, 2, 2, 2],
        "cross_attention_dim": 16,
        "addition_time_embed_dim": 8,
    },
    "autoencoder.init_args": {"pretrained": None, "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1},
    "text_encoder": {"class_path": "networks.SeededTextEncoder", "init_args": {"embed_dim": 16}},
}


@pytest.fixture(scope="module")
def built() -> Callable[[str, str], Stage]:
    """A stage at its real size on the meta device."""
    stages: dict[tuple[str, str], Stage] = {}

    def build(name: str, stage: str) -> Stage:
        if (name, stage) not in stages:
            stages[name, stage] = skeleton([EXPERIMENTS / f"{name}.yaml"], stage)
        return stages[name, stage]

    return build


def narrow_parts(stage: str, demos: Path | str = "nowhere") -> tuple[Any, Any]:
    """Model and datamodule of robocasa.yaml; only widths and sizes are smaller than the file's."""
    overrides: list[tuple[str, Any]] = [("data.init_args.paths", str(demos)), ("data.init_args.image_size", 32)]
    for part, changes in NARROW.items():
        prefix = f"model.init_args.video.init_args.{part}."
        overrides += [(prefix + key, value) for key, value in changes.items()]
    line = CommandLine("fit", [str(EXPERIMENTS / "robocasa.yaml")], overrides, stage)
    return StageRun(line.stage_config(line.experiment(), stage)).parts()


@pytest.fixture(scope="module")
def narrow() -> VideoStage:
    torch.manual_seed(0)
    model, _ = narrow_parts("video")
    assert isinstance(model, VideoStage)
    return model


# --- networks and optimizers at the real size -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_every_res_block_normalises_with_the_trained_epsilon(
    built: Callable[[str, str], Stage], name: str, stage: str
) -> None:
    norms = {n: m for n, m in built(name, stage).video.unet.named_modules() if isinstance(m, nn.GroupNorm)}
    in_res_blocks = [norm.eps for n, norm in norms.items() if "res_block" in n]
    assert in_res_blocks == [1e-5] * 88


def trained(stage: Stage) -> Any:  # noqa: ANN401
    """What has the settings of training: the policy, or the video stage itself."""
    return stage if isinstance(stage, VideoStage) else stage.policy


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_frames_levels_guidance_and_taps(built: Callable[[str, str], Stage], name: str, stage: str) -> None:
    module = built(name, stage)
    assert module.video.num_rows == ROWS[name]
    assert module.video.latent_shape(module.data.image_size) == (ROWS[name], 4, 32, 32)
    assert (module.data.num_frames, module.data.frame_stride, module.data.action_horizon) == (8, 4, 32)
    assert isinstance(module.video.preconditioning, EDMPreconditioning)
    assert module.video.preconditioning.sigma_data == 1.0
    network = trained(module)
    sampler = network.sampler
    assert (sampler.guidance, sampler.scheduler) == (2.0, "EulerDiscreteScheduler")
    ramp = torch.linspace(0, 1, 30, dtype=torch.float64)
    levels = (700 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 700 ** (1 / 7))) ** 7
    torch.testing.assert_close(sampler.sigmas().double(), torch.cat([levels, torch.zeros(1)]), rtol=1e-6, atol=0)
    if isinstance(module, ActionStage | JointStage):
        assert network.taps == (9, 13, 16, 19, 22)
        assert isinstance(network.features, SharedLevels)
        assert not network.mask_padding


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_noise_levels_of_training_are_log_normal_with_mean_1_and_spread_1_6(
    built: Callable[[str, str], Stage], name: str, stage: str
) -> None:
    logs = trained(built(name, stage)).noise.sample(100_000).log()
    assert logs.mean().item() == pytest.approx(1.0, abs=0.02)
    assert logs.std().item() == pytest.approx(1.6, abs=0.02)


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_adam_is_constant_and_five_times_faster_for_adapter_and_action_network(
    built: Callable[[str, str], Stage], name: str, stage: str
) -> None:
    module = built(name, stage)
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)  # alone: with a schedule it would come in a dictionary
    rates = {"video": [1e-5], "action": [5e-5, 5e-5], "joint": [1e-5, 5e-5, 5e-5]}[stage]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates)
    counts = [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
    adapter_and_action = {"robocasa": [205_812_616, 161_359_111]}.get(name.removesuffix("_joint"))
    assert stage == "action" or counts[0] == 1_524_623_082
    assert adapter_and_action is None or stage == "video" or counts[-2:] == adapter_and_action


@pytest.mark.parametrize(("name", "stage"), [entry for entry in STAGES if entry[1] != "video"])
def test_video_and_action_rows_count_alike(built: Callable[[str, str], Stage], name: str, stage: str) -> None:
    """25/57 and 32/57 on RoboCasa; the joint loss itself is checked in tests/lightning_modules/test_joint_stage.py."""
    module, video_share = built(name, stage), ROWS[name] / (ROWS[name] + 32)
    if isinstance(module, JointStage):
        loss = module.policy.balanced(torch.tensor(1.0), torch.tensor(0.0), module.policy.video_weight)
        assert loss.item() == pytest.approx(video_share)
    else:
        assert isinstance(module, ActionStage)
        assert module.policy.loss_weight == pytest.approx(1 - video_share)


# --- conditions -------------------------------------------------------------------------------------------------------


def test_dropout_is_drawn_for_every_frame_and_apart_for_text_and_latents(narrow: VideoStage) -> None:
    ones = Conditioning(torch.ones(2000, 25, 1, 1, 1), torch.ones(2000, 25, 1, 1), torch.ones(2000, 25, 1, 1, 1))
    torch.manual_seed(0)
    dropped = ones.dropout(narrow.condition_dropout, narrow.dropout_scope)
    latents, text = dropped.latents.flatten(1) == 0, dropped.context.flatten(1) == 0
    for gone in (latents, text):
        assert gone.float().mean().item() == pytest.approx(0.1, abs=0.005)
        assert not gone.all(dim=1).any()  # never a whole sample
        assert (gone[:, 0] & gone[:, 1]).float().mean().item() == pytest.approx(0.01, abs=0.008)
    assert (latents & text).float().mean().item() == pytest.approx(0.01, abs=0.003)


def test_ids_are_frame_rate_motion_bucket_and_condition_noise_in_this_order(narrow: VideoStage) -> None:
    seen: list[Tensor] = []
    handle = narrow.video.unet.unet.add_time_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    run_network(narrow)
    handle.remove()
    torch.testing.assert_close(seen[0].view(1, 3), torch.tensor([[6.0, 100.0, 0.02]]))


def test_condition_latents_enter_neither_scaled_nor_multiplied_by_c_in(narrow: VideoStage) -> None:
    """At sigma 100 the noisy latents shrink a hundredfold; the condition stays the posterior's mode."""
    seen: list[Tensor] = []
    handle = narrow.video.unet.unet.conv_in.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    noisy, images = run_network(narrow, sigma=100.0)
    handle.remove()
    vae = narrow.video.autoencoder.vae
    with torch.no_grad():
        mode = vae.quant_conv(vae.encoder(images[0])).chunk(2, dim=1)[0]  # one image a row group: row 0, three cameras
    rows = mode[[0] + [1] * 8 + [2] * 8 + [3] * 8]
    torch.testing.assert_close(seen[0][:, 4:], rows, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen[0][:, :4], noisy[0] / (100.0**2 + 1) ** 0.5)


def test_conditioning_images_carry_noise_of_0_02_at_evaluation_too(narrow: VideoStage) -> None:
    seen: list[Tensor] = []
    encode = narrow.video.autoencoder.encode_condition
    current = torch.zeros(1, 3, 3, 64, 64)
    narrow.video.autoencoder.encode_condition = lambda images: (seen.append(images), encode(images))[1]
    narrow.eval().video.condition(current, ["lift"], seeds=[0])
    narrow.video.autoencoder.encode_condition = encode
    assert seen[0].shape[0] == 4  # row 0 has a draw of its own
    assert seen[0].std(dim=(1, 2, 3)).tolist() == pytest.approx([0.02] * 4, rel=0.05)
    assert not torch.equal(seen[0][0], seen[0][1])


def run_network(stage: VideoStage, sigma: float = 1.0) -> tuple[Tensor, Tensor]:
    """One pass over noise; returns the noisy latents and the conditioning images."""
    generator = torch.Generator().manual_seed(0)
    noisy = sigma * torch.randn(1, 25, 4, 8, 8, generator=generator)
    images = torch.rand(1, 4, 3, 64, 64, generator=generator) * 2 - 1
    conditioning = stage.video.condition_from_images(images, ["close the drawer"])
    with torch.no_grad():
        stage.video.denoise(noisy, torch.tensor([sigma]), conditioning)
    return noisy, images


# --- data -------------------------------------------------------------------------------------------------------------


def test_padding_is_raw_zeros_and_the_range_is_that_of_every_demo_of_every_task(
    robocasa_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Held-out demos count for the range; windows and colours are compared with the published ones in the goldens."""
    tasks = {"CloseDrawer": 0, "OpenDrawer": 1}
    files = [robocasa_file(name=f"{task}/demo.hdf5", task=task, seed=seed, size=32) for task, seed in tasks.items()]
    _, data = narrow_parts("video", tmp_path)
    assert isinstance(data, RoboCasaDataModule)
    actions = []
    for path in files:
        with h5py.File(path) as file:
            actions += [torch.from_numpy(demo["actions"][:, :7]) for demo in file["data"].values()]
    statistics = data.preprocessing.statistics
    assert (statistics.method, data.preprocessing.action_dims) == ("minmax", tuple(range(7)))
    assert len(data.val_set.demos) == 2  # one of each task is held out, and yet:
    assert statistics.minimum == pytest.approx(torch.cat(actions).amin(0).tolist())
    assert statistics.maximum == pytest.approx(torch.cat(actions).amax(0).tolist())
    window = data.train_set[data.train_set.demos[0].length - 1]  # a demo's last step: 31 of 32 actions are padding
    low, high = torch.tensor(statistics.minimum), torch.tensor(statistics.maximum)
    torch.testing.assert_close(window.actions[1:], (2 * (0 - low) / (high - low) - 1).expand(31, -1))
    assert window.action_is_pad.sum() == 31


@pytest.mark.parametrize("name", ["robocasa", "libero10", "robocasa_joint"])
def test_batches_precision_colours_and_steps(name: str) -> None:
    steps = {"robocasa": [369_000] * 2, "libero10": [170_000, 140_000], "robocasa_joint": [369_000]}[name]
    line = CommandLine("fit", [str(EXPERIMENTS / f"{name}.yaml")])
    experiment = line.experiment()
    stages = line.stages(experiment)
    assert len(stages) == len(steps)
    for stage, max_steps in zip(stages, steps, strict=True):
        document = StageRun(line.stage_config(experiment, stage)).document
        data, trainer = document["data"]["init_args"], document["trainer"]
        assert data["batch_size"] * trainer["devices"] * trainer["num_nodes"] == 32
        assert trainer["precision"] == "16-mixed"
        assert trainer["max_steps"] == max_steps
        assert data["colour_jitter"] == {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}
        assert (data["action_padding"], data["statistics"]) == ("zero", "minmax")
        assert data["cameras"][0] == "robot0_eye_in_hand"  # row 0 repeats the gripper camera's frame
