"""The verb: what it prints and writes, there and back through files, and what it refuses before it reads."""

import gzip
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from datamodules import ActionStatistics
from networks.checkpoints.layout import expected_weights
from tests.reference_parts import UNET, first_stage_only
from tests.videopolicy.conftest import ROOT
from tests.videopolicy.test_converted_runs import ROBOCASA, experiment, small_weights
from videopolicy.described_checkpoint import Description
from videopolicy.main import main

__all__ = ["experiment", "small_weights"]  # fixtures


@pytest.fixture
def published(tmp_path: Path, small_weights: dict[str, Tensor]) -> Path:
    path = tmp_path / "published.ckpt"
    torch.save({"state_dict": small_weights, "epoch": 3}, path)
    return path


def convert(kind: str, layout: str, source: object, target: Path, *more: object) -> int:
    given = ["convert", "--from", kind, "--to", layout, "--input", source, "--output", target, *more]
    return main([str(argument) for argument in given])


Said = Callable[..., str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Said:
    """The one line on stderr of a conversion that ends with status 2."""

    def refused(*arguments: object) -> str:
        capsys.readouterr()
        assert convert(*arguments) == 2  # type: ignore[arg-type]
        message = capsys.readouterr().err.strip()
        assert message.startswith("videopolicy convert: ")
        assert "\n" not in message
        return message

    return refused


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_there_and_back_through_files_every_bit_is_kept(
    tmp_path: Path, published: Path, small_weights: Mapping[str, Tensor], ending: str
) -> None:
    native, back = tmp_path / "native.ckpt", tmp_path / f"back{ending}"
    assert convert("reference", "native", published, native) == 0
    assert convert("native", "reference", native, back) == 0
    table = load_file(back) if ending == ".safetensors" else torch.load(back, weights_only=True)["state_dict"]
    assert table.keys() == small_weights.keys()
    assert all(torch.equal(table[name], w) and table[name].dtype == w.dtype for name, w in small_weights.items())
    again = tmp_path / "again.ckpt"
    assert convert("reference", "native", back, again) == 0
    first, second = (torch.load(path, weights_only=True) for path in (native, again))
    for entry in ("state_dict", "reference_only"):
        assert first[entry].keys() == second[entry].keys()
        assert all(torch.equal(first[entry][name], w) for name, w in second[entry].items())


def test_the_table_says_what_was_found_and_where_it_is(
    tmp_path: Path, small_weights: Mapping[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(first_stage_only(small_weights), tmp_path / "flat.ckpt")  # without `state_dict` around it
    assert convert("reference", "native", tmp_path / "flat.ckpt", tmp_path / "native.ckpt", "--dtype", "bfloat16") == 0
    printed = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if "│" in line}
    assert "422/422" in rows["video U-Net"]
    assert "float32 to bfloat16" in rows["video U-Net"]
    assert "absent" in rows["adapter"]
    assert f"{tmp_path / 'native.ckpt'}: native, 0.00 GB" in printed
    state = torch.load(tmp_path / "native.ckpt", weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


def test_a_mutilated_file_is_refused_by_name_unless_told_to_ignore_it(
    tmp_path: Path, small_weights: dict[str, Tensor], refusal: Said, capsys: pytest.CaptureFixture[str]
) -> None:
    del small_weights[UNET + "out.2.bias"]
    torch.save(small_weights, tmp_path / "cut.ckpt")
    arguments = ("reference", "native", tmp_path / "cut.ckpt", tmp_path / "native.ckpt")
    assert f"1 of its weights do not fit: missing: {UNET}out.2.bias" in refusal(*arguments)
    assert not (tmp_path / "native.ckpt").exists()
    assert "forgives nothing" in refusal(*arguments, "--ignore", "*.out.2.bias", "cond_stage.*")
    assert convert(*arguments, "--ignore", "*.out.2.bias") == 0
    assert f"left out: {UNET}out.2.bias (missing)" in capsys.readouterr().out


def test_what_cannot_work_is_said_before_anything_is_read(tmp_path: Path, published: Path, refusal: Said) -> None:
    native = tmp_path / "native.ckpt"
    native.write_text("there")
    assert "is there already; give another --output, or --force" in refusal("reference", "native", published, native)
    assert native.read_text() == "there"
    other = tmp_path / "other.safetensors"
    assert "a native file ends in .ckpt" in refusal("reference", "native", published, other)
    assert "convert --to native" in refusal("native", "reference", published, other, "-c", ROBOCASA)
    statistics = ("--statistics", tmp_path / "none.json")
    new = tmp_path / "new.ckpt"
    assert "--statistics: of no use without an experiment" in refusal(
        "reference", "native", published, new, *statistics
    )
    assert "no such file" in refusal("reference", "native", published, new, "-c", tmp_path / "none.yaml")
    assert "no action statistics" in refusal("reference", "native", published, new, "-c", ROBOCASA, *statistics)
    assert "no such file; correct --input" in refusal("reference", "native", tmp_path / "none.ckpt", new)
    assert convert("reference", "native", published, native, "--force") == 0


@pytest.fixture
def small_disk() -> Iterator[None]:
    """The kernel cuts every file of this process off at 1 MB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_a_write_that_fails_leaves_no_half_file(
    tmp_path: Path, published: Path, refusal: Said, small_disk: None, ending: str
) -> None:
    before = sorted(os.listdir(tmp_path))
    message = refusal("reference", "reference", published, tmp_path / f"out{ending}")
    assert "could not be written" in message
    assert "nothing was left behind" in message
    assert sorted(os.listdir(tmp_path)) == before


# --- with an experiment -----------------------------------------------------------------------------------------------


def test_statistics_come_from_a_file_from_the_demos_or_not_at_all(
    tmp_path: Path, published: Path, experiment: list[str], refusal: Said
) -> None:
    ends = {"minimum": [-1.0] * 7, "maximum": [2.0] * 7}
    (tmp_path / "ends.json").write_text(json.dumps(ends))
    native = tmp_path / "native.ckpt"
    arguments = ("reference", "native", published, native, "--force", *experiment)
    assert convert(*arguments, "--statistics", tmp_path / "ends.json") == 0
    document = torch.load(native, weights_only=True)
    assert document["preprocessing"]["statistics"]["maximum"] == ends["maximum"]
    assert document["preprocessing"]["cameras"][0] == "robot0_eye_in_hand"
    assert document["rollout"]["num_episodes"] == 2
    assert document["global_step"] == 0

    assert convert(*arguments) == 0
    measured = torch.load(native, weights_only=True)["preprocessing"]["statistics"]
    (kept,) = tmp_path.rglob("action_statistics-*.json")  # beside the demos
    assert json.loads(kept.read_text())["statistics"] == measured
    assert convert(*arguments, "--statistics", kept) == 0
    assert torch.load(native, weights_only=True)["preprocessing"]["statistics"] == measured

    (tmp_path / "no_demos.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"paths": str(tmp_path / "no")}}}))
    message = refusal(*arguments, "-c", tmp_path / "no_demos.yaml")
    assert 'Give --statistics FILE with {"minimum": [...], "maximum": [...]}, or put the demos' in message
    (tmp_path / "odd.json").write_text(json.dumps({"minimum": [0.0], "maximum": [1.0, 2.0]}))
    assert "1 minima and 2 maxima" in refusal(*arguments, "--statistics", tmp_path / "odd.json")


def test_networks_of_another_experiment_are_refused_by_name(
    tmp_path: Path, published: Path, experiment: list[str], refusal: Said
) -> None:
    def overlay(**unet: object) -> Path:
        path = tmp_path / "overlay.yaml"
        content = {"model": {"init_args": {"video": {"init_args": unet}}}}
        path.write_text(yaml.safe_dump(content))
        return path

    arguments = ("reference", "native", published, tmp_path / "native.ckpt", *experiment, "-c")
    wider = overlay(unet={"init_args": {"block_out_channels": [32, 64]}})
    message = refusal(*arguments, wider)
    assert "published.ckpt: 172 weights are not those of the experiment's networks: adapter.branches.0." in message
    assert "32, 1, 1, 1) in the file, (16, 64, 1, 1, 1) in the experiment" in message
    shared = overlay(autoencoder={"init_args": {"separate_condition_encoder": False}})
    assert "--model.video experiments/networks/reference.yaml" in refusal(*arguments, shared)


def test_reference_networks_fit_the_full_size_checkpoint(parity_dir: Path) -> None:
    """`-c experiments/robocasa.yaml --model.video experiments/networks/reference.yaml` takes the authors' files."""
    with gzip.open(parity_dir / "reference_keys.json.gz", "rt") as file:
        full = {name: tuple(shape) for name, shape in json.load(file)["full_size_keys"].items()}
    state = {w.native: w.native_shape for w in expected_weights(full, "published") if w.native is not None}
    description = Description([ROBOCASA], ROOT / "experiments" / "networks" / "reference.yaml", None)
    description.statistics = ActionStatistics((-1.0,) * 7, (1.0,) * 7)
    entries = description.entries("full", state)
    assert entries["policy"]["video"]["init_args"]["autoencoder"]["init_args"]["separate_condition_encoder"]
    assert entries["rollout"]["simulator"]["name"] == "robocasa"
