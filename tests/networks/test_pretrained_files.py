"""Pretrained weights as people have them on disk: files, folders, half-precision variants, a home directory."""

import shutil
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import save_file

from files.errors import UserError
from networks import OpenCLIPTextEncoder, SVDAutoencoder, VideoUNet
from videopolicy.conversion.source import read_source

SMALL = {
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "num_attention_heads": (2, 2),
    "cross_attention_dim": 16,
    "addition_time_embed_dim": 8,
}
VAE = {"block_out_channels": (32, 32), "layers_per_block": 1}
TEXT = {"embed_dim": 16, "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}


@pytest.fixture
def tiny_clip(monkeypatch: pytest.MonkeyPatch) -> str:
    """A model of open_clip that is small."""
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: TEXT)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: open_clip.SimpleTokenizer())
    return "ViT-B-32"


@pytest.mark.parametrize(
    "name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin"]
)
def test_a_text_tower_is_found_in_its_folder(
    name: str, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = OpenCLIPTextEncoder(tiny_clip)
    folder = tmp_path / "my clip #1"
    folder.mkdir()
    state = tower.tower.state_dict()
    save_file(state, folder / name) if name.endswith("safetensors") else torch.save(state, folder / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (str(folder), str(folder / name), "~/my clip #1"):
        loaded = OpenCLIPTextEncoder(tiny_clip, pretrained=given)
        assert torch.equal(loaded(["lift the cube"]), tower(["lift the cube"]))


def test_a_folder_without_a_text_tower_and_a_damaged_file_are_one_sentence(tiny_clip: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"is a folder with notes\.txt; it has none of open_clip_model\.safetensors"):
        OpenCLIPTextEncoder(tiny_clip, pretrained=str(tmp_path))
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"12345")
        with pytest.raises(UserError, match="is damaged or no file of weights"):
            OpenCLIPTextEncoder(tiny_clip, pretrained=str(tmp_path / name))


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[[str | None], Path]:
    """A saved pipeline, tiny, its weights of one kind alone."""

    def save(variant: str | None) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / f"svd {variant}"
        half = VideoUNet(**SMALL, zero_init=False).unet.half()  # type: ignore[arg-type]
        half.save_pretrained(folder / "unet", variant=variant)
        down = ("DownEncoderBlock2D",) * 2
        vae = AutoencoderKLTemporalDecoder(**VAE, down_block_types=down).half()
        vae.save_pretrained(folder / "vae", variant=variant)
        return folder

    return save


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_training_and_conversion_read_the_same_pipelines(
    variant: str | None, pipeline: Callable[[str | None], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pipeline(variant)
    monkeypatch.setenv("HOME", str(tmp_path))
    converted = read_source("svd", str(folder)).weights
    assert read_source("svd", f"~/{folder.name}").weights.keys() == converted.keys()
    file = next((folder / "unet").glob("*.safetensors"))
    for given in (str(folder), f"~/{folder.name}", str(folder / "unet"), str(file)):
        unet = VideoUNet(**SMALL, pretrained=given)  # type: ignore[arg-type]
        assert next(unet.parameters()).dtype == torch.float32
        weight = unet.unet.conv_in.weight
        assert torch.equal(weight, converted["video.unet.unet.conv_in.weight"].float())
    for given in (str(folder), str(folder / "vae")):
        vae = SVDAutoencoder(pretrained=given, **VAE).vae  # type: ignore[arg-type]
        assert torch.equal(
            vae.encoder.conv_in.weight, converted["video.autoencoder.vae.encoder.conv_in.weight"].float()
        )


def test_a_single_file_of_another_layout_names_the_way(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "svd.safetensors")
    for load in (
        lambda: VideoUNet(**SMALL, pretrained=str(tmp_path / "svd.safetensors")),  # type: ignore[arg-type]
        lambda: SVDAutoencoder(pretrained=str(tmp_path / "svd.safetensors")),
    ):
        with pytest.raises(UserError, match="is a single file without a config"):
            load()


def test_a_folder_without_weights_is_one_sentence(pipeline: Callable[[str | None], Path]) -> None:
    folder = pipeline("fp16")
    shutil.rmtree(folder / "vae")
    next((folder / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="video U-Net: cannot load"):
        VideoUNet(**SMALL, pretrained=str(folder))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="autoencoder: no AutoencoderKLTemporalDecoder could be loaded"):
        SVDAutoencoder(pretrained=str(folder))


def test_a_hub_id_without_a_connection_is_one_sentence(tiny_clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot load `somebody/svd`"):
        VideoUNet(**SMALL, pretrained="somebody/svd")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"could be loaded from `somebody/svd`"):
        SVDAutoencoder(pretrained="somebody/svd")
