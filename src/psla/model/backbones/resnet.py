"""ResNet-50 as an extractor of features from a one-channel log-mel spectrogram.

Architecture: He et al. (https://arxiv.org/abs/1512.03385), table 1, in the form called v1.5: the stride of a bottleneck
is in its 3 x 3 convolution. Tensors are named as in torchvision's checkpoint
(https://github.com/pytorch/vision/blob/main/torchvision/models/resnet.py).

Not here: the ImageNet classifier and the reading of weights (`psla.weights.imagenet`).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from psla.model.backbones.contract import BACKBONES, Backbone, BackboneKind, ImageNetWeights
from psla.model.convolution import folded

_EXPANSION = 4


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (with the stride) and 1 x 1 convolution, added to the input.

    Shape:
        (batch, channels_in, height, width) -> (batch, 4 width, ~height / stride, ~width / stride)
    """

    def __init__(self, channels_in: int, width: int, stride: int, momentum: float) -> None:
        super().__init__()
        channels = width * _EXPANSION
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, momentum=momentum)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, momentum=momentum)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels, momentum=momentum)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels, momentum=momentum),
            )

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu_(self.bn1(self.conv1(x)))
        branch = F.relu_(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return F.relu_(branch.add_(x if self.downsample is None else self.downsample(x)))


def _layer(channels_in: int, width: int, blocks: int, stride: int, momentum: float) -> nn.Sequential:
    first = Bottleneck(channels_in, width, stride, momentum)
    return nn.Sequential(first, *(Bottleneck(width * _EXPANSION, width, 1, momentum) for _ in range(blocks - 1)))


class ResNet50(Backbone):
    """The convolutional part of ResNet-50, from one input channel, with a total stride of 32.

    Args:
        batch_norm_momentum: weight of the newest batch in the running statistics, in (0, 1]; 0.1 is PyTorch's default.

    Shape:
        x (batch, 1, mel bins, frames) -> (batch, 2048, mel bins / 32, frames / 32), rounded up. It has no drop connect.

    Raises:
        ValueError: input of another shape, or a momentum out of its range.

    Example:
        >>> import torch
        >>> tuple(ResNet50().eval()(torch.zeros(1, 1, 64, 40)).shape)
        (1, 2048, 2, 2)
    """

    channels = 2048
    stride = 32

    def __init__(self, batch_norm_momentum: float = 0.1) -> None:
        super().__init__()
        momentum = batch_norm_momentum
        self.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64, momentum=momentum)
        self.layer1 = _layer(64, 64, 3, 1, momentum)
        self.layer2 = _layer(256, 128, 4, 2, momentum)
        self.layer3 = _layer(512, 256, 6, 2, momentum)
        self.layer4 = _layer(1024, 512, 3, 2, momentum)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Features of log-mel spectrograms (batch, 1, mel bins, frames); `keep` has no effect."""
        self._check(x, keep)
        x = F.relu_(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def fold(self) -> None:
        """See `Backbone.fold`."""
        for part in list(self.modules()):
            for number in ("1", "2", "3"):
                norm = getattr(part, f"bn{number}", None)
                if isinstance(norm, nn.BatchNorm2d):
                    setattr(part, f"conv{number}", folded(getattr(part, f"conv{number}"), norm))
                    setattr(part, f"bn{number}", nn.Identity())
            if isinstance(part, Bottleneck) and part.downsample is not None:
                conv, norm = part.downsample
                assert isinstance(conv, nn.Conv2d)
                assert isinstance(norm, nn.BatchNorm2d)
                part.downsample = nn.Sequential(folded(conv, norm))


BACKBONES.add(
    "resnet50",
    BackboneKind(
        ResNet50,
        ImageNetWeights(
            "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            "0676ba61",
            "BSD-3-Clause",
            "https://docs.pytorch.org/vision/stable/models/resnet.html",
        ),
        stem=("conv1.weight", "conv1.weight"),
    ),
)
