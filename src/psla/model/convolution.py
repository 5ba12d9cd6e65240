"""Convolutions of backbones, for training and for inference.

`ConvNorm` is what EfficientNets are made of: convolution, batch normalisation and activation, padded as TensorFlow does
("same"), computed from the side of the ImageNet pictures that a variant was trained on and not from the input at hand,
as the published weights were trained.

`FoldedConv` is the same for inference alone. In evaluation mode a batch normalisation is a factor and a summand for
each channel, so it becomes part of the convolution before it: weight * g / sqrt(v + e) and bias
b - m * g / sqrt(v + e), computed in float64. Each pass over the feature maps that is saved is time:
docs/performance.md. Values agree with the network's within rounding.

`DepthwiseConv2d` has gradients that are fast on a CPU in bfloat16, too.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Activation = Literal["none", "silu", "relu6", "relu", "hardswish"]

BATCH_NORM_EPSILON = 1e-3
FAST_KERNEL = 3  # the largest side of a depthwise kernel whose gradient by the kernel is fast


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a side of `size` pixels under TensorFlow's rule "same" (output = ceil(size / stride)).

    The rule puts the odd zero behind. At stride 2 an even side gets (0, 1) or (1, 2), an odd one (1, 1) or (2, 2).

    Example:
        >>> same_padding(224, 3, 2), same_padding(65, 5, 2), same_padding(224, 5, 1)
        ((0, 1), (2, 2), (2, 2))
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def zero_padded(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """`F.pad` with zeros left, right, above and below; without gradients it writes the inner part only once.

    Example:
        >>> with torch.inference_mode():
        ...     zero_padded(torch.ones(1, 1, 1, 2), (0, 1, 0, 1)).tolist()
        [[[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]]
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_exporting():
        return F.pad(x, padding)
    left, right, above, below = padding
    height, width = x.shape[2:]
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    shape = (*x.shape[:2], above + height + below, left + width + right)
    out = torch.empty(shape, dtype=x.dtype, memory_format=layout)
    out[:, :, :above] = 0
    out[:, :, above + height :] = 0
    out[:, :, :, :left] = 0
    out[:, :, :, left + width :] = 0
    out[:, :, above : above + height, left : left + width] = x
    return out


def activate(x: Tensor, kind: Activation) -> Tensor:
    """The activation, over `x` itself where autograd does not need it afterwards."""
    if kind == "relu6":
        return F.relu6(x, inplace=True)  # its gradient is read from the output
    if kind == "relu":
        return F.relu(x, inplace=True)
    if kind == "hardswish":
        return F.hardswish(x, inplace=not x.requires_grad)
    if kind == "silu":
        return F.silu(x, inplace=not x.requires_grad)  # its gradient is read from the input
    return x


class ConvNorm(nn.Module):
    """Convolution without bias, padded for an ImageNet side of `size` pixels, batch normalisation and activation.

    size: None pads both sides alike by half a kernel, whatever the input.

    Shape:
        (batch, channels_in, height, width) -> (batch, channels_out, ~height / stride, ~width / stride)
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        size: int | None,
        momentum: float,
        activation: Activation = "none",
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        before, after = (kernel // 2, kernel // 2) if size is None else same_padding(size, kernel, stride)
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
            x = zero_padded(x, self.odd_padding)
        return activate(self.bn(self.conv(x)), self.activation)


# What oneDNN calls the activations that it computes with a convolution, and their scalars.
_FUSED: dict[str, tuple[str, list[float]]] = {
    "none": ("none", []),
    "silu": ("swish", []),
    "relu6": ("hardtanh", [0, 6]),
    "relu": ("relu", []),
    "hardswish": ("hardswish", []),
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
            x = zero_padded(x, self.odd_padding)
        if not _is_fused(x):
            return activate(conv(x), self.activation)
        name, scalars = _FUSED[self.activation]
        padding, stride, dilation = list(conv.padding), list(conv.stride), list(conv.dilation)
        return torch.ops.mkldnn._convolution_pointwise(
            x, conv.weight, conv.bias, padding, stride, dilation, conv.groups, name, scalars, ""
        )


def _is_fused(x: Tensor) -> bool:
    """Whether oneDNN computes a convolution and its activation in one: bfloat16 needs AVX-512 or its like."""
    if torch.compiler.is_exporting():  # whoever runs the graph fuses as it can
        return False
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


def fold_in(network: nn.Module) -> None:
    """Replace every `ConvNorm` within a network by its `FoldedConv`, in place."""
    for part in list(network.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, ConvNorm):
                setattr(part, name, FoldedConv(child))


class DepthwiseConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with one square filter a channel and no bias: the same values and, up to rounding, gradients.

    Args:
        channels: of input and output. kernel: side of the filters. stride, padding: as in `torch.nn.Conv2d`.

    Shape:
        (batch, channels, height, width) -> (batch, channels, ~height / stride, ~width / stride)

    Example:
        >>> DepthwiseConv2d(8, 3, stride=2, padding=1)(torch.zeros(1, 8, 10, 20)).shape
        torch.Size([1, 8, 5, 10])
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(channels, channels, kernel, stride=stride, padding=padding, groups=channels, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """The convolution; under autocast in its precision."""
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        if input.device.type != "cpu" or kind != torch.bfloat16 or not torch.is_grad_enabled():
            return super().forward(input)
        stride, padding = int(self.stride[0]), int(self.padding[0])
        return _Depthwise.apply(input.to(kind), self.weight.to(kind), stride, padding)


class _Depthwise(torch.autograd.Function):
    """oneDNN has fast bfloat16 kernels for depthwise convolutions at stride 1 and for gradients of kernels up to 3 x 3;
    the others fall back to reference loops that take most of a training step. Both gradients can be put together from
    the fast ones, exactly but for the rounding of each part to bfloat16:

    - by the input, at stride s: the rows i = a + s m of the gradient depend on the rows a, a + s, ... of the kernel
      alone, so each of the s x s phases is a convolution at stride 1 with a part of the kernel;
    - by the kernel: the gradients of its parts of up to 3 x 3 are those of smaller kernels over a shifted input.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        by_x = input_gradient(gradient, weight, x, ctx.stride, ctx.padding) if ctx.needs_input_grad[0] else None
        by_weight = kernel_gradient(gradient, x, weight, ctx.stride, ctx.padding) if ctx.needs_input_grad[1] else None
        return by_x, by_weight, None, None


def input_gradient(gradient: Tensor, weight: Tensor, x: Tensor, stride: int, padding: int) -> Tensor:
    """The gradient by the input, phase by phase.

    Args:
        gradient: (batch, channels, rows, columns), by the output. weight: (channels, 1, side, side).
        x: the input. stride, padding: of the convolution.
    """
    if stride == 1:
        return _own_gradient(gradient, x, weight, stride, padding, by_input=True)
    batch, channels, height, width = x.shape
    height, width = height + 2 * padding, width + 2 * padding  # the padded input's
    found = gradient.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)  # channels-last
    for row in range(stride):
        for column in range(stride):
            target, part = found[:, :, row::stride, column::stride], weight[:, :, row::stride, column::stride]
            high, wide = part.shape[2:]
            if high == 0 or wide == 0:  # a stride beyond the kernel's side: no output saw these inputs
                target.zero_()
                continue
            phase = F.conv2d(gradient, part.flip(2, 3), padding=(high - 1, wide - 1), groups=channels)
            rows, columns = phase.shape[2:]
            target[:, :, :rows, :columns] = phase
            target[:, :, rows:] = 0.0  # what the last outputs did not reach
            target[:, :, :, columns:] = 0.0
    return found[:, :, padding : height - padding, padding : width - padding]


def kernel_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """The gradient by the kernel, in parts of up to 3 x 3.

    Args:
        gradient: (batch, channels, rows, columns), by the output. x: the input. weight: (channels, 1, side, side).
        stride, padding: of the convolution.
    """
    side = weight.shape[-1]
    if side <= FAST_KERNEL:
        return _own_gradient(gradient, x, weight, stride, padding)
    padded = F.pad(x, (padding,) * 4) if padding else x
    rows, columns = ((size - 1) * stride for size in gradient.shape[2:])
    found = torch.empty_like(weight)
    for top in range(0, side, FAST_KERNEL):
        for left in range(0, side, FAST_KERNEL):
            part = weight[:, :, top : top + FAST_KERNEL, left : left + FAST_KERNEL]
            high, wide = part.shape[2:]
            seen = padded[:, :, top : top + rows + high, left : left + columns + wide]
            seen = seen.contiguous(memory_format=torch.channels_last)
            found[:, :, top : top + high, left : left + wide] = _own_gradient(gradient, seen, part, stride, 0)
    return found


def _own_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, by_input: bool = False
) -> Tensor:
    """torch's own, by the kernel or by the input."""
    wanted = [by_input, not by_input, False]
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight), wanted
    )[0 if by_input else 1]
