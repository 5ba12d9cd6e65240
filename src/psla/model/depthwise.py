"""Depthwise convolution whose gradients are computed, on a CPU in bfloat16, from the convolutions that are fast there.

oneDNN has fast bfloat16 kernels for depthwise convolutions at stride 1 and for gradients of kernels up to 3 x 3; the
others fall back to reference loops that take most of a training step. Both gradients can be put together from the fast
ones, exactly but for the rounding of each part to bfloat16:

- by the input, at stride s: the rows i = a + s m of the gradient depend on the rows a, a + s, ... of the kernel alone,
  so each of the s x s phases is a convolution at stride 1 with a part of the kernel;
- by the kernel: the gradients of its parts of up to 3 x 3 are those of smaller kernels over a shifted input.

On other devices and in other precisions torch's own gradients are used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FAST_KERNEL = 3  # the largest side whose gradient by the kernel is fast


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
