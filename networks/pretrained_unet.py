"""Reading a video U-Net that diffusers saved, from a folder or the hub."""

from pathlib import Path
from typing import Any

from diffusers import UNetSpatioTemporalConditionModel

from files.errors import UserError
from networks.pretrained_files import load_any_variant, model_folder

ARGUMENTS = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "num_attention_heads",
    "cross_attention_dim",
    "addition_time_embed_dim",
    "down_block_types",
    "up_block_types",
    "transformer_layers_per_block",
)


def read_config(source: str) -> dict[str, Any]:
    """Read the constructor arguments of the U-Net at `source`.

    Args:
        source: Hub id of a pipeline, or a folder that holds `config.json` or `unet/config.json`.

    Raises:
        UserError: There is none.
    """
    source = model_folder(source, "video U-Net")
    try:
        return _arguments(UNetSpatioTemporalConditionModel.load_config(source, subfolder=_subfolder(source)))
    except (OSError, ValueError) as error:
        raise UserError(_unreadable(source)) from error


def load_pretrained(source: str, wanted: dict[str, Any]) -> Any:  # noqa: ANN401 - diffusers is untyped
    """Load diffusers' network and refuse one that is not as `wanted`, by constructor argument."""
    found = read_config(source)
    if different := [f"{name} {found[name]} (not {wanted[name]})" for name in ARGUMENTS if found[name] != wanted[name]]:
        raise UserError(
            f"video U-Net: `{source}` has {', '.join(different)}; "
            "set these arguments to its values or choose another network."
        )
    source = model_folder(source, "video U-Net")
    try:
        return load_any_variant(UNetSpatioTemporalConditionModel.from_pretrained, source, _subfolder(source))
    except OSError as error:
        raise UserError(_unreadable(source)) from error


def _subfolder(source: str) -> str | None:
    """A saved network holds config.json itself; a saved pipeline (and one on the hub) has it under unet/."""
    return None if (Path(source) / "config.json").exists() else "unet"


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value := config[name], (list, tuple)) else value for name in ARGUMENTS}


def _unreadable(source: str) -> str:
    return (
        f"video U-Net: cannot load `{source}`; it is neither a folder with config.json or unet/config.json and its "
        "weights, nor a model that the hub gives out. Check the path, or download the model first."
    )
