"""Stable Video Diffusion as a diffusers folder and as the original file, hub ids, and files that are something else."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from files.errors import UserError
from networks import SeededTextEncoder, SVDAutoencoder, VideoModel
from networks.video_unet import VideoUNet
from tests.reference_parts import AUTOENCODER, UNET, first_stage_only, reference_model
from videopolicy.conversion.plan import native_tables, plan, published_table
from videopolicy.conversion.source import Source, read_source

TEXT = "conditioner.embedders.0.open_clip.model."
SIZES = {"block_out_channels": (32, 64), "num_attention_heads": (2, 2), "layers_per_block": 1}
SIZES |= {"cross_attention_dim": 24, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24}
BLOCKS = {
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
}


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A folder as diffusers saves Stable Video Diffusion, tiny; the U-Net in shards."""
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(**SIZES, **BLOCKS)
    unet.save_pretrained(tmp_path / "svd" / "unet", max_shard_size="1MB")
    vae = AutoencoderKLTemporalDecoder(**AUTOENCODER, down_block_types=("DownEncoderBlock2D",) * 2)
    vae.half().save_pretrained(tmp_path / "svd" / "vae")
    return tmp_path / "svd"


@pytest.fixture
def networks(pipeline: Path) -> SimpleNamespace:
    """The networks of that folder."""
    autoencoder = SVDAutoencoder(**AUTOENCODER)
    unet = VideoUNet.from_pretrained(str(pipeline))
    return SimpleNamespace(video=VideoModel(unet, autoencoder, SeededTextEncoder(24), num_views=1, num_frames=2))


def stored(folder: Path) -> dict[str, Tensor]:
    return {key: tensor for path in sorted(folder.glob("*.safetensors")) for key, tensor in load_file(path).items()}


def test_a_diffusers_folder_becomes_ours_and_published(pipeline: Path, networks: SimpleNamespace) -> None:
    assert len(list((pipeline / "unet").glob("*.safetensors"))) > 1
    source = read_source("svd", str(pipeline))
    state, extras = native_tables(source, plan(source, networks))
    unet, vae = stored(pipeline / "unet"), stored(pipeline / "vae")
    wanted = {f"video.unet.unet.{key}": w for key, w in unet.items()}
    wanted |= {f"video.autoencoder.vae.{key}": w for key, w in vae.items()}
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], w) and state[name].dtype == w.dtype for name, w in wanted.items())
    assert extras == {}
    networks.video.unet.load_state_dict(
        {name.removeprefix("video.unet."): w for name, w in state.items() if name.startswith("video.unet.")}
    )

    native = Source("native.ckpt", "native", state)
    table = published_table(native, plan(native, networks))
    assert torch.equal(table[UNET + "input_blocks.0.0.weight"], unet["conv_in.weight"])
    query = "mid_block.attentions.0.to_q.weight"
    assert torch.equal(table["first_stage_model.encoder.mid.attn_1.q.weight"][..., 0, 0], vae[f"encoder.{query}"])
    again = Source("published.ckpt", "published", dict(table))
    back = native_tables(again, plan(again, networks))[0]
    folded = ("quant_conv", "encoder.conv_out")  # a random quant_conv is multiplied into the convolution before it
    assert all(torch.equal(back[name], w) for name, w in wanted.items() if not any(f in name for f in folded))


def test_problems_of_a_diffusers_folder_have_diffusers_names(pipeline: Path, networks: SimpleNamespace) -> None:
    weights = stored(pipeline / "vae")
    del weights["encoder.conv_in.bias"]
    save_file(weights, pipeline / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match=r"missing: vae/encoder\.conv_in\.bias\. "):
        plan(read_source("svd", str(pipeline)), networks)
    plan(read_source("svd", str(pipeline)), networks, ["vae/encoder.conv_in.*"])


def test_a_folder_without_a_part_is_named(pipeline: Path, tmp_path: Path) -> None:
    (pipeline / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights of vae could be had in this folder"):
        read_source("svd", str(pipeline))


def test_a_hub_id_that_cannot_be_reached_is_one_sentence() -> None:
    code = (
        "from videopolicy.conversion.source import read_source\n"
        "from files.errors import UserError\n"
        "try: read_source('svd', 'nobody/no-such-video-model')\n"
        "except UserError as error: print(error)"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("nobody/no-such-video-model: no weights of unet could be had from the hub ("), done
    assert done.stdout.count("\n") == 1


@pytest.fixture
def original(tmp_path: Path, reference_weights: Mapping[str, Tensor]) -> tuple[Path, dict[str, Tensor]]:
    """A file as Stability AI publishes it: a vision tower and its leftovers in place of the text tower."""
    weights = {name: w.clone() for name, w in first_stage_only(reference_weights).items() if not name.startswith(TEXT)}
    tower = {"visual.proj": torch.ones(4, 6), "visual.conv1.weight": torch.ones(3, 2)}
    leftovers = {
        "token_embedding.weight": torch.ones(5, 2),
        "logit_scale": torch.ones(()),
        "ln_final.bias": torch.ones(2),
    }
    path = tmp_path / "svd.safetensors"
    save_file({**weights, **{TEXT + name: w for name, w in {**tower, **leftovers}.items()}}, path)
    return path, weights


def test_the_original_file_becomes_ours_and_comes_back_without_its_vision_tower(
    original: tuple[Path, dict[str, Tensor]],
) -> None:
    path, weights = original
    source = read_source("svd", str(path))
    found = plan(source, reference_model())
    assert (found.parts[-1].label, found.parts[-1].keys, found.parts[-1].parameters) == (
        "vision tower, not used",
        5,
        24 + 6 + 10 + 1 + 2,
    )
    state, extras = native_tables(source, found)
    native = Source("native.ckpt", "native", {**state, **extras})
    table = published_table(native, plan(native, reference_model()))
    assert table.keys() == weights.keys()
    assert all(torch.equal(table[name], w) for name, w in weights.items())


def test_a_vision_tower_beside_a_text_tower_is_left_out(
    reference_weights: Mapping[str, Tensor], tmp_path: Path
) -> None:
    torch.save({**reference_weights, TEXT + "visual.proj": torch.ones(4, 6)}, tmp_path / "weights.ckpt")
    source = read_source("reference", str(tmp_path / "weights.ckpt"))
    assert source.unused == (1, 24)
    assert source.weights.keys() == reference_weights.keys()


def refusal(kind: str, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_source(kind, str(path))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_of_another_kind_is_refused_with_the_right_option(
    reference_weights: Mapping[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": dict(reference_weights)}, tmp_path / "published.ckpt")
    source = read_source("reference", str(tmp_path / "published.ckpt"))
    torch.save({"state_dict": native_tables(source, plan(source, reference_model()))[0]}, tmp_path / "native.ckpt")
    assert "is no native file but a reference one; give --from reference" in refusal(
        "native", tmp_path / "published.ckpt"
    )
    assert "is no reference file but a native one; give --from native" in refusal("reference", tmp_path / "native.ckpt")
    save_file({"resnet.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    assert "start like 'resnet.weight', but with --from svd" in refusal("svd", tmp_path / "other.safetensors")


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    assert "no such file; correct --input" in refusal("reference", tmp_path / "none.ckpt")
    assert "is a folder; only --from svd takes one" in refusal("reference", tmp_path)
    (tmp_path / "text.safetensors").write_text(json.dumps({"a": 1}) * 10)
    assert "damaged, or no .safetensors file" in refusal("svd", tmp_path / "text.safetensors")
    torch.save({"epoch": 3}, tmp_path / "empty.ckpt")
    assert "holds no table of weights; it has ['epoch']" in refusal("reference", tmp_path / "empty.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    assert "holds a list, not a checkpoint" in refusal("reference", tmp_path / "list.ckpt")


class Evil:
    """Pickles as a call that would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": Evil(tmp_path / "mark")}, tmp_path / "evil.ckpt")
    message = refusal("reference", tmp_path / "evil.ckpt")
    assert "save only its tensors where it came from: torch.save(" in message
    assert not (tmp_path / "mark").exists()
