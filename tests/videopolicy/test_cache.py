"""`videopolicy cache` on a small experiment: filled, gone on with, refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from datamodules.datamodule import DemoDataModule
from datamodules.demos import DemoEntry
from datamodules.frozen_cache import CacheWriter, read_key
from networks import SVDAutoencoder
from networks.weight_hashes import latent_key
from tests.videopolicy.conftest import ROOT, tiny_overlay
from videopolicy.experiment.command_line import CommandLine
from videopolicy.experiment.stage_run import StageRun
from videopolicy.latent_encoding import FrameEncoder
from videopolicy.main import main

LIFT = ROOT / "experiments" / "lift.yaml"
SHAPE = {"block_out_channels": [32, 32, 32], "layers_per_block": 1}


@pytest.fixture
def overlay(tmp_path: Path, robomimic_file: Callable[..., Path]) -> Path:
    """Tiny parts with an autoencoder that has a posterior, its weights in a folder."""
    torch.manual_seed(0)
    SVDAutoencoder(**SHAPE).vae.save_pretrained(tmp_path / "vae")  # type: ignore[arg-type]
    content = tiny_overlay(LIFT, robomimic_file(), 1)
    video = content["model"]["init_args"]["video"]["init_args"]
    arguments = {**SHAPE, "pretrained": str(tmp_path / "vae")}
    video["autoencoder"] = {"class_path": "networks.SVDAutoencoder", "init_args": arguments}
    video["unet"]["init_args"] |= {"in_channels": 8, "out_channels": 4}
    video["preconditioning"] = {"class_path": "networks.EDMPreconditioning"}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def cache(overlay: Path, folder: Path, *more: str) -> int:
    return main(
        [
            "cache",
            "-c",
            str(LIFT),
            "-c",
            str(overlay),
            "--device",
            "cpu",
            "--variants",
            "1",
            "--output",
            str(folder),
            *more,
        ]
    )


def arrays(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.npy")}


def test_a_cache_is_filled_gone_on_with_and_fits_the_stage(
    overlay: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache(overlay, tmp_path / "whole") == 0
    said = capsys.readouterr().out
    assert "3 demos, " in said
    assert f"set data.init_args.latent_cache to {tmp_path / 'whole'}" in said

    encode, seen = FrameEncoder.encode_demo, []

    def killed_at_the_second(self: FrameEncoder, writer: CacheWriter, demo: DemoEntry) -> Iterator[int]:
        seen.append(demo.name)
        if len(seen) == 2:
            yield next(encode(self, writer, demo))
            raise KeyboardInterrupt
        yield from encode(self, writer, demo)

    monkeypatch.setattr(FrameEncoder, "encode_demo", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        cache(overlay, tmp_path / "again")
    assert cache(overlay, tmp_path / "again") == 0
    assert seen == ["demo_0", "demo_1", "demo_1", "demo_2"]
    assert arrays(tmp_path / "again") == arrays(tmp_path / "whole")
    assert cache(overlay, tmp_path / "again") == 0
    assert len(seen) == 4

    line = CommandLine("fit", [str(LIFT), str(overlay)])
    model, data = StageRun(line.stage_config(line.experiment(), "video")).parts()
    video = model.video
    wanted = latent_key(video.autoencoder, video.text_encoder, video.condition_noise)
    key = read_key(tmp_path / "whole") or {}
    assert {name: key[name] for name in wanted} == wanted
    assert isinstance(data, DemoDataModule)
    data.latent_cache = str(tmp_path / "whole")
    data.setup()
    assert data.train_set[0].latents is not None


def test_another_setting_is_refused_in_one_sentence_and_rebuilt_when_asked(
    overlay: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache(overlay, tmp_path / "cache") == 0
    capsys.readouterr()
    assert cache(overlay, tmp_path / "cache", "--variants", "0") == 2
    said = capsys.readouterr().err
    assert "this cache was made with variants: 1 here, 0 wanted" in said
    assert said.count("\n") == 1
    assert cache(overlay, tmp_path / "cache", "--variants", "0", "--rebuild") == 0
    assert (read_key(tmp_path / "cache") or {})["variants"] == 0


def test_pixels_are_not_worth_caching(
    lift_overlay: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", *lift_overlay, "--output", str(tmp_path / "cache")]) == 2
    assert "PixelShuffleAutoencoder has no posterior" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
    assert main(["cache", *lift_overlay, "--variants", "-1"]) == 2
