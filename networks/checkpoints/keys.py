"""The published checkpoint's names for weights, and ours, in both directions.

A published name is the prefix of a part (`PREFIX_BY_PART`) and a key inside it. `split_parts` takes a file's table
apart and `join_parts` puts it together; the functions below turn the keys of a part (autoencoders:
`networks.checkpoints.autoencoder_keys`).

| part | ours |
| --- | --- |
| unet | `VideoUNet` |
| adapter | `CNNAdapter` |
| action_unet | `ActionUNet` |
| first_stage | diffusers' `AutoencoderKLTemporalDecoder` |
| condition_encoder | diffusers' `AutoencoderKL` |
| text | open_clip's text tower, the same names |

A name that is no published one stays what it is, more or less: it then is no name of ours either.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from networks.errors import NetworkError

PREFIX_BY_PART = {  # the first that fits decides: the networks inside the published U-Net come before it
    "adapter": "model.diffusion_model.vision_encoder.",
    "action_unet": "model.diffusion_model.pose_pred_net.",
    "unet": "model.diffusion_model.",
    "first_stage": "first_stage_model.",
    "condition_encoder": "conditioner.embedders.3.encoder.",
    "text": "conditioner.embedders.0.open_clip.model.",
}
RES_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
ACTION_UNET = {
    "diffusion_step_encoder": "step_encoder",
    "down_modules": "down",
    "mid_modules": "mid",
    "up_modules": "up",
    "final_conv": "final",
}
ACTION_BLOCK = {
    "blocks.0.block.0": "first.conv",
    "blocks.0.block.1": "first.norm",
    "blocks.1.block.0": "second.conv",
    "blocks.1.block.1": "second.norm",
    "cond_encoder": "film",
    "residual_conv": "shortcut",
}
ADAPTER_BLOCK = {"emb_layers": "emb", "downsample": "shortcut"}
UNET_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
UNET_ATTENTION = {
    "time_stack": "temporal_transformer_blocks",
    "time_pos_embed.0": "time_pos_embed.linear_1",
    "time_pos_embed.2": "time_pos_embed.linear_2",
}


def split_parts(checkpoint: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Take a published table apart: by part, the weights by published key inside it.

    Raises:
        NetworkError: A key belongs to no part.
    """
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PREFIX_BY_PART}
    for name, weight in checkpoint.items():
        part = next((part for part, prefix in PREFIX_BY_PART.items() if name.startswith(prefix)), None)
        if part is None:
            raise NetworkError(
                f"checkpoint: `{name}` belongs to no part of a published Video Policy, whose keys start with one of "
                f"{sorted(PREFIX_BY_PART.values())}. Give the file of such a network."
            )
        parts[part][name.removeprefix(PREFIX_BY_PART[part])] = weight
    return parts


def join_parts(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Put a published table together again; the inverse of `split_parts`."""
    return {PREFIX_BY_PART[part] + key: weight for part, weights in parts.items() for key, weight in weights.items()}


def rename(weights: Mapping[str, Tensor], new_name: Callable[[str], str]) -> dict[str, Tensor]:
    """Give every weight the name that `new_name` makes of its own."""
    return {new_name(name): weight for name, weight in weights.items()}


def swap_start(name: str, new_by_old: Mapping[str, str]) -> str:
    """Replace the leading components of a dotted name that the table lists; other names stay."""
    for old, new in new_by_old.items():
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return name


def inverse(new_by_old: Mapping[str, str]) -> dict[str, str]:
    """Turn a table of names around."""
    return {new: old for old, new in new_by_old.items()}


def unet_key(published: str, layers_per_block: int = 2) -> str:
    """Turn a published U-Net key into the key in `VideoUNet`."""
    found = re.fullmatch(r"(input|middle|output)_blocks?\.(\d+)\.(.+)", published)
    if found is None or published.startswith("input_blocks.0."):
        return "unet." + swap_start(published, UNET_ENDS)
    side, index, rest = found[1], int(found[2]), found[3]
    if side == "middle":
        place = UNET_MIDDLE.get(found[2], f"{found[2]}?")
        return f"unet.mid_block.{place}.{_attention(rest) if index == 1 else _res_block(rest)}"
    level, layer = divmod(index - (side == "input"), layers_per_block + 1)
    block = f"unet.{'down' if side == 'input' else 'up'}_blocks.{level}"
    slot, _, rest = rest.partition(".")
    if rest.startswith(("op.", "conv.")):  # a resampler; its slot varies
        return f"{block}.{'down' if side == 'input' else 'up'}samplers.0.conv.{rest.split('.', 1)[1]}"
    return (
        f"{block}.resnets.{layer}.{_res_block(rest)}"
        if slot == "0"
        else f"{block}.attentions.{layer}.{_attention(rest)}"
    )


def published_unet_key(key: str, layers_per_block: int = 2) -> str:
    """Turn a key in `VideoUNet` into the published U-Net key; the inverse of `unet_key`."""
    name = key.removeprefix("unet.")
    found = re.fullmatch(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(\w+\.\d+)\.(.+)", name)
    if found is None:
        return swap_start(name, inverse(UNET_ENDS))
    side, level, (kind, layer), rest = found[1], int(found[2] or 0), found[3].split("."), found[4]
    first = level * (layers_per_block + 1)  # position of the level's first layer, the first convolution not counted
    if kind == "downsamplers":
        return f"input_blocks.{first + layers_per_block + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":  # after the res block, and after the attention where the level has one
        return f"output_blocks.{first + layers_per_block}.{1 if level == 0 else 2}.{rest}"
    inner = swap_start(rest, inverse(UNET_ATTENTION)) if kind == "attentions" else _published_res_block(rest)
    if side == "mid":
        return f"middle_block.{inverse(UNET_MIDDLE)[found[3]]}.{inner}"
    slot = int(kind == "attentions")
    if side == "down":
        return f"input_blocks.{first + int(layer) + 1}.{slot}.{inner}"
    return f"output_blocks.{first + int(layer)}.{slot}.{inner}"


def adapter_key(published: str, branch_depth: int = 7) -> str:
    """Turn a published adapter key into the key in `CNNAdapter`.

    Args:
        published: For example `layer3_2_cat.0.conv1.0.weight`: where tap 3 enters the branch of camera 2.
        branch_depth: Stages of a camera's branch: one a tap, and those that end the branch.
    """
    found = re.fullmatch(r"layer(\d+)(?:_(\d+)(_cat)?)?\.(\d+)\.(.+)", published)
    if found is None:
        return published  # the last norm
    stage, view, enters, block, rest = int(found[1]) - 1, found[2], found[3], found[4], found[5]
    inner = f"{block}.{swap_start(rest, ADAPTER_BLOCK)}"
    if view is None:
        return f"merge.{stage - branch_depth}.{inner}"
    return f"branches.{int(view) - 1}.{f'entries.{stage - 1}' if enters else f'stages.{stage}'}.{inner}"


def published_adapter_key(key: str, branch_depth: int = 7) -> str:
    """Turn a key in `CNNAdapter` into the published adapter key; the inverse of `adapter_key`."""
    found = re.fullmatch(r"(?:branches\.(\d+)\.)?(entries|stages|merge)\.(\d+)\.(\d+)\.(.+)", key)
    if found is None:
        return key
    view, kind, stage, block, rest = found[1], found[2], int(found[3]), found[4], found[5]
    inner = f"{block}.{swap_start(rest, inverse(ADAPTER_BLOCK))}"
    if kind == "merge":
        return f"layer{stage + branch_depth + 1}.{inner}"
    return f"layer{stage + 1 + (kind == 'entries')}_{int(view) + 1}{'_cat' if kind == 'entries' else ''}.{inner}"


def action_unet_key(published: str) -> str:
    """Turn a published action-network key into the key in `ActionUNet`."""
    module, *numbers, rest = _split_numbers(swap_start(published, ACTION_UNET))
    if not rest:
        return published
    if module == "final":
        rest = rest.replace("block.0.", "conv.").replace("block.1.", "norm.")
    elif module in ("down", "up") and numbers[1:] == ["2"]:  # a resampler
        rest = rest.removeprefix("conv.")
    return ".".join([module, *numbers, swap_start(rest, ACTION_BLOCK)])


def published_action_unet_key(key: str) -> str:
    """Turn a key in `ActionUNet` into the published action-network key; the inverse of `action_unet_key`."""
    module, *numbers, rest = _split_numbers(key)
    if not rest:
        return key
    if module == "final":
        rest = rest.replace("conv.", "block.0.").replace("norm.", "block.1.")
    elif module in ("down", "up") and numbers[1:] == ["2"]:
        rest = "conv." + rest
    return swap_start(".".join([module, *numbers, swap_start(rest, inverse(ACTION_BLOCK))]), inverse(ACTION_UNET))


def _split_numbers(key: str) -> list[str]:
    """Split `down.0.2.weight` into `down`, `0`, `2`, `weight`: a name, its numbers, the rest (none: no such key)."""
    found = re.fullmatch(r"(\w+)((?:\.\d+)*)\.(.+)", key)
    if found is None:
        return [key, ""]
    return [found[1], *found[2].split(".")[1:], found[3]]


def _attention(rest: str) -> str:
    return swap_start(rest, UNET_ATTENTION)


def _res_block(rest: str) -> str:
    if rest.startswith("time_mixer."):
        return rest
    if rest.startswith("time_stack."):
        return "temporal_res_block." + swap_start(rest.removeprefix("time_stack."), RES_BLOCK)
    return "spatial_res_block." + swap_start(rest, RES_BLOCK)


def _published_res_block(rest: str) -> str:
    if rest.startswith("temporal_res_block."):
        return "time_stack." + swap_start(rest.removeprefix("temporal_res_block."), inverse(RES_BLOCK))
    return swap_start(rest.removeprefix("spatial_res_block."), inverse(RES_BLOCK))
