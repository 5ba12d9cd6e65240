"""A network for inference alone: batch normalisation folded into the convolutions, activations computed with them.

In evaluation mode a batch normalisation is a factor and a summand for each channel, so it becomes part of the
convolution before it: weight * g / sqrt(v + e) and bias b - m * g / sqrt(v + e), computed in float64. Each pass over
the feature maps that is saved is time: docs/performance.md. Values agree with the network's within rounding.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psla.model.backbones.efficientnet import EfficientNet
from psla.model.backbones.resnet import Bottleneck, ResNet50
from psla.model.conv_norm import ConvNorm, activate
from psla.model.network import TaggingNetwork

Precision = Literal["float32", "bf16"]

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


def for_inference(network: TaggingNetwork, precision: Precision = "float32") -> TaggingNetwork:
    """A copy of a network, or of an ensemble, that is faster and cannot be trained.

    Args:
        network: is left as it is.
        precision: of the backbone; `bf16` is twice as fast on a CPU that has it and moves a probability by up to a few
            hundredths.

    Example:
        >>> from psla.model.network import NetworkConfig
        >>> network = TaggingNetwork(NetworkConfig("efficientnet_lite0", 3)).eval()
        >>> sum(p.numel() for p in for_inference(network).backbone.parameters()) < network.parameters_count
        True
    """
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    for part in list(copied.modules()):
        if isinstance(part, EfficientNet | ResNet50):
            _fold_inside(part)
            if precision == "bf16":
                part.to(torch.bfloat16)
    return copied


def _fold_inside(backbone: nn.Module) -> None:
    for part in list(backbone.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, ConvNorm):
                setattr(part, name, FoldedConv(child))
        if isinstance(part, Bottleneck | ResNet50):
            for number in ("1", "2", "3"):
                norm = getattr(part, f"bn{number}", None)
                if norm is not None:
                    setattr(part, f"conv{number}", folded(getattr(part, f"conv{number}"), norm))
                    setattr(part, f"bn{number}", nn.Identity())
        if isinstance(part, Bottleneck) and part.downsample is not None:
            conv, norm = part.downsample
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            part.downsample = nn.Sequential(folded(conv, norm))
