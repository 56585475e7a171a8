"""Published weights become ours and come back bit by bit; what is missing, unknown or misshaped is named."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from files.errors import UserError
from tests.reference_parts import UNET, first_stage_only, reference_model
from videopolicy.conversion.plan import PartSummary, Plan, cast, native_tables, published_table
from videopolicy.conversion.plan import plan as plan_for
from videopolicy.conversion.source import Source

Weights = Mapping[str, Tensor]
LABEL = UNET + "label_emb.0.0.weight"
TEXT = "conditioner.embedders.0.open_clip.model."
CONDITION = "conditioner.embedders.3.encoder."


def plan(source: Source, ignore: Sequence[str] = ()) -> Plan:
    return plan_for(source, reference_model(), ignore)


def published(weights: Weights) -> Source:
    return Source("weights.ckpt", "published", dict(weights))


def there_and_back(weights: Weights) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """State dict, what our networks lack, and the published table that both give."""
    source = published(weights)
    state, extras = native_tables(source, plan(source))
    native = Source("native.ckpt", "native", {**state, **extras})
    return state, extras, published_table(native, plan(native))


def raw(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def assert_same_bits(found: Weights, wanted: Weights) -> None:
    assert found.keys() == wanted.keys()
    assert not [key for key in wanted if found[key].dtype != wanted[key].dtype or found[key].shape != wanted[key].shape]
    assert not [key for key in wanted if raw(found[key]) != raw(wanted[key])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_published_weights_come_back_bit_by_bit(reference_weights: Weights, dtype: torch.dtype) -> None:
    weights = {key: value.to(dtype, copy=True) for key, value in reference_weights.items()}
    for name in (UNET + "out.2.bias", "first_stage_model.encoder.conv_out.weight", TEXT + "positional_embedding"):
        spoilt = weights[name].flatten()
        spoilt[:3] = torch.tensor([float("nan"), -0.0, float("inf")])
        weights[name] = spoilt.reshape(weights[name].shape)
    state, extras, back = there_and_back(weights)
    assert_same_bits(back, weights)
    assert all(name.startswith((CONDITION + "decoder.", CONDITION + "post_quant", TEXT + "logit")) for name in extras)
    assert len(state) + len(extras) == len(weights) + 2  # the first stage's quant_conv


def test_native_weights_come_back_bit_by_bit(reference_weights: Weights) -> None:
    state, extras, back = there_and_back(reference_weights)
    again, extras_again, _ = there_and_back(back)
    assert_same_bits(again, state)
    assert_same_bits(extras_again, extras)


def test_a_checkpoint_of_stage_1_has_no_adapter(reference_weights: Weights) -> None:
    weights = first_stage_only(reference_weights)
    state, _, back = there_and_back(weights)
    assert_same_bits(back, weights)
    assert {name.split(".")[0] for name in state} == {"video"}


def test_weights_are_not_copied(reference_weights: Weights) -> None:
    state, _, back = there_and_back(reference_weights)
    query = "encoder.mid.attn_1.q.weight"
    assert back["first_stage_model." + query].data_ptr() == reference_weights["first_stage_model." + query].data_ptr()
    assert state["video.unet.unet.conv_in.weight"] is not None
    assert state["video.autoencoder.vae.encoder.mid_block.attentions.0.to_q.weight"].dim() == 2


def test_every_part_is_counted(reference_weights: Weights) -> None:
    source = published(first_stage_only(reference_weights))
    parts = {part.label: part for part in plan(source).parts}
    unet = sum(w.numel() for name, w in source.weights.items() if name.startswith(UNET))
    assert parts["video U-Net"] == PartSummary("video U-Net", 1428, unet, 1428, ("float32",))
    assert parts["adapter"].keys == parts["action U-Net"].keys == 0
    assert all(part.matched == part.keys for part in parts.values())


def refusal(weights: Weights, *ignore: str) -> str:
    with pytest.raises(UserError) as caught:
        plan(published(weights), ignore)
    assert "\n" not in str(caught.value)
    return str(caught.value)


VICTIMS = [  # where few weights show a size, and one of every kind
    LABEL,
    UNET + "input_blocks.0.0.weight",
    UNET + "input_blocks.3.0.op.bias",
    UNET + "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
    UNET + "vision_encoder.layer1_1.0.conv1.0.weight",
    UNET + "vision_encoder.layer15.0.downsample.1.bias",
    UNET + "pose_pred_net.diffusion_step_encoder.1.weight",
    UNET + "pose_pred_net.final_conv.1.weight",
    "first_stage_model.decoder.conv_out.time_mix_conv.weight",
    "first_stage_model.encoder.conv_out.weight",
    CONDITION + "quant_conv.weight",
    CONDITION + "decoder.conv_in.weight",
    TEXT + "text_projection",
    TEXT + "positional_embedding",
]


@pytest.mark.parametrize("name", VICTIMS, ids=lambda name: ".".join(name.split(".")[-4:]))
def test_one_missing_renamed_or_misshaped_weight_is_named_and_nothing_else(
    reference_weights: Weights, name: str
) -> None:
    weights = dict(reference_weights)
    tensor = weights.pop(name)
    renamed = {**weights, name + "_old": tensor}
    assert f"2 of its weights do not fit: missing: {name}; unknown: {name}_old. " in refusal(renamed)
    axis = VICTIMS.index(name) % tensor.dim()
    grown = torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
    said = f"misshaped: {name} is {tuple(grown.shape)}, must be {tuple(tensor.shape)}. "
    assert f"1 of its weights do not fit: {said}" in refusal({**weights, name: grown})


def test_a_missing_number_is_named_too(reference_weights: Weights) -> None:
    weights = {name: w for name, w in reference_weights.items() if not name.endswith("logit_scale")}
    assert f"missing: {TEXT}logit_scale" in refusal(weights)


def test_odd_names_are_listed_and_do_not_break_the_reading(reference_weights: Weights) -> None:
    odd = [
        "middle_block.9.x",
        "input_blocks.3.weight",
        "vision_encoder.x",
        "pose_pred_net.down_modules.0.y",
        "pose_pred_net.z",
    ]
    odd = [UNET + name for name in odd]
    odd += [f"first_stage_model.{x}" for x in ("encoder.mid.block_7.a", "decoder.up.9.what.b", "c")]
    odd += ["cond_stage_model.weight", "denoiser.sigmas"]
    message = refusal({**reference_weights, **dict.fromkeys(odd, torch.zeros(2))})
    assert message.startswith(f"weights.ckpt: {len(odd)} of its weights do not fit: unknown: ")
    assert all(name in message for name in odd)


def test_problems_that_are_named_are_forgiven_and_listed(reference_weights: Weights) -> None:
    weights = dict(reference_weights) | {"denoiser.sigmas": torch.zeros(3), LABEL: torch.zeros(128, 95)}
    del weights[TEXT + "logit_scale"]
    patterns = ["denoiser.*", "*.logit_scale", LABEL]
    found = plan(published(weights), patterns)
    assert {line.split(" ")[0] for line in found.ignored} == {"denoiser.sigmas", TEXT + "logit_scale", LABEL}
    source = published(weights)
    state, extras = native_tables(source, found)
    assert "video.unet.unet.add_embedding.linear_1.weight" not in state
    assert TEXT + "logit_scale" not in extras
    assert LABEL in refusal(weights, "denoiser.*", "*.logit_scale")


def test_a_pattern_that_forgives_nothing_is_refused(reference_weights: Weights) -> None:
    assert "--ignore 'denoiser.*' forgives nothing" in refusal(reference_weights, "denoiser.*")
    assert "--ignore '*' forgives nothing" in refusal(reference_weights, "*")


def test_without_a_u_net_there_is_nothing_to_convert(reference_weights: Weights) -> None:
    weights = {name: w for name, w in reference_weights.items() if not name.startswith(UNET)}
    assert "holds no video U-Net" in refusal(weights)


@pytest.mark.parametrize("name", ["video.preconditioning.std", "standardizer.mean_0"])
def test_statistics_that_the_published_networks_lack_are_refused_by_name(reference_weights: Weights, name: str) -> None:
    state, extras, _ = there_and_back(reference_weights)
    source = Source("own.ckpt", "native", {**state, **extras, name: torch.ones(2)})
    with pytest.raises(UserError, match=rf"own\.ckpt: {name} cannot be written in the published layout"):
        published_table(source, plan(source))
    source = Source("own.ckpt", "native", {**state, **extras, name: torch.ones(2)})
    assert name in native_tables(source, plan(source))[0]


def test_a_trained_checkpoint_without_published_extras_is_written(reference_weights: Weights) -> None:
    """Our own stages save no decoder of the condition encoder and no `logit_scale`."""
    state, extras, back = there_and_back(reference_weights)
    source = Source("own.ckpt", "native", dict(state))
    assert_same_bits(published_table(source, plan(source)), {k: w for k, w in back.items() if k not in extras})


def test_half_of_the_extras_is_refused(reference_weights: Weights) -> None:
    state, extras, _ = there_and_back(reference_weights)
    gone = next(name for name in extras if "decoder" in name)
    rest = {name: w for name, w in extras.items() if name != gone}
    source = Source("own.ckpt", "native", {**state, **rest})
    with pytest.raises(UserError, match=f"missing: {gone}"):
        plan(source)


def test_a_quant_conv_that_does_something_is_folded(reference_weights: Weights) -> None:
    state, extras, back = there_and_back(reference_weights)
    prefix = "video.autoencoder.vae.quant_conv."
    mix = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    source = Source("own.ckpt", "native", {**state, **extras, prefix + "weight": mix[:, :, None, None]})
    table = published_table(source, plan(source))
    name = "first_stage_model.encoder.conv_out."
    torch.testing.assert_close(table[name + "bias"], mix @ back[name + "bias"])
    torch.testing.assert_close(table[name + "weight"].flatten(1), mix @ back[name + "weight"].flatten(1))


def test_only_floating_point_weights_are_cast() -> None:
    table = {"a": torch.ones(2), "b": torch.tensor([3]), "c": torch.ones((), dtype=torch.float64)}
    cast(table, torch.bfloat16)
    assert [(name, t.dtype) for name, t in table.items()] == [
        ("a", torch.bfloat16),
        ("b", torch.int64),
        ("c", torch.bfloat16),
    ]


def test_a_part_that_the_networks_lack_is_named(reference_weights: Weights) -> None:
    video = SimpleNamespace(video=reference_model().video)
    with pytest.raises(UserError, match=r"weights\.ckpt: has adapter and action U-Net, which the networks given"):
        plan_for(published(reference_weights), video)
    found = plan_for(published(first_stage_only(reference_weights)), video)
    assert len(found.weights) == len(first_stage_only(reference_weights))
