"""The border between the stages: a folder with the video U-Net, its statistics and a manifest."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file
from torch import Tensor

from callbacks.finite_training import require_finite
from callbacks.stage_file import PARTS, POLICY_PARTS, StageFile
from callbacks.weight_averaging import TrainableWeightAveraging
from files.differences import differing_keys
from files.errors import UserError
from files.hashes import file_sha256
from files.writing import sync, write_json
from lightning_modules import ActionStage, Stage, VideoStage
from networks import VideoModel
from networks.checkpoints.file import write_safetensors
from networks.component_config import plain_network
from networks.weight_hashes import fingerprint, state_sha256

MANIFEST = "manifest.json"
WEIGHTS = "video.safetensors"
NEW_WEIGHTS = "video.new.safetensors"  # until the manifest speaks of them
FORMAT = 1


class CheckpointHandoff(Callback):
    """Write the trained video network when stage 1 ends; load it, freeze it and guard it in stage 2.

    The folder holds ``video.safetensors`` (U-Net and preconditioning statistics, averaged weights if the run averages,
    with the adapters of LoRA summed in) and ``manifest.json``: SHA-256 of the weights, network config, hashes of the
    frozen autoencoder and text tower, cameras, frame counts. The manifest is replaced in one step
    once the weights that it speaks of are on disk, so wherever a run ends, the old handoff or the new one is whole.

    In stage 2 the manifest is compared key by key with the action stage's own network and data before any weight is
    loaded; a difference is an error that lists the keys. The loaded network gets no gradient, stays in eval mode and
    its hash is checked again when the stage ends.

    In stage 2 the checkpoint *file* of a video (or action) stage may stand in the folder's place: a converted one, or
    ``last.ckpt``. It must describe its network and data, which are compared as a manifest's are; its autoencoder and
    text tower are loaded too.

    The scale of actions is not compared: stage 1 reads no action, and stage 2 takes it from the demos whose actions it
    learns, which may be few of those that stage 1 watched.

    Args:
        folder: The handoff folder, shared by both stages; or for stage 2 a checkpoint file.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser()
        self._written = False
        self._sha256 = ""

    # --- stage 2: load, freeze, guard ---------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the handoff into an action stage that is about to be trained."""
        if stage == "fit" and isinstance(pl_module, VideoStage) and self.folder.is_file():
            raise UserError(
                f"{self.folder}: a file stands where this video stage would write its handoff; to use that file's "
                "video network in the action stage, add --stage action."
            )
        if stage == "fit" and isinstance(pl_module, ActionStage):
            datamodule = getattr(trainer, "datamodule", None)
            if datamodule is not None and pl_module.preprocessing is None:
                pl_module.attach(datamodule.preprocessing)
            self.load_into(pl_module)

    def load_into(self, stage: ActionStage) -> None:
        """Check the manifest against a stage, load the weights and freeze them.

        Raises:
            UserError: Nothing to load, damaged weights, or a handoff of another network or other data.
        """
        if self.folder.is_file():
            self._load_file(stage)
        else:
            self._load_folder(stage)
        stage.video.freeze()
        self._sha256 = state_sha256(handoff_state(stage.video))

    def _load_folder(self, stage: ActionStage) -> None:
        manifest, wanted = read_manifest(self.folder), describe(stage)
        if "frozen" not in manifest:  # an older one tells autoencoder and text tower by the names of their weights
            wanted = {"network": json.loads(json.dumps(stage.video.config)), "data": wanted["data"]}
        self._require_fit(self.folder / MANIFEST, manifest, wanted)
        load_handoff_state(stage.video, load_file(find_weights(self.folder, manifest)))

    def _load_file(self, stage: ActionStage) -> None:
        file, wanted = StageFile(self.folder), describe(stage)
        if file.network is None or file.data is None:
            raise UserError(
                f"{self.folder}: holds weights without a description of network and data, so nothing can be compared; "
                "convert it again with the experiment: videopolicy convert -c experiments/robocasa.yaml ...."
            )
        found = {"network": file.network, "data": {key: file.data.get(key) for key in wanted["data"]}}
        self._require_fit(self.folder, found, {name: wanted[name] for name in found})
        kept = file.load(stage, [part for part in PARTS.values() if part not in POLICY_PARTS])
        if kept:
            rank_zero_info(f"handoff: {self.folder} lacks {', '.join(kept)}; they keep the weights that they have.")

    def _require_fit(self, path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Refuse another network or other data, key by key."""
        older = ("statistics",)  # an older manifest has the scale of actions, which stage 1 does not read
        here = {name: {k: v for k, v in (found.get(name) or {}).items() if k not in older} for name in wanted}
        if wrong := differing_keys(here, wanted):
            raise UserError(
                f"{path}: the handoff does not fit this action stage: "
                + "; ".join(wrong)
                + ". Train the video stage with these settings (make train-video) or change the action stage's."
            )

    # --- a run that goes on ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Which video network the action stage is trained on."""
        return {"sha256": self._sha256}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with another video network than the run began with.

        Raises:
            UserError: The handoff was replaced.
        """
        before = state_dict.get("sha256", "")
        if self._sha256 and before and before != self._sha256:
            raise UserError(
                f"{self.folder}: holds another video network than the one that this action stage was trained on; give "
                "the old --handoff, or another --run_dir to train the action stage anew."
            )

    # --- stage 1: write -----------------------------------------------------------------------------------------

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the handoff of a finished video stage; prove that stage 2 left the video network alone."""
        if isinstance(pl_module, VideoStage):
            self._write(trainer, pl_module)
        elif isinstance(pl_module, ActionStage) and self._sha256 not in (
            "",
            state_sha256(handoff_state(pl_module.video)),
        ):
            raise RuntimeError("the frozen video network changed during the action stage")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand over where no step was left to train: ``max_steps: 0``, or killed between last step and handoff."""
        if isinstance(pl_module, VideoStage) and not self._written:
            self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, stage: VideoStage) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        averaging = [callback for callback in callbacks if isinstance(callback, TrainableWeightAveraging)]
        with averaging[0].averaged(stage) if averaging else nullcontext():
            require_finite(trainer, handoff_state(stage.video), "that would be handed over")
            state = trainer.strategy.lightning_module_state_dict()  # gathers the shards under FSDP
            if trainer.is_global_zero:
                state = stage.plain_state(state)
                video = {
                    name.removeprefix("video."): value for name, value in state.items() if name.startswith("video.")
                }
                write_handoff(self.folder, _learned(video), describe(stage) | {"global_step": trainer.global_step})
        trainer.strategy.barrier("handoff")
        self._written = True


# --- the folder -------------------------------------------------------------------------------------------------


def describe(stage: Stage) -> dict[str, Any]:
    """What has to agree between the two stages, as a JSON-able document.

    The frozen networks are told by their weights, which may lie anywhere; the U-Net's own travel with the handoff.
    """
    data = json.loads(json.dumps(stage.data.to_dict()))
    keys = ("cameras", "image_size", "num_frames", "frame_stride")
    return {
        "network": plain_network(stage.video.config),
        "frozen": {name: fingerprint(getattr(stage.video, name)) for name in ("autoencoder", "text_encoder")},
        "data": {key: data[key] for key in keys},
    }


def write_handoff(folder: Path, state: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write weights and manifest; at every moment the folder holds the old handoff or the new one, whole.

    Args:
        folder: Where the handoff will stand.
        state: Tensors by name inside the video model.
        description: `describe` of the stage, plus whatever else is worth recording.

    Raises:
        UserError: The disk is full or the folder not writable; a handoff that was there is untouched.
    """
    new = folder / NEW_WEIGHTS
    write_safetensors({name: value.detach().cpu().contiguous() for name, value in state.items()}, new)
    manifest = {
        "format": FORMAT,
        "sha256": file_sha256(new),
        "num_tensors": len(state),
        "torch": torch.__version__,
        **description,
    }
    write_json(folder / MANIFEST, manifest)  # from here on the new weights count, under either name
    os.replace(new, folder / WEIGHTS)
    sync(folder)


def find_weights(folder: Path, manifest: dict[str, Any]) -> Path:
    """The file whose SHA-256 a manifest gives.

    Raises:
        UserError: It is not there or damaged.
    """
    for path in (folder / WEIGHTS, folder / NEW_WEIGHTS):
        if path.exists() and file_sha256(path) == manifest.get("sha256"):
            return path
    raise UserError(
        f"{folder / WEIGHTS}: the weights are missing or damaged (SHA-256 differs from {MANIFEST}). "
        "Delete the folder and run the video stage again; it goes on from its last checkpoint."
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a handoff's manifest.

    Raises:
        UserError: There is none, or it was written by another version of the format.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(f"{path}: no handoff here. Train the video stage first: `make train-video`.")
    try:
        manifest: dict[str, Any] = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: not readable as a handoff's manifest ({' '.join(str(error).split())}). Delete the folder and run "
            "the video stage again; it goes on from its last checkpoint."
        ) from error
    if manifest.get("format") != FORMAT:
        raise UserError(f"{path}: format {manifest.get('format')!r}; this version reads {FORMAT}. Train stage 1 again.")
    return manifest


def handoff_state(video: VideoModel) -> dict[str, Tensor]:
    """What stage 1 learned or measured: U-Net and preconditioning, without the frozen autoencoder and text tower."""
    return _learned(video.state_dict())


def _learned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith(("unet.", "preconditioning."))}


def load_handoff_state(video: VideoModel, state: dict[str, Tensor]) -> None:
    """Load a handoff's tensors; every one must be there and fit.

    Raises:
        UserError: Names or shapes differ; the message lists them.
    """
    if wrong := differing_keys(dict.fromkeys(state, "a tensor"), dict.fromkeys(handoff_state(video), "a tensor")):
        raise UserError(f"The handoff's tensors do not fit the video network: {'; '.join(wrong[:10])}.")
    try:
        video.load_state_dict({**video.state_dict(), **state})
    except RuntimeError as error:  # torch lists every shape that differs
        raise UserError(f"The handoff's tensors do not fit the video network: {error}") from error
