"""The pictures' encoder: places of peaks, no running statistics, crops in training alone, torchvision's weights."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from files.errors import UserError
from networks import KeypointEncoder, SpatialSoftmax


def small(**settings: object) -> KeypointEncoder:
    torch.manual_seed(0)
    defaults = {"num_views": 2, "image_size": 16, "crop_size": 12, "widths": (16, 32), "num_blocks": 1}
    return KeypointEncoder(**{**defaults, "num_keypoints": 4, "feature_dim": 5, **settings})  # type: ignore[arg-type]


def test_a_peaks_place_is_its_coordinates() -> None:
    softmax = SpatialSoftmax(2, 2)
    nn.init.eye_(softmax.maps.weight[:, :, 0, 0])
    nn.init.zeros_(softmax.maps.bias)  # type: ignore[arg-type]
    features = torch.zeros(1, 2, 5, 9)
    features[0, 0, 1, 6] = 100.0  # row 1 of 5, column 6 of 9
    places = softmax(features)
    assert torch.allclose(places[0, 0], torch.tensor([0.5, -0.5]))  # x, y
    assert torch.allclose(places[0, 1], torch.zeros(2), atol=1e-6)  # nothing anywhere is in the middle


def test_no_normalisation_has_running_statistics_and_each_has_groups_of_16_channels() -> None:
    encoder = KeypointEncoder(1, 84)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in encoder.modules())
    norms = [module for module in encoder.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 20  # as many as a ResNet18 has
    assert all(norm.num_groups == norm.num_channels // 16 for norm in norms)


def test_the_trunk_is_torchvisions_resnet18_up_to_its_normalisations(tmp_path: Path) -> None:
    resnet18 = torchvision.models.resnet18(norm_layer=lambda channels: nn.GroupNorm(channels // 16, channels)).eval()
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    encoder = KeypointEncoder(1, 32, crop_size=32, pretrained=str(tmp_path / "resnet18.pth"))
    pictures = torch.rand(2, 3, 32, 32)
    whole = nn.Sequential(*list(resnet18.children())[:-2])
    assert torch.allclose(encoder.cameras[0][0](pictures), whole(pictures), atol=1e-5)  # type: ignore[index]
    assert torch.allclose(encoder.pixel_mean.flatten(), torch.tensor([-0.03, -0.088, -0.188]), atol=1e-6)
    assert "pixel_std" in encoder.state_dict()  # a checkpoint rebuilds it without the file


def test_a_place_is_drawn_for_every_picture_in_training_and_never_otherwise() -> None:
    encoder = small()
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    pictures = torch.stack([rows, columns, 0 * rows]).expand(64, 3, 16, 16)
    torch.manual_seed(0)
    crops = encoder._cropped(pictures)
    assert crops.shape == (64, 3, 12, 12)
    corners = crops[:, :2, 0, 0]
    assert set(corners[:, 0].tolist()) == set(corners[:, 1].tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert torch.equal(crops - crops[:, :, :1, :1], (pictures - pictures[:, :, :1, :1])[..., :12, :12])  # whole pieces
    encoder.eval()
    assert torch.equal(encoder._cropped(pictures), pictures[..., 2:14, 2:14])


def test_each_camera_has_weights_of_its_own_and_observations_stand_side_by_side() -> None:
    encoder = small().eval()
    frames = torch.rand(3, 2, 2, 3, 16, 16)
    found = encoder(frames)
    assert found.shape == (3, 2 * 2 * 5)
    one = [camera(frames[1:2, view, 1, :, 2:14, 2:14]) for view, camera in enumerate(encoder.cameras)]
    assert torch.allclose(found[1:2, 10:], torch.cat(one, dim=-1), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_size": 20}, "crop_size is 20 and data.init_args.image_size 16"),
        ({"widths": (16, 20)}, "widths are .16, 20.; give every stage a multiple of 16"),
        ({"pretrained": "IMAGENET_V9"}, "'IMAGENET_V9', neither a file nor one of IMAGENET1K_V1"),
    ],
)
def test_a_setting_that_does_not_fit_is_one_sentence(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**settings)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth does not fit a ResNet of widths \[16, 32\]"):
        small(pretrained=str(tmp_path / "other.pth"))
