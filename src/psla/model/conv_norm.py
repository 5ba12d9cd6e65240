"""Convolution, batch normalisation and activation: what EfficientNets are made of.

The convolution pads as TensorFlow does ("same"), computed from the side of the ImageNet pictures that a variant was
trained on and not from the input at hand, as the published weights were trained.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from psla.model.depthwise import DepthwiseConv2d

Activation = Literal["none", "silu", "relu6"]

BATCH_NORM_EPSILON = 1e-3


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a side of `size` pixels under TensorFlow's rule "same" (output = ceil(size / stride)).

    The rule puts the odd zero behind. At stride 2 an even side gets (0, 1) or (1, 2), an odd one (1, 1) or (2, 2).

    Example:
        >>> same_padding(224, 3, 2), same_padding(65, 5, 2), same_padding(224, 5, 1)
        ((0, 1), (2, 2), (2, 2))
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def activate(x: Tensor, kind: Activation) -> Tensor:
    """The activation, over `x` itself where autograd does not need it afterwards."""
    if kind == "relu6":
        return F.relu6(x, inplace=True)  # its gradient is read from the output
    if kind == "silu":
        return F.silu(x, inplace=not x.requires_grad)  # its gradient is read from the input
    return x


class ConvNorm(nn.Module):
    """Convolution without bias, padded for an ImageNet side of `size` pixels, batch normalisation and activation.

    Shape:
        (batch, channels_in, height, width) -> (batch, channels_out, ~height / stride, ~width / stride)
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        size: int,
        momentum: float,
        activation: Activation = "none",
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        before, after = same_padding(size, kernel, stride)
        # The convolution pads both sides alike and for nothing; only an odd zero costs a copy.
        self.odd_padding = (before, after, before, after) if before != after else None
        padding = 0 if self.odd_padding else before
        self.conv: nn.Conv2d
        if depthwise:
            self.conv = DepthwiseConv2d(channels_in, kernel, stride, padding)
        else:
            self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=BATCH_NORM_EPSILON, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        if self.odd_padding:
            x = F.pad(x, self.odd_padding)
        return activate(self.bn(self.conv(x)), self.activation)
