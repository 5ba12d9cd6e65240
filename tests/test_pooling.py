"""Laws of pooling: the paper's formula by a plain loop. The original's outputs: tests/test_released.py."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from psla.model.pooling import Pooling

CHANNELS, CLASSES = 5, 3
HEADS = (0, 1, 2, 4)


@pytest.fixture
def features() -> Tensor:
    """(2, channels, 4 mel rows, 6 steps), large enough that some attentions meet the clamp."""
    return 3 * torch.randn(2, CHANNELS, 4, 6, generator=torch.Generator().manual_seed(0))


def pooling(heads: int, scale: float = 1.0) -> Pooling:
    """A pooling whose every parameter is random, the head weights too."""
    layer = Pooling(CHANNELS, CLASSES, heads)
    generator = torch.Generator().manual_seed(heads)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return layer


def by_hand(features: Tensor, layer: Pooling) -> tuple[np.ndarray, np.ndarray]:
    """Clip and frame probabilities by the formula of section II-C, one number after the other, in float64."""

    def unit(linear: torch.nn.Linear, head: int, c: int, x: np.ndarray) -> float:
        row = head * CLASSES + c
        weight, bias = linear.weight.tolist(), linear.bias.tolist()
        z = bias[row] + sum(weight[row][k] * x[k] for k in range(CHANNELS))
        return 1 / (1 + math.exp(-z))

    batch, _, rows, steps = features.shape
    heads = max(layer.heads, 1)
    weights = [1.0] if layer.head_weight is None else layer.head_weight.tolist()
    clip, frame = np.zeros((batch, CLASSES)), np.zeros((batch, steps, CLASSES))
    for b in range(batch):
        step = [features[b, :, :, t].double().numpy().sum(1) / rows for t in range(steps)]
        for head in range(heads):
            for c in range(CLASSES):
                p = [unit(layer.classification, head, c, x) for x in step]
                a = [1.0] * steps
                if layer.attention is not None:
                    a = [min(max(unit(layer.attention, head, c, x), 1e-7), 1 - 1e-7) for x in step]
                clip[b, c] += weights[head] * sum(a[t] / sum(a) * p[t] for t in range(steps))
                frame[b, :, c] += weights[head] * np.array(p)
    return clip, frame


@pytest.mark.parametrize("scale", [0.3, 4.0])
@pytest.mark.parametrize("heads", HEADS)
def test_equals_the_formula(features: Tensor, heads: int, scale: float) -> None:
    """Clip and frame probabilities are the paper's, for mean pooling and any number of heads, clamped or not."""
    layer = pooling(heads, scale)
    got, (clip, frame) = layer(features), by_hand(features, layer)
    np.testing.assert_allclose(got.clip_probabilities.detach(), clip, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(got.frame_probabilities.detach(), frame, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("heads", [1, 4])
def test_frames_do_not_see_the_attention(features: Tensor, heads: int) -> None:
    """Another attention changes the clip probabilities and leaves the frame probabilities as they are."""
    layer = pooling(heads)
    before = layer(features)
    with torch.no_grad():
        layer.attention.weight.mul_(-2)
    after = layer(features)
    assert torch.equal(before.frame_probabilities, after.frame_probabilities)
    assert not torch.allclose(before.clip_probabilities, after.clip_probabilities)


@pytest.mark.parametrize("heads", HEADS)
def test_frequency_is_averaged(features: Tensor, heads: int) -> None:
    """The mel rows count through their mean alone: their order is nothing, and one row of the mean is as good."""
    layer = pooling(heads)
    whole = layer(features).clip_probabilities
    torch.testing.assert_close(layer(features.flip(2)).clip_probabilities, whole)
    torch.testing.assert_close(layer(features.mean(2, keepdim=True)).clip_probabilities, whole)


@pytest.mark.parametrize("heads", HEADS)
def test_time_order_is_nothing(features: Tensor, heads: int) -> None:
    """Pooling sums over time: reversed steps give the same clip and the reversed frames."""
    layer = pooling(heads)
    one, other = layer(features), layer(features.flip(3))
    torch.testing.assert_close(one.clip_probabilities, other.clip_probabilities)
    torch.testing.assert_close(one.frame_probabilities, other.frame_probabilities.flip(1))


@pytest.mark.parametrize("heads", HEADS)
def test_constant_features(heads: int) -> None:
    """Where all steps are equal, the clip probability is that of each step, whatever the attention."""
    layer = pooling(heads)
    got = layer(torch.randn(2, CHANNELS, 4, 1).expand(-1, -1, -1, 7))
    for t in range(7):
        torch.testing.assert_close(got.frame_probabilities[:, t], got.clip_probabilities, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("heads", HEADS)
def test_padding_changes_nothing(features: Tensor, heads: int) -> None:
    """With valid_steps, whatever stands past a clip's steps leaves its probability as if it were not there."""
    layer = pooling(heads)
    alone = layer(features[:1, :, :, :4]).clip_probabilities
    noise = features.clone()
    noise[0, :, :, 4:] = 50.0
    padded = layer(noise, torch.tensor([4, 6])).clip_probabilities
    torch.testing.assert_close(padded[:1], alone, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(padded[1:], layer(features[1:]).clip_probabilities, rtol=1e-6, atol=1e-7)


def test_a_clip_has_at_least_one_step(features: Tensor) -> None:
    """No valid step counts as one, and more than there are as all."""
    layer = pooling(4)
    got = layer(features, torch.tensor([0, 99])).clip_probabilities
    want = layer(features, torch.tensor([1, 6])).clip_probabilities
    assert torch.equal(got, want)
    assert got.isfinite().all()


@pytest.mark.parametrize("heads", HEADS)
def test_gradient_reaches_every_parameter(features: Tensor, heads: int) -> None:
    """The clip probabilities depend on every parameter, and the features get a finite gradient."""
    layer = pooling(heads, 0.3)
    features.requires_grad_()
    layer(features).clip_probabilities.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert features.grad.isfinite().all()


def test_head_weights_begin_equal() -> None:
    """Each of n heads begins with the weight 1 / n; one head and mean pooling have none."""
    assert Pooling(CHANNELS, CLASSES, 4).head_weight.tolist() == [0.25] * 4
    assert Pooling(CHANNELS, CLASSES, 1).head_weight is None
    assert Pooling(CHANNELS, CLASSES, 0).head_weight is None


def test_float32_under_autocast(features: Tensor) -> None:
    """Pooling is float32 whatever the autocast."""
    layer = pooling(4)
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer(features)
    assert inside.clip_probabilities.dtype == torch.float32
    assert torch.equal(inside.clip_probabilities, layer(features).clip_probabilities)


@pytest.mark.parametrize(("heads", "classes", "message"), [(-1, 3, "heads must be 0.*got -1"), (4, 0, "got 0")])
def test_refusals(heads: int, classes: int, message: str) -> None:
    """Fewer than no heads and no class are refused with the value."""
    with pytest.raises(ValueError, match=message):
        Pooling(CHANNELS, classes, heads)
