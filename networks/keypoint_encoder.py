"""Pictures to keypoints: one ResNet a camera with a spatial softmax at its end (Diffusion Policy, Chi et al. 2023)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock

from files.errors import UserError
from networks.inference import as_weights

CHANNELS_A_GROUP = 16
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in [0, 1]


class KeypointEncoder(nn.Module):
    """Each camera's pictures through a ResNet of its own to a few numbers.

    Its normalisations are over groups of channels and know no running statistics, which an average of the weights would
    not go with.

    Args:
        num_views: Cameras, V.
        image_size: Pixels of a side.
        crop_size: Pixels of a side that are looked at: anywhere in training, a draw a picture; else in the middle.
        widths: Channels of the ResNet's stages, multiples of 16; torchvision's ResNet18 by default.
        num_blocks: Blocks of a stage.
        num_keypoints: Maps that the last stage's are turned into, each giving a place.
        feature_dim: Numbers that the places of a picture are turned into.
        pretrained: Start of the convolutions: torchvision's name of ResNet18 weights (``IMAGENET1K_V1``), or the file.
            None: random. The normalisations begin anew in both.

    Shape:
        - frames: (B, V, O, 3, image_size, image_size), in [-1, 1]
        - output: (B, O * V * feature_dim)

    Attributes:
        config: The constructor's arguments.

    Raises:
        UserError: A size does not fit, or the weights are none of a ResNet18.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        num_views: int,
        image_size: int,
        crop_size: int = 76,
        widths: Sequence[int] = (64, 128, 256, 512),
        num_blocks: int = 2,
        num_keypoints: int = 32,
        feature_dim: int = 64,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= crop_size <= image_size:
            raise UserError(
                f"encoder: crop_size is {crop_size} and data.init_args.image_size {image_size}; choose a crop of "
                "1 to that many pixels (published: 76 of 84)."
            )
        if not widths or any(width % CHANNELS_A_GROUP for width in widths):
            raise UserError(
                f"encoder: widths are {list(widths)}; give every stage a multiple of {CHANNELS_A_GROUP} channels."
            )
        self.config: dict[str, Any] = {
            "num_views": num_views,
            "image_size": image_size,
            "crop_size": crop_size,
            "widths": list(widths),
            "num_blocks": num_blocks,
            "num_keypoints": num_keypoints,
            "feature_dim": feature_dim,
            "pretrained": pretrained,
        }
        self.image_size, self.crop_size = image_size, crop_size
        self.output_dim = num_views * feature_dim  # of one observation
        self.cameras = nn.ModuleList(
            nn.Sequential(
                resnet(widths, num_blocks),
                SpatialSoftmax(widths[-1], num_keypoints),
                nn.Flatten(),
                nn.Linear(2 * num_keypoints, feature_dim),
            )
            for _ in range(num_views)
        )
        self.register_buffer("pixel_mean", torch.zeros(3, 1, 1))  # travel with the weights
        self.register_buffer("pixel_std", torch.ones(3, 1, 1))
        if pretrained is not None:
            self._load(pretrained)

    def forward(self, frames: Tensor) -> Tensor:
        """Numbers of all cameras and observations; see the class for shapes."""
        batch_size, num_observations = frames.shape[0], frames.shape[2]
        features = []
        for view, camera in enumerate(self.cameras):
            pictures = (self._cropped(frames[:, view].flatten(0, 1)) - self.pixel_mean) / self.pixel_std
            features.append(camera(as_weights(pictures, camera)).view(batch_size, num_observations, -1))
        return torch.cat(features, dim=-1).flatten(1)

    def _cropped(self, pictures: Tensor) -> Tensor:
        room = self.image_size - self.crop_size
        if not self.training:
            low = room // 2
            return pictures[..., low : low + self.crop_size, low : low + self.crop_size]
        corners = torch.randint(room + 1, (2, len(pictures), 1), device=pictures.device)
        rows, columns = corners + torch.arange(self.crop_size, device=pictures.device)
        which = torch.arange(len(pictures), device=pictures.device).view(-1, 1, 1)
        return pictures.movedim(1, -1)[which, rows[:, :, None], columns[:, None]].movedim(-1, 1)

    def _load(self, source: str) -> None:
        weights = _resnet18_weights(source)
        for camera in self.cameras:
            trunk = camera.get_submodule("0")
            convolutions = [name for name, weight in trunk.state_dict().items() if weight.dim() == 4]
            try:
                trunk.load_state_dict({name: weights[name] for name in convolutions}, strict=False)
            except (KeyError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"encoder: {source} does not fit a ResNet of widths {self.config['widths']} and "
                    f"{self.config['num_blocks']} blocks ({reason}); leave both out, or set pretrained to null."
                ) from error
        self.pixel_mean.copy_(2 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1) - 1)  # of pixels in [-1, 1]
        self.pixel_std.copy_(2 * torch.tensor(IMAGENET_STD).view(3, 1, 1))


class SpatialSoftmax(nn.Module):
    """Where a feature is: the expected place of each map's activation (Finn et al. 2016, arXiv 1509.06113).

    Args:
        in_channels: Maps that come in; a 1x1 convolution makes `num_keypoints` of them.
        num_keypoints: Places.

    Shape:
        - input: (N, in_channels, H, W)
        - output: (N, num_keypoints, 2), x then y, from -1 (left, top) to 1
    """

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(in_channels, num_keypoints, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features to places."""
        maps = self.maps(features)
        attention = maps.flatten(2).softmax(dim=-1).unflatten(-1, maps.shape[-2:])
        rows, columns = (torch.linspace(-1, 1, size, device=maps.device, dtype=maps.dtype) for size in maps.shape[-2:])
        return torch.stack([attention.sum(dim=-2) @ columns, attention.sum(dim=-1) @ rows], dim=-1)


def resnet(widths: Sequence[int], num_blocks: int) -> nn.Sequential:
    """A ResNet of torchvision's without its head, named as there, with normalisations over groups of 16 channels."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False),
        bn1=_norm(widths[0]),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    before = widths[0]
    for stage, width in enumerate(widths):
        blocks = []
        for block in range(num_blocks):
            stride = 2 if stage and not block else 1
            shortcut = None
            if stride != 1 or before != width:
                shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), _norm(width))
            blocks.append(BasicBlock(before, width, stride, shortcut, norm_layer=_norm))
            before = width
        layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    network = nn.Sequential(layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // CHANNELS_A_GROUP, channels)


def _resnet18_weights(source: str) -> dict[str, Tensor]:
    path = Path(source).expanduser()
    try:
        if path.is_file():
            found: dict[str, Tensor] = torch.load(path, "cpu", weights_only=True)
            return found
        return dict(ResNet18_Weights[source].get_state_dict(progress=False))
    except KeyError:
        names = ", ".join(ResNet18_Weights.__members__)
        raise UserError(f"encoder: pretrained is {source!r}, neither a file nor one of {names}.") from None
    except Exception as error:  # torch's download and unpickling raise of many kinds
        reason = " ".join(str(error).split())
        raise UserError(
            f"encoder: {source!r} could not be read or downloaded ({reason}); download the file elsewhere and set "
            "pretrained to its path."
        ) from error
