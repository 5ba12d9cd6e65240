"""MobileNetV3 as EfficientAT builds it: an extractor of features from a one-channel log-mel spectrogram.

Architecture: A. Howard et al., "Searching for MobileNetV3" (https://arxiv.org/abs/1905.02244), table 1 (large), with
a factor on all widths, and squeeze-excite with a plain sigmoid, as in F. Schmid et al., "Efficient Large-Scale Audio
Tagging via Transformer-to-CNN Knowledge Distillation" (https://arxiv.org/abs/2211.04772) and its code
(https://github.com/fschmid56/EfficientAT, models/mn). Its heads: `psla.model.pooling`.

No ImageNet weights are read for it: those of torchvision have another squeeze-excite. A training starts from random
weights or, better, from a published model (`init: mn10_as`). Dropout, which that code has in the head, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from psla.model.backbones.contract import BACKBONES, Backbone, BackboneKind
from psla.model.backbones.efficientnet import scale_channels
from psla.model.convolution import Activation, ConvNorm, fold_in

WIDEST = 8.0


class _Row(NamedTuple):
    """A row of the table: expanded and output channels, kernel, squeeze-excite, activation, the stage it begins."""

    expanded: int
    channels: int
    kernel: int
    squeeze: bool
    activation: Activation
    stage: int | None = None


_STEM_CHANNELS, _HIDDEN_CHANNELS = 16, 1280
_ROWS = (
    _Row(16, 16, 3, False, "relu"),
    _Row(64, 24, 3, False, "relu", 0),
    _Row(72, 24, 3, False, "relu"),
    _Row(72, 40, 5, True, "relu", 1),
    _Row(120, 40, 5, True, "relu"),
    _Row(120, 40, 5, True, "relu"),
    _Row(240, 80, 3, False, "hardswish", 2),
    _Row(200, 80, 3, False, "hardswish"),
    _Row(184, 80, 3, False, "hardswish"),
    _Row(184, 80, 3, False, "hardswish"),
    _Row(480, 112, 3, True, "hardswish"),
    _Row(672, 112, 3, True, "hardswish"),
    _Row(672, 160, 5, True, "hardswish", 3),
    _Row(960, 160, 5, True, "hardswish"),
    _Row(960, 160, 5, True, "hardswish"),
)


class Channels(NamedTuple):
    """Numbers of channels: of the stem, of each block its expanded and its output, and units of the `mlp` head."""

    stem: int
    blocks: list[tuple[int, int]]
    hidden: int


def channels(width: float) -> Channels:
    """All of a network's.

    Example:
        >>> channels(0.4).stem, channels(0.4).blocks[-1], channels(0.4).hidden
        (8, (384, 64), 512)
    """
    blocks = [(scale_channels(row.expanded, width), scale_channels(row.channels, width)) for row in _ROWS]
    return Channels(scale_channels(_STEM_CHANNELS, width), blocks, scale_channels(_HIDDEN_CHANNELS, width))


class SqueezeExcite(nn.Module):
    """Gates each channel by a function of the means of all channels.

    Shape:
        (batch, channels, height, width) -> the same
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = scale_channels(channels // 4, 1.0)
        self.reduce, self.expand = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(self.reduce(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        return x * gate if x.requires_grad or gate.requires_grad else x.mul_(gate)


class Block(nn.Module):
    """Inverted bottleneck: expand (1 x 1), depthwise (k x k), squeeze-excite, project (1 x 1), and a skip.

    Shape:
        (batch, channels_in, height, width) -> (batch, channels, ~height / stride, ~width / stride)
    """

    def __init__(
        self, channels_in: int, inner: int, channels_out: int, row: _Row, stride: int, momentum: float
    ) -> None:
        super().__init__()
        self.has_skip = stride == 1 and channels_in == channels_out
        self.expand = (
            None
            if inner == channels_in
            else ConvNorm(channels_in, inner, size=None, momentum=momentum, activation=row.activation)
        )
        self.depthwise = ConvNorm(
            inner,
            inner,
            size=None,
            momentum=momentum,
            activation=row.activation,
            kernel=row.kernel,
            stride=stride,
            depthwise=True,
        )
        self.squeeze_excite = SqueezeExcite(inner) if row.squeeze else None
        self.project = ConvNorm(inner, channels_out, size=None, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.depthwise(x if self.expand is None else self.expand(x))
        if self.squeeze_excite is not None:
            branch = self.squeeze_excite(branch)
        branch = self.project(branch)
        return branch.add_(x) if self.has_skip else branch


class MobileNet(Backbone):
    """The convolutional part of a MobileNetV3 (large), from one input channel.

    Args:
        batch_norm_momentum: weight of the newest batch in the running statistics, in (0, 1].
        width: factor on the number of channels, above 0, to 8; EfficientAT has 0.1 to 4.
        strides: of the four stages after the stem, which has 2; each 1 or 2.

    Shape:
        x (batch, 1, mel bins, frames) -> (batch, channels, mel bins / stride, frames / stride), rounded up. It has no
        drop connect.

    Raises:
        ValueError: an option out of its range.

    Example:
        >>> tuple(MobileNet(width=0.4).eval()(torch.zeros(1, 1, 128, 100)).shape)
        (1, 384, 4, 4)
    """

    def __init__(
        self, batch_norm_momentum: float = 0.01, width: float = 1.0, strides: Sequence[int] = (2, 2, 2, 2)
    ) -> None:
        super().__init__()
        if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= WIDEST:
            raise ValueError(f"width must be a number above 0, to {WIDEST:g}, not {width!r}")
        if not isinstance(strides, list | tuple) or len(strides) != 4 or any(each not in (1, 2) for each in strides):
            raise ValueError(f"strides must be four numbers, each 1 or 2, not {strides!r}")
        self.stride = 2 * math.prod(strides)
        plan, momentum = channels(width), batch_norm_momentum
        self.hidden_channels = plan.hidden
        self.stem = ConvNorm(1, plan.stem, size=None, momentum=momentum, activation="hardswish", kernel=3, stride=2)
        *before, last = [plan.stem, *(out for _, out in plan.blocks)]
        self.blocks = nn.ModuleList(
            Block(taken, inner, out, row, 1 if row.stage is None else strides[row.stage], momentum)
            for taken, (inner, out), row in zip(before, plan.blocks, _ROWS, strict=True)
        )
        self.channels = 6 * last
        self.head = ConvNorm(last, self.channels, size=None, momentum=momentum, activation="hardswish")

    def fold(self) -> None:
        """See `Backbone.fold`."""
        fold_in(self)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Features of log-mel spectrograms (batch, 1, mel bins, frames); `keep` has no effect."""
        self._check(x, keep)
        x = self.stem(x)
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


BACKBONES.add("mobilenet", BackboneKind(MobileNet, options={"width": 1.0, "strides": [2, 2, 2, 2]}))
