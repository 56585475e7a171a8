"""The verb: what it prints and writes, there and back through files, and what it refuses before it reads."""

import json
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from tests.reference_parts import UNET, first_stage_only
from tests.videopolicy.test_converted_runs import ROBOCASA, experiment, part_file, small_weights
from videopolicy.main import main

__all__ = ["experiment", "part_file", "small_weights"]  # fixtures


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
    tmp_path: Path, published: Path, small_weights: Mapping[str, Tensor], experiment: list[str], ending: str
) -> None:
    native, back = tmp_path / "native.ckpt", tmp_path / f"back{ending}"
    assert convert("reference", "native", published, native, *experiment) == 0
    assert convert("native", "reference", native, back) == 0, "it describes its networks itself"
    table = load_file(back) if ending == ".safetensors" else torch.load(back, weights_only=True)["state_dict"]
    assert table.keys() == small_weights.keys()
    assert all(torch.equal(table[name], w) and table[name].dtype == w.dtype for name, w in small_weights.items())
    again = tmp_path / "again.ckpt"
    assert convert("reference", "native", back, again, *experiment) == 0
    first, second = (torch.load(path, weights_only=True) for path in (native, again))
    for entry in ("state_dict", "reference_only"):
        assert first[entry].keys() == second[entry].keys()
        assert all(torch.equal(first[entry][name], w) for name, w in second[entry].items())


def test_the_table_says_what_was_found_and_where_it_is(
    tmp_path: Path,
    small_weights: Mapping[str, Tensor],
    part_file: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(first_stage_only(small_weights), tmp_path / "flat.ckpt")  # without `state_dict` around it
    flat, native = tmp_path / "flat.ckpt", tmp_path / "native.ckpt"
    assert convert("reference", "native", flat, native, "--dtype", "bfloat16", *part_file) == 0
    printed = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if "│" in line}
    assert "422/422" in rows["video U-Net"]
    assert "float32 to bfloat16" in rows["video U-Net"]
    assert "absent" in rows["adapter"]
    assert f"{tmp_path / 'native.ckpt'}: native, 0.00 GB" in printed
    state = torch.load(tmp_path / "native.ckpt", weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


def test_a_mutilated_file_is_refused_by_name_unless_told_to_ignore_it(
    tmp_path: Path,
    small_weights: dict[str, Tensor],
    experiment: list[str],
    part_file: list[str],
    refusal: Said,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = first_stage_only(small_weights)
    del weights[UNET + "out.2.bias"]
    torch.save(weights, tmp_path / "cut.ckpt")
    arguments = ("reference", "native", tmp_path / "cut.ckpt", tmp_path / "native.ckpt", *part_file)
    assert f"1 of its weights do not fit: missing: {UNET}out.2.bias" in refusal(*arguments)
    assert not (tmp_path / "native.ckpt").exists()
    assert "forgives nothing" in refusal(*arguments, "--ignore", "*.out.2.bias", "cond_stage.*")
    assert convert(*arguments, "--ignore", "*.out.2.bias") == 0
    assert f"left out: {UNET}out.2.bias (missing)" in capsys.readouterr().out
    arguments = (*arguments[:3], tmp_path / "whole.ckpt", *experiment, "--ignore", "*.out.2.bias")
    assert "1 weights are only in one of the file and the experiment's networks: video.unet." in refusal(*arguments)


def test_what_cannot_work_is_said_before_anything_is_read(
    tmp_path: Path, published: Path, experiment: list[str], refusal: Said
) -> None:
    native, new = tmp_path / "native.ckpt", tmp_path / "new.ckpt"
    native.write_text("there")
    whole, config = ("reference", "native", published), ("-c", ROBOCASA)
    assert "is there already; give another --output, or --force" in refusal(*whole, native, *config)
    assert native.read_text() == "there"
    assert "a native file ends in .ckpt" in refusal(*whole, tmp_path / "other.safetensors", *config)
    assert "--from reference: such a file does not say how large its networks are" in refusal(*whole, new)
    statistics = ("--statistics", tmp_path / "none.json")
    assert "--statistics: of no use without an experiment" in refusal(*whole, new, *statistics)
    assert "no such file" in refusal(*whole, new, "-c", tmp_path / "none.yaml")
    assert "no action statistics" in refusal(*whole, new, *config, *statistics)
    gone = tmp_path / "gone.ckpt"
    assert "no such file; correct --input" in refusal("reference", "native", gone, new, *config)
    torch.save({"state_dict": {"video.unet.unet.conv_in.bias": torch.zeros(2)}}, gone)
    assert "does not say of what networks its weights are" in refusal("native", "reference", gone, new)
    assert convert(*whole, native, "--force", *experiment) == 0


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
    tmp_path: Path, published: Path, experiment: list[str], refusal: Said, small_disk: None, ending: str
) -> None:
    before = sorted(os.listdir(tmp_path))
    message = refusal("reference", "reference", published, tmp_path / f"out{ending}", *experiment)
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
    assert "of its weights do not fit: " in message
    assert re.search(rf"misshaped: {re.escape(UNET)}\S+ is \([\d, ]+\), must be \([\d, ]+\)", message)
    shared = overlay(autoencoder={"init_args": {"separate_condition_encoder": False}})
    assert "--model.video experiments/networks/reference.yaml" in refusal(*arguments, shared)
