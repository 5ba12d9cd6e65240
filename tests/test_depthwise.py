"""Depthwise convolution: the gradients put together from parts are torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from psla.model.convolution import DepthwiseConv2d, input_gradient, kernel_gradient

# channels, height, width, kernel, stride, padding: all of EfficientNet's kinds, and what goes beyond them
SHAPES = [
    (4, 9, 12, 5, 2, 0),
    (4, 9, 12, 5, 2, 2),
    (3, 8, 11, 3, 2, 1),
    (3, 8, 11, 3, 2, 0),
    (2, 7, 8, 5, 1, 2),
    (2, 7, 7, 3, 1, 1),
    (2, 9, 9, 7, 3, 3),
    (2, 9, 10, 2, 3, 0),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_parts_add_up_to_torchs_gradients(shape: tuple[int, ...]) -> None:
    """In float64 both gradients equal autograd's within 1e-13, for every kernel, stride and padding."""
    channels, height, width, kernel, stride, padding = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, height, width, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(channels, 1, kernel, kernel, dtype=torch.float64, generator=generator, requires_grad=True)
    y = F.conv2d(x, weight, stride=stride, padding=padding, groups=channels)
    gradient = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    by_x, by_weight = torch.autograd.grad(y, (x, weight), gradient)
    x, weight = x.detach(), weight.detach()
    torch.testing.assert_close(input_gradient(gradient, weight, x, stride, padding), by_x, rtol=0, atol=1e-13)
    torch.testing.assert_close(kernel_gradient(gradient, x, weight, stride, padding), by_weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 0), (5, 1, 2), (5, 2, 0), (5, 2, 2)])
def test_bf16_gradients_are_right_to_bf16(kernel: int, stride: int, padding: int) -> None:
    """Under autocast value and gradients are those of float32 within the rounding of bfloat16 (8 bits)."""
    torch.manual_seed(1)
    conv = DepthwiseConv2d(16, kernel, stride, padding)
    x = torch.randn(2, 16, 13, 17, requires_grad=True)
    expected = conv(x)
    gradient = torch.randn_like(expected)
    exact = torch.autograd.grad(expected, (x, conv.weight), gradient)
    with torch.autocast("cpu", torch.bfloat16):
        value = conv(x)
    assert value.dtype == torch.bfloat16
    found = torch.autograd.grad(value, (x, conv.weight), gradient.bfloat16())
    for one, other in zip((value.float(), *found), (expected, *exact), strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).detach().norm()) < 2**-7 * float(other.detach().norm())


def test_it_is_a_convolution_to_everything_else() -> None:
    """Same name of its weight and same values as torch.nn.Conv2d, in float32 to the bit."""
    torch.manual_seed(2)
    conv = DepthwiseConv2d(6, 5, stride=2, padding=2)
    plain = torch.nn.Conv2d(6, 6, 5, stride=2, padding=2, groups=6, bias=False)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(1, 6, 9, 9)
    assert torch.equal(conv(x), plain(x))


def test_a_frozen_kernel_or_input_gets_no_gradient() -> None:
    """Only what asks for a gradient is given one."""
    conv = DepthwiseConv2d(4, 5, padding=2)
    conv.weight.requires_grad_(False)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        conv(x).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None
