"""The table of weights in a file to convert: published layout, diffusers folder or hub id, or a checkpoint of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers.utils import cached_file

from files.errors import UserError
from networks.checkpoints.file import read_checkpoint, read_safetensors
from videopolicy.conversion.layout import Naming, part_of
from videopolicy.conversion.names import PREFIX_BY_PART

Kind = Literal["svd", "reference", "native"]
Advance = Callable[[int], object]
VISION = PREFIX_BY_PART["text"] + "visual."
# Where diffusers keeps a part, and the name in a stage's state dict that its keys get.
DIFFUSERS = {"unet": "video.unet.unet.", "vae": "video.autoencoder.vae."}
WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)
REFERENCE_ONLY = "reference_only"  # entry of a native file: published weights that our networks lack
DESCRIPTION = ("policy", "network", "preprocessing", "rollout")  # entries that outlive a conversion native to native


@dataclass
class Source:
    """What a file holds.

    Attributes:
        path: The file, for messages.
        naming: Whose names the weights have.
        weights: Tensors by name.
        unused: Number of tensors and of their numbers that belong to a vision tower, which the method does not use.
        description: Entries of a native file that say what it is.
        in_diffusers: Whether the names in the file are diffusers' (``unet/conv_in.weight``), not those of `weights`.
    """

    path: str
    naming: Naming
    weights: dict[str, Tensor]
    unused: tuple[int, int] = (0, 0)
    description: dict[str, Any] = field(default_factory=dict)
    in_diffusers: bool = False

    def shown(self, name: str) -> str:
        """A name as it stands in the file."""
        for folder, prefix in DIFFUSERS.items() if self.in_diffusers else ():
            if name.startswith(prefix):
                return f"{folder}/{name.removeprefix(prefix)}"
        return name


def read_source(kind: Kind, path: str, advance: Advance = lambda _: None) -> Source:
    """Read a file to convert, each tensor once.

    Args:
        kind: What it is said to be.
        path: A file; for ``svd`` also a folder or hub id.
        advance: Told the bytes of what was read, where that can be told.

    Raises:
        UserError: It is not there, damaged, holds code, or is of another kind.
    """
    where = Path(path).expanduser()
    path = str(where) if where.exists() else path
    if kind == "svd" and (where.is_dir() or (not where.exists() and path.count("/") == 1 and not where.suffix)):
        return Source(path, "native", _read_diffusers(path, advance), in_diffusers=True)
    if not where.is_file():
        folder = " is a folder; only --from svd takes one" if where.is_dir() else ": no such file; correct --input"
        raise UserError(f"{path}{folder}.")
    document: dict[str, Any] = (
        read_safetensors(where, advance) if where.suffix == ".safetensors" else read_checkpoint(where)
    )
    weights = _table(path, document)
    naming: Naming = "native" if kind == "native" else "published"
    _require_kind(path, kind, weights, naming)
    if naming == "native":
        extras = document.get(REFERENCE_ONLY) or {}
        description = {key: document[key] for key in DESCRIPTION if key in document}
        return Source(path, naming, {**weights, **extras}, description=description)
    del document
    return Source(path, naming, weights, _drop_vision_tower(kind, weights))


def _table(path: str, document: dict[str, Any]) -> dict[str, Tensor]:
    table = document.get("state_dict", document)
    if not isinstance(table, dict) or not table or not all(isinstance(value, Tensor) for value in table.values()):
        raise UserError(f"{path}: holds no table of weights; it has {sorted(map(str, document))[:10]}.")
    return dict(table)


def _require_kind(path: str, kind: Kind, weights: dict[str, Tensor], naming: Naming) -> None:
    ours = sum(part_of(name, "native") is not None for name in weights)
    published = sum(part_of(name, "published") is not None for name in weights)
    if max(ours, published) == 0:
        raise UserError(
            f"{path}: holds no weight of this method; its names start like {next(iter(weights))!r}, but with --from "
            f"{kind} they start like {'video.unet.' if naming == 'native' else PREFIX_BY_PART['unet']!r}."
        )
    if (ours > published) != (naming == "native"):
        other = "native" if ours > published else "reference"
        raise UserError(f"{path}: is no {kind} file but a {other} one; give --from {other}.")


def _drop_vision_tower(kind: Kind, weights: dict[str, Tensor]) -> tuple[int, int]:
    """Take out a vision tower; a stock SVD file has one, with what else its embedder holds."""
    prefix = PREFIX_BY_PART["text"]
    has_text = any(name.startswith(prefix + "transformer.") for name in weights)
    start = prefix if kind == "svd" and not has_text else VISION
    dropped = [weights.pop(name).numel() for name in list(weights) if name.startswith(start)]
    return len(dropped), sum(dropped)


# --- diffusers --------------------------------------------------------------------------------------------------------


def _read_diffusers(source: str, advance: Advance) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for folder, prefix in DIFFUSERS.items():
        for path in _weight_files(source, folder):
            safe = path.suffix == ".safetensors"
            table: dict[str, Tensor] = (
                read_safetensors(path, advance) if safe else _table(str(path), read_checkpoint(path))
            )
            weights |= {prefix + key: value for key, value in table.items()}
    return weights


def _weight_files(source: str, folder: str) -> list[Path]:
    """The files of one part: one, or the shards that an index names."""
    reason = f"{folder}/ has none of {', '.join(WEIGHT_FILES)}"
    for name in WEIGHT_FILES:
        try:
            found = _find(source, folder, name)
        except OSError as error:
            reason = str(error).splitlines()[0]
            continue
        if found.suffix != ".json":
            return [found]
        shards = sorted(set(json.loads(found.read_text())["weight_map"].values()))
        return [_find(source, folder, shard) for shard in shards]
    where = "in this folder" if Path(source).is_dir() else "from the hub"
    raise UserError(
        f"{source}: no weights of {folder} could be had {where} ({reason}); give a folder that a pipeline was saved "
        "to, or download one first."
    )


def _find(source: str, folder: str, name: str) -> Path:
    """A file of a pipeline, in its folder or from the hub.

    Raises:
        OSError: It is not there, or cannot be reached.
    """
    if not Path(source).is_dir():
        return Path(cached_file(source, name, subfolder=folder))
    path = Path(source) / folder / name
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    return path
