import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from files.errors import UserError
from networks.component_config import build
from networks.text import OpenCLIPTextEncoder, SeededTextEncoder, TextEncoder
from tests.goldens import check

TEXTS = ["open the drawer", "pick the mug from the counter and place it in the sink"]


class CountingEncoder(TextEncoder):
    """Counts the instructions it embeds."""

    embed_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.seen: list[str] = []

    @property
    def config(self) -> dict[str, Any]:
        return {}

    def embed(self, instructions: Sequence[str]) -> Tensor:
        self.seen += instructions
        return torch.stack([len(text) * self.weight for text in instructions])


@pytest.fixture(scope="module")
def tiny_tower(
    tmp_path_factory: pytest.TempPathFactory,
    parity_dir: Path,
    fill_by_rule: Callable[[Mapping[str, Sequence[int]]], dict[str, Tensor]],
) -> tuple[str, str]:
    """Name of the parity folder's tiny tower, made known to open_clip, and a file with its weights."""
    folder = tmp_path_factory.mktemp("open_clip")
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3}
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16}
    (folder / "parity-tiny.json").write_text(json.dumps({"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)
    prefix = "conditioner.embedders.0.open_clip.model."
    shapes = {prefix + key: value.shape for key, value in OpenCLIPTextEncoder("parity-tiny").tower.state_dict().items()}
    table = {key.removeprefix(prefix): value for key, value in fill_by_rule(shapes).items()}
    save_file(table | {"logit_scale": torch.ones(()), "visual.proj": torch.ones(2)}, folder / "tiny.safetensors")
    return "parity-tiny", str(folder / "tiny.safetensors")


@pytest.mark.golden
def test_embedding_is_the_published_one(
    parity_arrays: Callable[[str], dict[str, Tensor]], tiny_tower: tuple[str, str]
) -> None:
    arrays = parity_arrays("conditioner_tiny")
    encoder = OpenCLIPTextEncoder(*tiny_tower)
    np.testing.assert_array_equal(encoder.tokenizer(TEXTS), arrays["tokens"])
    check("conditioner_tiny crossattn", encoder(TEXTS)[:, None], arrays["crossattn"], 2e-5)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": {f"module.{k}": v for k, v in t.items()}}])
def test_weights_load_from_torch_files_too(
    tiny_tower: tuple[str, str], tmp_path: Path, wrap: Callable[[dict[str, Tensor]], Any]
) -> None:
    encoder = OpenCLIPTextEncoder(*tiny_tower)
    torch.save(wrap(encoder.tower.state_dict()), tmp_path / "weights.pt")
    again = OpenCLIPTextEncoder(tiny_tower[0], str(tmp_path / "weights.pt"))
    assert torch.equal(again(TEXTS), encoder(TEXTS))


def test_each_instruction_is_embedded_once() -> None:
    encoder = CountingEncoder()
    embedded = encoder(["lift", "stack", "lift"])
    encoder(["stack", "open"])
    assert encoder.seen == ["lift", "stack", "open"]
    assert embedded[:, 0].tolist() == [4, 5, 4]


def test_many_instructions_are_embedded_in_bounded_passes() -> None:
    encoder = CountingEncoder()
    texts = ["a" * length for length in range(1, 150)]
    assert encoder(texts)[:, 0].tolist() == list(range(1, 150))
    assert encoder.seen == texts


def test_new_weights_empty_the_memory() -> None:
    encoder = CountingEncoder()
    model = torch.nn.ModuleDict({"text": encoder})
    before = encoder(["lift"])
    model.load_state_dict({"text.weight": 2 * torch.ones(4)})
    assert torch.equal(encoder(["lift"]), 2 * before)
    model.double()
    encoder(["lift"])
    assert encoder.seen == ["lift"] * 3


def test_what_validation_remembers_serves_training() -> None:
    """Lightning validates in inference mode; tensors made there cannot enter a graph."""
    encoder = SeededTextEncoder()
    with torch.inference_mode():
        encoder(["lift the cube"])
    weight = torch.ones(32, requires_grad=True)
    (encoder(["lift the cube"]) * weight).sum().backward()
    assert weight.grad is not None


def test_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = SeededTextEncoder(), SeededTextEncoder(), SeededTextEncoder(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(TEXTS), again(TEXTS))
    assert not torch.allclose(first(TEXTS), other(TEXTS))


def test_seeded_encoder_tells_instructions_apart() -> None:
    objects = ["alphabet soup", "cream cheese", "ketchup", "tomato sauce", "milk"]
    texts = [f"pick up the {name} and place it in the basket" for name in objects]
    embedded = SeededTextEncoder(embed_dim=48)(texts)
    cosine = torch.nn.functional.cosine_similarity(embedded[:, None], embedded[None], dim=-1)
    assert (cosine - torch.eye(5)).max() < 0.9
    assert embedded.shape == (5, 48)
    assert embedded.std().item() == pytest.approx(1, abs=0.3)


def test_autocast_does_not_change_what_is_remembered() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        inside = SeededTextEncoder()(TEXTS)
    assert torch.equal(inside, SeededTextEncoder()(TEXTS))


def test_unknown_model_and_weights_are_refused(tiny_tower: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model 'ViT-Z'"):
        OpenCLIPTextEncoder("ViT-Z")
    with pytest.raises(UserError, match="neither a file nor a tag"):
        OpenCLIPTextEncoder(tiny_tower[0], "laion3b")
    save_file({"ln_final.weight": torch.ones(64)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="lacks 40 weights"):
        OpenCLIPTextEncoder(tiny_tower[0], str(tmp_path / "other.safetensors"))


def test_model_with_another_architecture_is_refused() -> None:
    with pytest.raises(UserError, match="no plain OpenCLIP tower"):
        OpenCLIPTextEncoder("ViT-B-32-quickgelu")


def test_config_rebuilds_the_encoder() -> None:
    encoder = SeededTextEncoder(embed_dim=16, seed=3)
    again = build(json.loads(json.dumps(encoder.config)))
    assert torch.equal(again(TEXTS), encoder(TEXTS))
