"""Convolutions of backbones, for training and for inference.

`ConvNorm` is what EfficientNets are made of: convolution, batch normalisation and activation, padded as TensorFlow does
("same"), computed from the side of the ImageNet pictures that a variant was trained on and not from the input at hand,
as the published weights were trained.

`FoldedConv` is the same for inference alone. In evaluation mode a batch normalisation is a factor and a summand for
each channel, so it becomes part of the convolution before it: weight * g / sqrt(v + e) and bias
b - m * g / sqrt(v + e), computed in float64. Each pass over the feature maps that is saved is time:
docs/performance.md. Values agree with the network's within rounding. Depthwise convolutions: `psla.model.depthwise`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
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


# What oneDNN calls the activations that it computes with a convolution, and their scalars.
_FUSED: dict[str, tuple[str, list[float]]] = {
    "none": ("none", []),
    "silu": ("swish", []),
    "relu6": ("hardtanh", [0, 6]),
}


class FoldedConv(nn.Module):
    """Convolution, batch normalisation and activation as one; made from a `ConvNorm`.

    Shape:
        (batch, channels_in, height, width) -> (batch, channels_out, ~height / stride, ~width / stride)
    """

    def __init__(self, part: ConvNorm) -> None:
        super().__init__()
        self.conv = folded(part.conv, part.bn)
        self.odd_padding, self.activation = part.odd_padding, part.activation

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        x = x.to(conv.weight.dtype)
        if self.odd_padding:
            x = F.pad(x, self.odd_padding)
        if not _is_fused(x):
            return activate(conv(x), self.activation)
        name, scalars = _FUSED[self.activation]
        padding, stride, dilation = list(conv.padding), list(conv.stride), list(conv.dilation)
        return torch.ops.mkldnn._convolution_pointwise(
            x, conv.weight, conv.bias, padding, stride, dilation, conv.groups, name, scalars, ""
        )


def _is_fused(x: Tensor) -> bool:
    """Whether oneDNN computes a convolution and its activation in one: bfloat16 needs AVX-512 or its like."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if x.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return x.dtype == torch.float32


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution with a bias that does what `conv` and then `norm`, in evaluation mode, do."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    out = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        groups=conv.groups,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        weight = (conv.weight.double() * factor[:, None, None, None]).to(conv.weight.dtype)
        out.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        assert out.bias is not None
        out.bias.copy_(norm.bias.double() - norm.running_mean.double() * factor)
    return out
