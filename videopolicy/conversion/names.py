"""The published checkpoint's names for the weights of U-Net, adapter and action network, from ours.

A published name is the prefix of a part (`PREFIX_BY_PART`) and a key inside it. The functions turn a key of our network
into that key (autoencoders: `autoencoder_names`; open_clip's text tower keeps its own). The way back is never computed:
a table of all our keys is turned around (`layout`).
"""

import re
from collections.abc import Mapping

PREFIX_BY_PART = {  # the first that fits decides: the networks inside the published U-Net come before it
    "adapter": "model.diffusion_model.vision_encoder.",
    "action_unet": "model.diffusion_model.pose_pred_net.",
    "unet": "model.diffusion_model.",
    "first_stage": "first_stage_model.",
    "condition_encoder": "conditioner.embedders.3.encoder.",
    "text": "conditioner.embedders.0.open_clip.model.",
}
RES_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
UNET_ATTENTION = {
    "temporal_transformer_blocks": "time_stack",
    "time_pos_embed.linear_1": "time_pos_embed.0",
    "time_pos_embed.linear_2": "time_pos_embed.2",
}
ACTION_UNET = {
    "step_encoder": "diffusion_step_encoder",
    "down": "down_modules",
    "mid": "mid_modules",
    "up": "up_modules",
    "final": "final_conv",
}
ACTION_BLOCK = {
    "first.conv": "blocks.0.block.0",
    "first.norm": "blocks.0.block.1",
    "second.conv": "blocks.1.block.0",
    "second.norm": "blocks.1.block.1",
    "film": "cond_encoder",
    "shortcut": "residual_conv",
}
ADAPTER_BLOCK = {"emb": "emb_layers", "shortcut": "downsample"}


def swap_start(name: str, new_by_old: Mapping[str, str]) -> str:
    """Replace the leading components of a dotted name that the table lists; other names stay."""
    for old, new in new_by_old.items():
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return name


def unet_name(key: str, layers_per_block: int = 2) -> str:
    """Published key of a key in `VideoUNet`."""
    name = key.removeprefix("unet.")
    found = re.fullmatch(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(\w+\.\d+)\.(.+)", name)
    if found is None:
        return swap_start(name, UNET_ENDS)
    side, level, (kind, layer), rest = found[1], int(found[2] or 0), found[3].split("."), found[4]
    first = level * (layers_per_block + 1)  # position of the level's first layer, the first convolution not counted
    if kind == "downsamplers":
        return f"input_blocks.{first + layers_per_block + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":  # after the res block, and after the attention where the level has one
        return f"output_blocks.{first + layers_per_block}.{1 if level == 0 else 2}.{rest}"
    inner = swap_start(rest, UNET_ATTENTION) if kind == "attentions" else res_block_name(rest)
    if side == "mid":
        return f"middle_block.{UNET_MIDDLE[found[3]]}.{inner}"
    slot = int(kind == "attentions")
    if side == "down":
        return f"input_blocks.{first + int(layer) + 1}.{slot}.{inner}"
    return f"output_blocks.{first + int(layer)}.{slot}.{inner}"


def res_block_name(rest: str, skip: Mapping[str, str] = RES_BLOCK) -> str:
    """Published name inside a spatio-temporal residual block; `skip` is the table of its spatial half."""
    if rest.startswith("temporal_res_block."):
        return "time_stack." + swap_start(rest.removeprefix("temporal_res_block."), RES_BLOCK)
    return swap_start(rest.removeprefix("spatial_res_block."), skip)


def adapter_name(key: str, branch_depth: int = 7) -> str:
    """Published key of a key in `CNNAdapter`.

    Args:
        key: For example `branches.1.entries.1.0.conv1.0.weight`, published as `layer3_2_cat.0.conv1.0.weight`: where
            tap 3 enters the branch of camera 2.
        branch_depth: Stages of a camera's branch: one a tap, and those that end the branch.
    """
    found = re.fullmatch(r"(?:branches\.(\d+)\.)?(entries|stages|merge)\.(\d+)\.(\d+)\.(.+)", key)
    if found is None:
        return key  # the last norm
    view, kind, stage, block, rest = found[1], found[2], int(found[3]), found[4], found[5]
    inner = f"{block}.{swap_start(rest, ADAPTER_BLOCK)}"
    if kind == "merge":
        return f"layer{stage + branch_depth + 1}.{inner}"
    return f"layer{stage + 1 + (kind == 'entries')}_{int(view) + 1}{'_cat' if kind == 'entries' else ''}.{inner}"


def action_unet_name(key: str) -> str:
    """Published key of a key in `ActionUNet`."""
    found = re.fullmatch(r"(\w+)((?:\.\d+)*)\.(.+)", key)
    assert found is not None, f"{key}: every weight is inside a module"
    module, numbers, rest = found[1], found[2], found[3]
    if module == "final":
        rest = rest.replace("conv.", "block.0.").replace("norm.", "block.1.")
    elif module in ("down", "up") and re.fullmatch(r"\.\d+\.2", numbers):  # a resampler
        rest = "conv." + rest
    return swap_start(f"{module}{numbers}.{swap_start(rest, ACTION_BLOCK)}", ACTION_UNET)
