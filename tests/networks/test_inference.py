"""Half-precision weights, channels-last layout and compilation change the speed, and outputs only by rounding."""

import copy

import pytest
import torch
from torch import Tensor

from files.errors import UserError
from networks.inference import prepare_for_inference
from networks.sampling import Sampler
from policies import VideoPolicy
from tests.networks.test_joint_denoiser import noises, small_conditioning, small_policy


def sampled(model: VideoPolicy) -> tuple[Tensor, Tensor]:
    return model.joint.sample(small_conditioning(model), *noises(model), Sampler(2))


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"channels_last": True}, 1e-3),
        ({"compile_mode": "reduce-overhead", "backend": "aot_eager"}, 1e-3),
        ({"precision": "bfloat16"}, 0.1),
    ],
)
def test_a_prepared_network_samples_the_same_within_rounding(options: dict[str, object], limit: float) -> None:
    """Sampling starts at sigma 700, which float32 rounds to 1e-4 of the result; one pass agrees to 1e-6."""
    model = small_policy().eval()
    prepared = copy.deepcopy(model)
    prepare_for_inference(prepared.networks(), **options)  # type: ignore[arg-type]
    for found, wanted in zip(sampled(prepared), sampled(model), strict=True):
        assert found.dtype == torch.float32
        assert ((found - wanted).abs().max() / wanted.abs().max()).item() < limit


def test_channels_last_reaches_2d_and_3d_convolutions() -> None:
    model = small_policy()
    prepare_for_inference(model.networks(), channels_last=True)
    assert model.video.unet.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    conv = next(module for module in model.adapter.modules() if isinstance(module, torch.nn.Conv3d))
    assert conv.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_autoencoder_and_text_tower_keep_their_precision() -> None:
    model = small_policy()
    prepare_for_inference(model.networks(), precision="bfloat16")
    assert model.video.unet.dtype == torch.bfloat16
    parameters = [*model.video.autoencoder.parameters(), *model.video.text_encoder.parameters()]
    assert {parameter.dtype for parameter in parameters} == {torch.float32}


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"compile_mode": "fast"}])
def test_unknown_choices_are_refused_by_name(options: dict[str, str]) -> None:
    with pytest.raises(UserError, match="must be one of"):
        prepare_for_inference(small_policy().networks(), **options)  # type: ignore[arg-type]
