"""Taking weights out of a stage's checkpoint file: a converted one, or ours, in place of a handoff or to start from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from files.differences import differing_keys
from files.errors import UserError
from lightning_modules import Stage
from networks import read_checkpoint
from networks.component_config import plain_network
from policies.checkpoint import current_description

PARTS = {  # names in a stage's state dict, and what they are; any of these parts may be absent as a whole
    "video.unet.": "video U-Net",
    "video.preconditioning.": "preconditioning",
    "video.autoencoder.condition_encoder.": "condition encoder",
    "video.autoencoder.": "video autoencoder",
    "video.text_encoder.": "text tower",
    "adapter.": "adapter",
    "action_unet.": "action U-Net",
    "standardizer.": "feature statistics",
}
POLICY_PARTS = ("adapter", "action U-Net", "feature statistics")
MUST_HAVE = ("video U-Net", "preconditioning")


class StageFile:
    """A checkpoint file of a stage, read as plain data and left on disk until its weights are used.

    Args:
        path: The file.

    Attributes:
        weights: The state dict.

    Raises:
        UserError: It is not there, damaged, holds code, or no state dict.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document = read_checkpoint(path, mapped=True)
        self.weights: dict[str, Tensor] = self.document.get("state_dict") or {}
        if not any(name.startswith("video.unet.") for name in self.weights):
            raise UserError(
                f"{path}: no checkpoint of a stage (no `video.unet.` in its state_dict); convert it first: "
                "videopolicy convert --to native."
            )

    @property
    def network(self) -> dict[str, Any] | None:
        """Description of the video network, where the file has one; the names of pretrained weights left out."""
        policy = self.document.get("policy")
        found = self.document.get("network") or (policy and current_description(policy)["init_args"].get("video"))
        return None if found is None else plain_network(found)

    @property
    def data(self) -> dict[str, Any] | None:
        """What its network saw, where the file says."""
        found: dict[str, Any] | None = self.document.get("preprocessing")
        return None if found is None else json.loads(json.dumps(found))

    def load(self, stage: nn.Module, parts: Sequence[str]) -> list[str]:
        """Load some parts into a stage; a part that the file lacks keeps its weights.

        Args:
            stage: The stage, its networks built.
            parts: Values of `PARTS`.

        Returns:
            The parts that kept their own weights.

        Raises:
            UserError: A part is there in pieces, has other shapes, or is none of the stage's.
        """
        own = stage.state_dict()
        wanted = {part: {n: w for n, w in own.items() if part_of(n) == part} for part in parts}
        found = {part: {n: w for n, w in self.weights.items() if part_of(n) == part} for part in parts}
        absent = [part for part in parts if wanted[part] and not found[part]]
        wrong = [f"{part}: not in the file" for part in absent if part in MUST_HAVE]
        for part in parts:
            if part not in absent:
                wrong += differing_keys(_shapes(found[part]), _shapes(wanted[part]))
        if wrong:
            more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise UserError(
                f"{self.path}: its weights do not fit the {type(stage).__name__}: {'; '.join(wrong[:10])}{more}. "
                "Use the networks that it was made with (of a published checkpoint: --model.video "
                "experiments/networks/reference.yaml)."
            )
        stage.load_state_dict({name: w for part in parts for name, w in found[part].items()}, strict=False)
        return absent


def part_of(name: str) -> str | None:
    """The part of a stage that a name in its state dict belongs to."""
    return next((part for prefix, part in PARTS.items() if name.startswith(prefix)), None)


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Shapes by name; statistics take theirs from the file."""
    return {n: "any" if part_of(n) == "preconditioning" else list(w.shape) for n, w in weights.items()}


def require_same_network(file: StageFile, stage: Stage) -> None:
    """Refuse a file that says it holds another video network.

    Raises:
        UserError: The message lists the differing keys.
    """
    if file.network is None:
        return
    if wrong := differing_keys({"network": file.network}, {"network": plain_network(stage.video.config)}):
        raise UserError(
            f"{file.path}: holds another video network: {'; '.join(wrong)}. Use the networks that it was made with."
        )
