"""The resource report: published FLOPs, what really runs, and the memory of training by hand-made sizes."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import adam_8bit
from networks.adapter import Bottleneck
from videopolicy.experiment.command_line import CommandLine
from videopolicy.experiment.skeleton import random_stage, skeleton
from videopolicy.main import main
from videopolicy.profiling.counting import flop
from videopolicy.profiling.flops import (
    ACTION,
    ADAPTER,
    CONDITION,
    DECODE,
    ENCODE,
    TEXT,
    U_NET,
    count_replan,
    count_step,
    denoiser_calls,
    forward_by_part,
    on_shapes,
    random_batch,
)
from videopolicy.profiling.memory import Memory, Setting, optimizer_bytes, step_memory
from videopolicy.profiling.report import estimate

ROOT = Path(__file__).resolve().parents[2]
LIFT, ROBOCASA = (ROOT / "experiments" / f"{name}.yaml" for name in ("lift", "robocasa"))
BASELINE = ROOT / "experiments" / "baselines" / "diffusion_policy_small.yaml"
PLAIN = Setting("32-true", 2, 1, "auto", ())


@pytest.fixture(autouse=True)
def few_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are enough for what is tested here."""
    monkeypatch.setattr("videopolicy.profiling.memory.BATCH_SIZES", (1, 2))


@pytest.fixture
def tiny(lift_overlay: list[str]) -> list[str]:
    """`-c` arguments of lift with tiny networks."""
    return lift_overlay


def stage_of(tiny: list[str], name: str, **overrides: Any) -> Any:  # noqa: ANN401 - a stage of either kind
    keys = [(key.replace("__", "."), value) for key, value in overrides.items()]
    return skeleton([path for path in tiny if path != "-c"], name, keys)


# --- FLOPs ------------------------------------------------------------------------------------------------------------


def test_robocasas_parts_cost_what_the_published_networks_do(parity_dir: Path) -> None:
    with gzip.open(parity_dir / "reference_keys.json.gz", "rt") as stream:
        published = json.load(stream)["flops"]
    stage = skeleton([ROBOCASA], "action")
    with on_shapes(stage):
        counted = {name: count for name, (count, _) in forward_by_part(stage).items()}
        counted[ADAPTER] += rows_the_published_adapter_embeds_in_vain(stage)
    wanted = {
        U_NET: published["video_unet_25x32x32_b1"],
        ADAPTER: published["adapter_b1"],
        ACTION: published["action_b1"],
        ENCODE: published["vae_encode_25x256x256"],
        CONDITION: published["vae_encode_4x256x256"],
        DECODE: published["vae_decode_25x256x256"],
        TEXT: published["text_tower_1x77"],
    }
    assert counted == {name: pytest.approx(count, rel=0.001) for name, count in wanted.items()}


def rows_the_published_adapter_embeds_in_vain(stage: Any) -> int:  # noqa: ANN401 - an action stage
    """It embeds the noise level for each of 32 actions in every block and then cuts to the block's frames (1.6 %)."""
    taps, count = [torch.empty(1, 3, 8, tap.channels, tap.height, tap.width) for tap in stage.policy.adapter.taps], []
    for block in (module for module in stage.policy.adapter.modules() if isinstance(module, Bottleneck)):
        linear = block.emb[1]

        def add(_: Any, inputs: Any, __: Any, size: int = 2 * linear.weight.numel()) -> None:  # noqa: ANN401
            count.append(size * (32 - inputs[0].shape[1]))

        block.emb.register_forward_hook(add)
    stage.policy.adapter(taps, torch.empty(1, stage.video.unet.emb_dim))
    return sum(count)


@pytest.mark.slow  # a minute and a half
def test_robocasas_report_has_the_published_cost_of_a_replan(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert main(["profile", "-c", str(ROBOCASA), "--json", str(path)]) == 0
    replan = json.loads(path.read_text())["stages"]["action"]["replan"]
    assert (replan["denoiser_calls"], replan["guidance"]) == (30, True)
    assert replan["flop"] == replan["published_flop"] == pytest.approx(446e12, rel=0.01)
    assert replan["video_flop"] == pytest.approx(18.9e12, rel=0.01)


@pytest.mark.parametrize(("overlay", "name"), [("lift", "video"), ("lift", "action"), ("joint", "joint")])
def test_a_training_step_is_counted_as_it_runs(overlay: str, name: str, request: pytest.FixtureRequest) -> None:
    tiny = request.getfixturevalue(f"{overlay}_overlay")
    with on_shapes(shapes := stage_of(tiny, name)):
        counted = count_step(shapes, batch_size=2, caches_features=False)
    stage = real_stage(tiny, name)
    batch = random_batch(stage.data, 2)
    stage.video.text_encoder(batch.instructions)  # a known instruction
    losses: list[torch.Tensor] = []
    assert flop(lambda: losses.append(stage.training_step(batch, 0))) == counted.forward
    assert flop(losses[0].backward) == counted.backward


@pytest.mark.parametrize(("levels", "guidance"), [("SharedLevels", 2.0), ("FixedLevel", 2.0), ("FixedLevel", 1.0)])
def test_a_replan_is_counted_as_it_runs(levels: str, guidance: float, tiny: list[str]) -> None:
    overrides = {
        "model__init_args__features": {"class_path": levels, "init_args": {}},
        "model__init_args__sampler__init_args__guidance": guidance,
        "model__init_args__sampler__init_args__num_steps": 3,
    }
    shapes = stage_of(tiny, "action", **overrides)
    calls = denoiser_calls(shapes.policy.sampler)
    with on_shapes(shapes):
        forward = {name: count for name, (count, _) in forward_by_part(shapes).items()}
        counted = count_replan(shapes, forward, calls, video_passes=1)
    stage = real_stage(tiny, "action", **overrides)
    batch = random_batch(stage.data, 1)
    ran = flop(lambda: stage.policy.sample_batch(batch))
    assert counted.steps == 3
    assert counted.guidance == (guidance != 1.0)
    # counted apart: embeddings of noise levels, and what is computed once a replan rather than once a pass
    assert sum(counted.by_part.values()) == pytest.approx(ran, rel=0.02)


def real_stage(tiny: list[str], name: str, **overrides: Any) -> Any:  # noqa: ANN401 - a stage of either kind
    """As `skeleton`, with weights."""
    keys = [(key.replace("__", "."), value) for key, value in overrides.items()]
    return random_stage(CommandLine("fit", [path for path in tiny if path != "-c"], keys), name)


def test_cached_features_leave_the_video_network_out_of_the_step(tiny: list[str]) -> None:
    with on_shapes(stage := stage_of(tiny, "action")):
        plain, cached = (count_step(stage, 2, caches_features) for caches_features in (False, True))
    assert plain.cached == 0
    assert cached.cached > 0
    assert cached.by_part[U_NET] < 0.01 * plain.by_part[U_NET]  # the level's embedding alone
    assert cached.by_part[ADAPTER] == plain.by_part[ADAPTER]


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "shapes", "kept", "update"),
    [
        (partial(torch.optim.Adam, lr=1.0), [(64, 32), (64,), (64, 32)], 2 * 4 * 4160, 4 * 4160),
        (partial(torch.optim.Adam, lr=1.0, fused=True), [(64, 32)], 2 * 4 * 2048, 4 * 2048),
        (partial(torch.optim.SGD, lr=1.0, momentum=0.9), [(64, 32), (64,), (64, 32)], 4 * 4160, 4 * 4160),
        (partial(torch.optim.SGD, lr=1.0), [(64, 32), (64,), (64, 32)], 0, 4 * 2048),
        # a row and a column sum of the last two axes; one weight after the other
        (torch.optim.Adafactor, [(64, 32), (64,), (8, 4, 3, 3)], 4 * ((64 + 32) + 64 + 8 * 4 * (3 + 3)), 4 * 2048),
    ],
)
def test_the_optimizers_states_and_temporaries_are_counted(
    optimizer: Callable[..., Any], shapes: list[tuple[int, ...]], kept: int, update: int
) -> None:
    assert optimizer_bytes(optimizer, shapes) == (kept, update)


def test_eight_bit_adam_keeps_two_bytes_a_weight() -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `lean` is not installed")
    kept, _ = optimizer_bytes(adam_8bit, [(512, 512)])
    assert 2 * 512**2 < kept < 2.1 * 512**2
    assert optimizer_bytes(adam_8bit, [(32, 32)])[0] == 8 * 32**2  # too small to be worth it


def test_fsdp_divides_what_is_cut_and_gathers_it_by_layers() -> None:
    one = Memory(PLAIN, 1000, 800, 50, 400, (80, 400), {1: 10, 4: 40})
    assert list(one.kept.values()) == [1000, 400, 80, 0, 0]
    assert list(one.passing.values()) == [400, 0, 0]
    assert one.total(4) == 1480 + 400
    ddp = replace(one, setting=Setting("32-true", 2, 8, "ddp", ("TrainableWeightAveraging",)))
    assert list(ddp.kept.values()) == [1000, 400, 80, 400, 400]
    many = replace(one, setting=Setting("32-true", 2, 8, "ShardedStrategy", ()))
    assert list(many.kept.values()) == [200 + 100, 50, 10, 0, 0]
    assert many.total(4) == 360 + max(50, 700, 150 + 40)  # validation gathers all
    keeping = replace(one, setting=Setting("32-true", 2, 8, "ShardedStrategy", (), resharding=False))
    assert keeping.total(4) == 360 + 750 + 40


def test_the_largest_batch_is_the_last_that_fits() -> None:
    memory = Memory(PLAIN, 100, 0, 0, 20, (40, 30), {1: 20, 4: 50, 16: 290})  # 10 a window, then 20
    assert [memory.step(batch) for batch in (1, 3, 4, 5, 16, 17)] == [20, 40, 50, 70, 290, 310]
    assert memory.total(1) == 160 + 30  # the optimizer's step is the most
    assert memory.total(4) == 160 + 50
    assert [memory.largest_batch(size) for size in (189, 190, 209, 210, 229, 230, 470)] == [0, 2, 3, 4, 4, 5, 17]


def test_only_what_is_trained_has_gradients_and_states(tiny: list[str]) -> None:
    action = estimate(stage_of(tiny, "action"), PLAIN)
    trained = action.parts[ADAPTER].parameters + action.parts[ACTION].parameters
    weights = sum(part.parameters for part in action.parts.values())
    assert action.parts[U_NET].trainable == 0
    assert list(action.memory.kept.values()) == [4 * weights, 4 * trained, 2 * 4 * trained, 0, 0]


@pytest.mark.parametrize("half", [None, torch.bfloat16])
def test_gradient_checkpointing_needs_less_memory_and_more_work(half: torch.dtype | None, tiny: list[str]) -> None:
    stage = stage_of(tiny, "video")
    memory, steps = [], []
    with on_shapes(stage):
        for checkpointing in (False, True):
            stage.video.unet.gradient_checkpointing = checkpointing
            memory.append(step_memory(stage, 4, half, gradient_bytes=0, caches_features=False))
            steps.append(count_step(stage, 2, caches_features=False))
    assert memory[1] < 0.8 * memory[0]
    assert steps[1].forward == steps[0].forward
    assert steps[1].backward > 1.2 * steps[0].backward


def test_autocast_keeps_less(tiny: list[str]) -> None:
    stage = stage_of(tiny, "video")
    with on_shapes(stage):
        whole, half = (step_memory(stage, 16, dtype, 0, caches_features=False) for dtype in (None, torch.float16))
    assert 0.5 * whole < half < 0.9 * whole


def test_a_precision_that_the_stages_do_not_run_in_is_refused(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", *tiny, "--", "--trainer.precision", "bf16-true"]) == 2
    assert "trainer.precision is bf16-true" in capsys.readouterr().err


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_report_of_a_tiny_experiment_is_shown_and_written(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    assert main(["profile", *tiny, "--meta", "--json", str(path), "--", "--data.batch_size", "7"]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("video stage", "action stage", "Parts", "Work", "never checked on a GPU"))
    report = json.loads(path.read_text())
    assert set(report) == {"experiment", "overrides", "counted", "commit", "date", "stages"}
    assert {stage["setting"]["batch_size"] for stage in report["stages"].values()} == {7}
    units = ("_bytes", "_flop", "parameters", "trainable", "forward_of")
    parts = report["stages"]["action"]["parts"]
    assert all(key.endswith(units) for part in parts.values() for key in part)
    assert report["stages"]["video"]["memory"]["as configured"]["total_bytes"] > 0


def test_what_fits_is_told_for_every_way_to_train(tiny: list[str], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert main(["profile", *tiny, "--fits", "--json", str(path)]) == 0
    stages = json.loads(path.read_text())["stages"]
    ways = {(w["trained"], w["optimizer"], w["devices"]): w["bytes_by_use"] for w in stages["video"]["ways"]}
    own = next(optimizer for trained, optimizer, _ in ways if trained == "every weight")
    whole, adapters = (ways[trained, own, "1"] for trained in ("every weight", "LoRA, rank 32"))
    assert adapters["gradients"] != whole["gradients"] > 0
    assert ways["every weight", "Adafactor", "1"]["optimizer state"] < 0.5 * whole["optimizer state"]
    assert ways["every weight", own, "8, DDP"]["DDP's copy of the gradients"] == whole["gradients"]
    assert ways["every weight", own, "8, FSDP"]["optimizer state"] == whole["optimizer state"] // 8
    assert {way["trained"] for way in stages["action"]["ways"]} == {"as configured"}


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-c", "experiments/lifd.yaml"], "experiments/lifd.yaml: no such file"),
        (["-c", str(LIFT), "--stage", "joint"], "lift.yaml has no stage 'joint'; it has video and action."),
        (["-c", str(LIFT), "--stage", "vidio"], "--stage vidio: no such stage; did you mean 'video'?"),
        (["-c", str(LIFT), "-c", str(BASELINE)], "action stage trains a DiffusionPolicy, whose parts profile does not"),
        (["-c", str(LIFT), "--json", "no/such/folder.json"], "--json no/such/folder.json: cannot be written"),
        (["-c", str(LIFT), "--", "--data.batch_sise", "4"], "batch_size"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("videopolicy profile: ")
    assert error.count("\n") == 1
