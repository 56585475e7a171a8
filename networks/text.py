"""Text towers: one embedding an instruction, computed once."""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import TextTransformer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from files.errors import UserError
from networks.component_config import describe
from networks.pretrained_files import weight_file
from networks.randomness import isolated_stream

WEIGHT_FILES = (  # of a model's folder, as open_clip and the hub name them
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
END_TOKEN = 49407  # of OpenCLIP's byte-pair vocabulary; embeddings are read where it stands
INSTRUCTIONS_PER_PASS = 64  # bounds memory when a data set brings thousands of instructions


class TextEncoder(nn.Module, ABC):
    """Embed instructions, remembering each distinct one. Never trained: its parameters take no gradient.

    The memory lives in main memory and is emptied when the weights change (loading, moving, casting).
    """

    embed_dim: int

    def __init__(self) -> None:
        super().__init__()
        self._remembered: dict[str, Tensor] = {}

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""

    @abstractmethod
    def embed(self, instructions: Sequence[str]) -> Tensor:
        """Pooled embeddings (N, embed_dim), always computed."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, instructions: Sequence[str]) -> Tensor:
        """Pooled embeddings (N, embed_dim) in float32, from memory where the instruction is known."""
        new = [text for text in dict.fromkeys(instructions) if text not in self._remembered]
        for start in range(0, len(new), INSTRUCTIONS_PER_PASS):
            some = new[start : start + INSTRUCTIONS_PER_PASS]
            # Outside inference mode, or what validation remembers could not be used in training.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self._remembered.update(zip(some, self.embed(some).float().cpu().unbind(), strict=True))
        return torch.stack([self._remembered[text] for text in instructions]).to(self.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TextEncoder":
        self._remembered.clear()
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        self._remembered.clear()
        super()._load_from_state_dict(state_dict, prefix, *args)


class OpenCLIPTextEncoder(TextEncoder):
    """Text tower of an OpenCLIP model: projected embedding at the end token, not normalised.

    Args:
        model: Model name that open_clip knows.
        pretrained: open_clip's tag of the weights (`laion2b_s32b_b79k` for the paper's ViT-H-14, downloaded), or a
            file of the whole model or of its text tower (.safetensors, .bin, .pt); None for random weights, always the
            same ones.
    """

    def __init__(self, model: str = "ViT-H-14", pretrained: str | None = None) -> None:
        super().__init__()
        settings = open_clip.get_model_config(model)
        if settings is None:
            raise UserError(
                f"text encoder: open_clip has no model {model!r}; it has {', '.join(open_clip.list_models())}."
            )
        text = settings["text_cfg"]
        unsupported = set(text) - {"context_length", "vocab_size", "width", "heads", "layers"}
        if unsupported or settings.get("quick_gelu"):
            raise UserError(
                f"text encoder: {model!r} is no plain OpenCLIP tower (sets {sorted(unsupported) or ['quick_gelu']}); "
                "choose one that is, such as ViT-H-14, ViT-L-14 or ViT-B-32."
            )
        self._config = {"model": model, "pretrained": pretrained}
        self.embed_dim = settings["embed_dim"]
        with isolated_stream(0):
            self.tower = TextTransformer(output_dim=self.embed_dim, **text)
        self.tokenizer = open_clip.get_tokenizer(model)
        if pretrained is not None:
            self.tower.load_state_dict(_text_weights(model, pretrained, set(self.tower.state_dict())))
        self.requires_grad_(False).eval()

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, self._config)

    def embed(self, instructions: Sequence[str]) -> Tensor:
        """Run the tower."""
        pooled: Tensor = self.tower(self.tokenizer(list(instructions)).to(self.device))
        return pooled


class SeededTextEncoder(TextEncoder):
    """A small OpenCLIP text tower with random weights that a seed decides: nothing to download.

    It tells instructions apart but knows nothing of language: two wordings are as different as two tasks.

    Args:
        embed_dim: Size of an embedding.
        width: Width of the tower.
        heads: Attention heads.
        layers: Transformer blocks.
        seed: Decides the weights.
    """

    def __init__(self, embed_dim: int = 32, width: int = 32, heads: int = 2, layers: int = 2, seed: int = 0) -> None:
        super().__init__()
        self._config = {"embed_dim": embed_dim, "width": width, "heads": heads, "layers": layers, "seed": seed}
        self.embed_dim = embed_dim
        with isolated_stream(seed):
            self.tower = TextTransformer(output_dim=embed_dim, width=width, heads=heads, layers=layers)
            _tell_apart(self.tower)
        self.tokenizer = open_clip.SimpleTokenizer()
        self.requires_grad_(False).eval()

    @property
    def config(self) -> dict[str, Any]:
        """Class and constructor arguments."""
        return describe(self, self._config)

    def embed(self, instructions: Sequence[str]) -> Tensor:
        """Run the tower."""
        pooled: Tensor = self.tower(self.tokenizer(list(instructions)).to(self.device))
        return pooled


def _tell_apart(tower: TextTransformer) -> None:
    """Sharp attention over unit-variance tokens: open_clip's own start leaves all instructions alike at the end token.

    Of ten LIBERO instructions that differ in an object, the closest two come out at a cosine of about 0.7 (1.0 before).
    """
    for name, parameter in tower.named_parameters():
        if parameter.ndim == 2:
            fan_in = parameter.shape[0] if name == "text_projection" else parameter.shape[1]
            gain = 5.0 if name.endswith("attn.in_proj_weight") else 1.0
            std = {"token_embedding.weight": 1.0, "positional_embedding": 0.5}.get(name, gain * fan_in**-0.5)
            nn.init.normal_(parameter, std=std)
    with torch.no_grad():
        tower.token_embedding.weight[END_TOKEN] = 0  # the end token says nothing itself, it gathers the others


def _text_weights(model: str, pretrained: str, wanted: set[str]) -> dict[str, Tensor]:
    """Weights of the text tower, from a tag (downloaded) or a file, without unpickling anything but tensors."""
    path = str(weight_file(pretrained, WEIGHT_FILES, "text encoder"))
    if not Path(path).exists():
        if not open_clip.pretrained.is_pretrained_cfg(model, pretrained):
            tags = open_clip.list_pretrained_tags_by_model(model)
            raise UserError(
                f"text encoder: {pretrained!r} is neither a file nor a tag of {model}; its tags are {tags}."
            )
        try:
            path = open_clip.download_pretrained(open_clip.get_pretrained_cfg(model, pretrained))
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"text encoder: {model} {pretrained!r} could not be downloaded ({error}); "
                "download the file elsewhere and set pretrained to its path."
            ) from error
    try:
        table = load_file(path) if path.endswith(".safetensors") else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"text encoder: {path} is damaged or no file of weights ({reason}); give another.") from error
    table = table.get("state_dict", table)
    prefixes = ("", "text.", "module.")
    weights = {key: table[p + key] for key in wanted for p in prefixes if p + key in table}
    if missing := sorted(wanted - set(weights)):
        raise UserError(
            f"text encoder: {path} lacks {len(missing)} weights of {model}'s text tower, {missing[0]} among them; "
            "give a file of this model."
        )
    return weights
