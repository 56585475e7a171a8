"""The sizes of networks, read off the names and shapes in a checkpoint, and the networks of these sizes.

Every size is voted on by all the weights that show it, so that one that is missing, renamed or misshaped neither
decides it nor hides behind it. Names are ours (see `networks.checkpoints.keys`); networks are built on the meta device:
shapes without memory. Heads and groups change no shape, so they are left at one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from open_clip.transformer import TextTransformer
from torch import nn

from networks.action_unet import ActionUNet
from networks.adapter import AdapterStage, CNNAdapter
from networks.errors import CheckpointError
from networks.video_unet import TapShape, VideoUNet

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
NUM_IDS = 3  # frame rate, motion bucket, noise on the conditioning frame
SUPPORT = 3  # names that must speak of a block before it counts as there
PUBLISHED_WIDTHS = (320, 640, 1280, 1280)
PUBLISHED_ID_DIM = 256  # only one weight shows it


# --- votes ------------------------------------------------------------------------------------------------------------


def matching(shapes: Shapes, pattern: str, ndim: int | None = None) -> list[Shape]:
    """Shapes of the names that a pattern matches from the start on, of `ndim` axes where that is given."""
    regex = re.compile(pattern)
    return [s for name, s in shapes.items() if regex.match(name) and len(s) > 0 and ndim in (None, len(s))]


def vote(what: str, values: Iterable[int]) -> int:
    """The most frequent value.

    Raises:
        CheckpointError: There is none.
    """
    counted = Counter(values).most_common(1)
    if not counted:
        raise CheckpointError(f"too few weights of the {what} are there to tell its sizes; give a whole checkpoint.")
    return counted[0][0]


def count(names: Iterable[str], pattern: str) -> int:
    """One more than the highest number in the pattern's group that several names bear."""
    regex = re.compile(pattern)
    support = Counter(int(found[1]) for name in names if (found := regex.match(name)))
    return 1 + max((number for number, votes in support.items() if votes >= SUPPORT), default=-1)


# --- what the published names say that ours need --------------------------------------------------------------------


def unet_layers_per_block(published: Iterable[str]) -> int:
    """Layers of a level of the U-Net with these published keys."""
    names = list(published)
    num_blocks = count(names, r"input_blocks\.(\d+)\.")
    found = {int(m[1]) for name in names if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.", name))}

    def disagreements(period: int) -> int:
        return len(found ^ set(range(period, num_blocks, period)))

    periods = [period for period in range(2, num_blocks + 1) if num_blocks % period == 0]
    return min(periods, key=disagreements, default=3) - 1


def adapter_branch_depth(published: Iterable[str]) -> int:
    """Stages of a camera's branch in the adapter with these published keys."""
    return max(0, count(published, r"layer(\d+)_\d+\.") - 1)


def autoencoder_levels(published: Iterable[str]) -> int:
    """Levels of the autoencoder with these published keys."""
    return max(1, count(published, r"(?:en|de)coder\.(?:down|up)\.(\d+)\."))


# --- the networks -----------------------------------------------------------------------------------------------------


def unet_like(shapes: Shapes) -> nn.Module:
    """A `VideoUNet` of the sizes in these shapes."""
    what = "video U-Net"
    num_levels = count(shapes, r"unet\.down_blocks\.(\d+)\.resnets\.")
    last = r"(?:spatial|temporal)_res_block\.(?:norm2|conv2)\."
    widths = [
        vote(what, (s[0] for s in matching(shapes, rf"unet\.down_blocks\.{level}\.resnets\.\d+\.{last}")))
        for level in range(num_levels)
    ]
    if not widths:
        raise CheckpointError(f"too few weights of the {what} are there to tell its sizes; give a whole checkpoint.")
    latents = [s[1] // 2 for s in matching(shapes, r"unet\.conv_in\.weight", 4)]
    latents += [s[0] for s in matching(shapes, r"unet\.conv_out\.(?:weight|bias)")]
    channels = vote(what, latents)
    kinds = {
        side: [
            f"{name}Block" if not _has_attention(shapes, side, level) else f"CrossAttn{name}Block"
            for level in range(num_levels)
        ]
        for side, name in (("down", "Down"), ("up", "Up"))
    }
    context = matching(shapes, r"unet\..*attn2\.to_[kv]\.weight", 2)
    return VideoUNet(
        in_channels=2 * channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=count(shapes, r"unet\.down_blocks\.\d+\.resnets\.(\d+)\."),
        num_attention_heads=[1] * num_levels,
        cross_attention_dim=vote(what, (s[1] for s in context)),
        addition_time_embed_dim=_id_dim(shapes, widths),
        down_block_types=[f"{kind}SpatioTemporal" for kind in kinds["down"]],
        up_block_types=[f"{kind}SpatioTemporal" for kind in kinds["up"]],
        transformer_layers_per_block=max(1, count(shapes, r"unet\..*attentions\.\d+\.transformer_blocks\.(\d+)\.")),
    )


def _has_attention(shapes: Shapes, side: str, level: int) -> bool:
    return len(matching(shapes, rf"unet\.{side}_blocks\.{level}\.attentions\.")) >= SUPPORT


def _id_dim(shapes: Shapes, widths: list[int]) -> int:
    """Sinusoids of an id: one weight shows them, so the published network's are known and others must be plausible."""
    if tuple(widths) == PUBLISHED_WIDTHS:
        return PUBLISHED_ID_DIM
    found = matching(shapes, r"unet\.add_embedding\.linear_1\.weight", 2)
    plausible = found and found[0][0] == 4 * widths[0] and found[0][1] % (2 * NUM_IDS) == 0
    return found[0][1] // NUM_IDS if plausible else widths[0]


def first_stage_like(shapes: Shapes) -> nn.Module:
    """An `AutoencoderKLTemporalDecoder` of the sizes in these shapes."""
    widths, settings = _autoencoder_sizes("video autoencoder", shapes)
    return AutoencoderKLTemporalDecoder(**settings, down_block_types=("DownEncoderBlock2D",) * len(widths))  # type: ignore[no-any-return]


def condition_encoder_like(shapes: Shapes) -> nn.Module:
    """An `AutoencoderKL`, decoder included, of the sizes in these shapes."""
    widths, settings = _autoencoder_sizes("condition encoder", shapes)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * len(widths)}
    blocks["up_block_types"] = ("UpDecoderBlock2D",) * len(widths)
    return AutoencoderKL(**settings, **blocks)  # type: ignore[no-any-return]


def _autoencoder_sizes(what: str, shapes: Shapes) -> tuple[list[int], dict[str, object]]:
    blocks = r"encoder\.down_blocks\."
    widths = [
        vote(what, (s[0] for s in matching(shapes, rf"{blocks}{level}\.resnets\.\d+\.(?:norm2|conv1|conv2)\.")))
        for level in range(count(shapes, rf"{blocks}(\d+)\."))
    ]
    latents = [s[0] // 2 for s in matching(shapes, r"(?:encoder\.conv_out|quant_conv)\.(?:weight|bias)")]
    latents += [s[1] for s in matching(shapes, r"decoder\.conv_in\.weight", 4)]
    settings = {
        "block_out_channels": tuple(widths),
        "layers_per_block": count(shapes, rf"{blocks}\d+\.resnets\.(\d+)\."),
        "latent_channels": vote(what, latents),
    }
    return widths, settings


def text_like(shapes: Shapes, embed_dim: int) -> nn.Module:
    """OpenCLIP's text tower (its vocabulary, its 77 tokens) of the sizes in these shapes.

    Args:
        shapes: Shapes by name.
        embed_dim: Size of a token that the U-Net reads.
    """
    width = vote("text tower", (s[0] for s in matching(shapes, r".*ln_(?:1|2|final)\.(?:weight|bias)")))
    layers = count(shapes, r"transformer\.resblocks\.(\d+)\.")
    return TextTransformer(width=width, heads=1, layers=layers, output_dim=embed_dim)  # type: ignore[no-any-return]


def adapter_like(shapes: Shapes, emb_dim: int) -> nn.Module:
    """A `CNNAdapter` of the sizes in these shapes.

    Args:
        shapes: Shapes by name.
        emb_dim: Size of the U-Net's embedding of the noise level.
    """
    what = "adapter"
    num_views = count(shapes, r"branches\.(\d+)\.")
    num_stages = count(shapes, r"branches\.\d+\.stages\.(\d+)\.")
    num_entries = count(shapes, r"branches\.\d+\.entries\.(\d+)\.")
    num_taps = num_entries + 1
    stages = [_stage(shapes, rf"branches\.\d+\.stages\.{i}", num_views) for i in range(num_stages)]
    entries = [_stage(shapes, rf"branches\.\d+\.entries\.{i}", num_views) for i in range(num_entries)]
    merges = [_stage(shapes, rf"merge\.{i}", 1) for i in range(count(shapes, r"merge\.(\d+)\."))]
    places = ["stages.0", *(f"entries.{i}" for i in range(num_entries))]
    channels = [
        vote(what, (s[1] for s in matching(shapes, rf"branches\.\d+\.{place}\.0\.(?:conv1|shortcut)\.0\.", 5)))
        for place in places
    ]
    taps: list[TapShape] = []
    for tap, stage in reversed(list(zip(channels, stages, strict=False))):  # coarse to fine
        size = taps[0].height * stage.time_stride if taps else 1
        taps.insert(0, TapShape(tap, size, size))
    return CNNAdapter(
        taps,
        num_views,
        1,
        emb_dim,
        tap_widths=[stage.width for stage in stages[:num_taps]],
        entry_widths=[stage.width for stage in entries],
        tap_groups=1,
        branch_stages=stages[num_taps:],
        merge_stages=merges,
        norm_groups=1,
    )


def _stage(shapes: Shapes, place: str, num_views: int) -> AdapterStage:
    """A stage; its time stride is 2 where its first block has a shortcut, whichever stride or width needs it."""
    width = vote("adapter", (s[0] for s in matching(shapes, rf"{place}\.\d+\.conv3\.")))
    inner = vote("adapter", (s[0] for s in matching(shapes, rf"{place}\.\d+\.(?:conv1|conv2|emb)\.")))
    shortcut = len(matching(shapes, rf"{place}\.0\.shortcut\.")) > 1.5 * num_views  # of three in each view
    blocks = count(shapes, rf"{place}\.(\d+)\.")
    return AdapterStage(width, 1, expansion=max(1, width // inner), num_blocks=blocks, time_stride=1 + shortcut)


def action_unet_like(shapes: Shapes, emb_dim: int, adapter_width: int | None) -> nn.Module:
    """An `ActionUNet` of the sizes in these shapes.

    Args:
        shapes: Shapes by name.
        emb_dim: Size of the U-Net's embedding of the noise level.
        adapter_width: Channels of the adapter's map, which divide the condition; None: not known.
    """
    what = "action U-Net"
    levels = range(count(shapes, r"down\.(\d+)\."))
    blocks = r"[01]\.(?:first|second)\.(?:conv|norm)\."
    widths = [vote(what, (s[0] for s in matching(shapes, rf"down\.{level}\.{blocks}"))) for level in levels]
    kernel = vote(what, (s[2] for s in matching(shapes, r".*(?:first|second)\.conv\.weight", 3)))
    actions = [s[1] for s in matching(shapes, r"down\.0\.0\.(?:first\.conv|shortcut)\.weight", 3)]
    actions += [s[0] for s in matching(shapes, r"final\.1\.")]
    film = vote(what, (s[1] for s in matching(shapes, r".*\.film\.1\.weight", 2)))
    steps = [s[0] for s in matching(shapes, r"step_encoder\.1\.")]
    steps += [step for step in steps if adapter_width and (film - step) % adapter_width == 0]  # breaks a tie
    step = vote(what, steps)
    return ActionUNet(
        action_dim=vote(what, actions),
        action_horizon=2 ** max(0, len(widths) - 1),
        cond_dim=film - step,
        emb_dim=emb_dim,
        step_embed_dim=step,
        widths=widths,
        kernel_size=kernel,
        num_groups=1,
    )


def on_meta(build: type[nn.Module] | object, *args: object) -> nn.Module:
    """Call `build` on the meta device."""
    with torch.device("meta"):
        network: nn.Module = build(*args)  # type: ignore[operator]
    return network
