"""From backbone features to clip and frame probabilities: the heads of networks, by kind.

`attention`: mean, single-head and multi-head attention pooling. Paper, section II-C and Figure 2: the features are
averaged over frequency; two parallel 1 x 1 convolutions give, at every step, an attention and a classification in
(0, 1); the attention is normalised over time; their product is summed over time; the heads' sums are added with a
learnable weight a head.

    clip(c)     = sum_h w_h sum_t  a_h(t, c) / sum_s a_h(s, c)  *  p_h(t, c)
    frame(t, c) = sum_h w_h p_h(t, c)                           (without the attention)

The head weights are not constrained, so neither sum need stay in [0, 1]; whoever promises a probability clamps.

`mlp` and `fully_convolutional`: of EfficientAT (https://github.com/fschmid56/EfficientAT, models/mn/model.py) and of
MobileNetV3 before it; `linear` and `softmax` of `psla.training.fit`. The features are averaged over frequency and time,
then given classes; those of `softmax` exclude each other, and sum to 1. The clip's probability is
that of the average of the steps and not an average of the steps' probabilities: a sound in one step of thirty is faint
in the clip and clear in its step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from psla.model.backbones.contract import Backbone

# Keeps the attention's sum over time away from zero, as the released code does.
EPSILON = 1e-7


class Tagging(NamedTuple):
    """What a tagger says of a batch.

    clip_probabilities: (batch, classes) float32.
    frame_probabilities: (batch, steps, classes) float32; a step is as many frames as the backbone's stride.
    features: (batch, channels) float32, the backbone's, averaged over frequency and a clip's own steps, before they are
        given classes; None where there are several backbones.
    frame_features: (batch, steps, channels) float32, the same step by step.
    familiarity: (batch,) float32, below 0 where the clip is like none of the classes; None where the network has no
        `psla.model.familiarity`.
    """

    clip_probabilities: Tensor
    frame_probabilities: Tensor
    features: Tensor | None = None
    frame_features: Tensor | None = None
    familiarity: Tensor | None = None


class Head(nn.Module):
    """What every head says of itself; `HEADS` has them by kind.

    Attributes:
        per_class: names of the tensors that have a row for every class (and attention head), head after head; the
            others belong to all classes.

    Shape:
        features: (batch, channels, mel rows, steps); valid_steps: (batch,) int, optional: steps past a clip's own are
        left out of the sums over time. Returns `Tagging`.
    """

    per_class: ClassVar[tuple[str, ...]]
    classes: int
    heads: int

    def forward(self, features: Tensor, valid_steps: Tensor | None = None) -> Tagging:
        """Features to probabilities, in float32 whatever the autocast."""
        with torch.autocast(features.device.type, enabled=False):
            kind = torch.promote_types(features.dtype, torch.float32)
            steps = features.to(kind).mean(dim=2).transpose(1, 2)  # (batch, steps, channels)
            if valid_steps is None:
                return self._pool(steps, None, steps.mean(dim=1))
            # A clip shorter than one step still has its first.
            count = valid_steps.to(steps.device).clamp(min=1, max=steps.shape[1])[:, None]
            valid = (torch.arange(steps.shape[1], device=steps.device) < count)[:, :, None]
            return self._pool(steps, valid, (steps * valid).sum(dim=1) / count)

    def _pool(self, steps: Tensor, valid: Tensor | None, mean: Tensor) -> Tagging:
        """steps: (batch, steps, channels); valid: (batch, steps, 1), which of them count; mean: of those that do."""
        raise NotImplementedError

    @torch.no_grad()
    def carry(self, other: Head, ours: Tensor, theirs: Tensor) -> None:
        """Take over another head of the same kind and sizes, of its classes those at `theirs` as ours at `ours`."""
        values = other.state_dict()
        for name, value in self.state_dict().items():
            if name in self.per_class:
                heads = torch.arange(max(self.heads, 1))[:, None]
                own, found = (heads * h.classes + rows for h, rows in ((self, ours), (other, theirs)))
                value[own.flatten()] = values[name][found.flatten()].to(value.device)
            else:
                value.copy_(values[name])


class Pooling(Head):
    """Attention pooling with any number of heads; zero heads is the mean over time.

    Args:
        channels: channels of the backbone's features.
        classes: number of classes.
        heads: 0 for mean pooling, 1 for single-head, n for n-headed attention (the paper: 4).

    Raises:
        ValueError: fewer than zero heads, or no class.

    Example:
        >>> Pooling(8, 3, heads=2)(torch.zeros(1, 8, 4, 5)).frame_probabilities.shape
        torch.Size([1, 5, 3])
    """

    per_class = ("classification.weight", "classification.bias", "attention.weight", "attention.bias")

    def __init__(self, channels: int, classes: int, heads: int = 4) -> None:
        super().__init__()
        if heads < 0:
            raise ValueError(f"pooling heads must be 0 (mean pooling) or more; got {heads}")
        if classes < 1:
            raise ValueError(f"a network needs at least one class; got {classes}")
        self.channels, self.classes, self.heads = channels, classes, heads
        # All heads stand in one matrix, head after head: one product instead of one a head.
        self.classification = nn.Linear(channels, max(heads, 1) * classes)
        self.attention = nn.Linear(channels, heads * classes) if heads else None
        self.head_weight = nn.Parameter(torch.full((heads,), 1.0 / heads)) if heads > 1 else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise: He uniform for mean and single-head pooling, the library's rule for several heads (released)."""
        layers = [layer for layer in (self.classification, self.attention) if layer is not None]
        for layer in layers:
            if self.heads > 1:
                layer.reset_parameters()
            else:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        if self.head_weight is not None:
            nn.init.constant_(self.head_weight, 1.0 / self.heads)

    def _pool(self, steps: Tensor, valid: Tensor | None, mean: Tensor) -> Tagging:
        batch, count, _ = steps.shape
        shape = (batch, count, max(self.heads, 1), self.classes)
        probability = torch.sigmoid(self.classification(steps)).view(shape)
        if self.attention is None:
            attention = torch.ones_like(probability)
        else:
            attention = _sigmoid(self.attention(steps)).view(shape).clamp(EPSILON, 1.0 - EPSILON)
        if valid is not None:
            attention = attention * valid[..., None]
        attention = attention / attention.sum(dim=1, keepdim=True)
        clip = (attention * probability).sum(dim=1)  # (batch, heads, classes)
        if self.head_weight is None:
            return Tagging(clip[:, 0], probability[:, :, 0], mean, steps)
        weight = self.head_weight[:, None]
        return Tagging((clip * weight).sum(dim=1), (probability * weight).sum(dim=2), mean, steps)


def _sigmoid(x: Tensor) -> Tensor:
    """The sigmoid; in a graph by its definition: an engine's own may be off by 1e-7 where it is 1e-7, and what is
    divided by the sum over time is then another clip's."""
    return 1 / (1 + torch.exp(-x)) if torch.compiler.is_exporting() else torch.sigmoid(x)


class _OneForAll(Head):
    """Heads that give classes to the mean of the steps, and to each step."""

    heads = 0

    def logits(self, features: Tensor) -> Tensor:
        """(..., channels) -> (..., classes)."""
        raise NotImplementedError

    def probabilities(self, features: Tensor) -> Tensor:
        """(..., channels) -> (..., classes), each in [0, 1]."""
        return self.logits(features).sigmoid()

    def _pool(self, steps: Tensor, valid: Tensor | None, mean: Tensor) -> Tagging:
        return Tagging(self.probabilities(mean), self.probabilities(steps), mean, steps)


class MlpHead(_OneForAll):
    """Two layers with a hard swish between them.

    Args:
        channels, classes: as in `Pooling`.
        hidden: units between the two layers.

    Example:
        >>> MlpHead(8, 3, hidden=16)(torch.zeros(1, 8, 4, 5)).clip_probabilities.shape
        torch.Size([1, 3])
    """

    per_class = ("output.weight", "output.bias")

    def __init__(self, channels: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.classes = classes
        self.hidden, self.output = nn.Linear(channels, hidden), nn.Linear(hidden, classes)

    def logits(self, features: Tensor) -> Tensor:
        return self.output(nn.functional.hardswish(self.hidden(features)))


class ConvolutionalHead(_OneForAll):
    """A 1 x 1 convolution and batch normalisation, whose output is averaged.

    Both are linear in evaluation mode, so they are computed from the averaged features; in training, too, the
    statistics are those of the averages and not of every place in the map.

    Example:
        >>> ConvolutionalHead(8, 3).eval()(torch.zeros(1, 8, 4, 5)).frame_probabilities.shape
        torch.Size([1, 5, 3])
    """

    per_class = ("output.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")

    def __init__(self, channels: int, classes: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.classes = classes
        self.output = nn.Linear(channels, classes, bias=False)
        self.norm = nn.BatchNorm1d(classes, momentum=momentum)

    def logits(self, features: Tensor) -> Tensor:
        values = self.output(features)
        if features.ndim == 2:
            return self.norm(values)
        # Steps are told with the statistics that clips have, and do not move them.
        return nn.functional.batch_norm(
            values.flatten(0, 1), self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias
        ).view_as(values)


class LinearHead(_OneForAll):
    """One layer, and a sigmoid a class.

    Example:
        >>> LinearHead(8, 3)(torch.zeros(1, 8, 4, 5)).clip_probabilities.shape
        torch.Size([1, 3])
    """

    per_class = ("output.weight", "output.bias")

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.output = nn.Linear(channels, classes)

    def logits(self, features: Tensor) -> Tensor:
        return self.output(features)


class SoftmaxHead(LinearHead):
    """One layer, and a softmax over the classes: each clip has exactly one of them.

    Example:
        >>> round(SoftmaxHead(8, 3)(torch.ones(1, 8, 4, 5)).clip_probabilities.sum().item(), 5)
        1.0
    """

    def probabilities(self, features: Tensor) -> Tensor:
        return self.logits(features).softmax(dim=-1)


class Beside(Head):
    """Two heads on the same features; the classes of the first come first.

    Example:
        >>> Beside(SoftmaxHead(8, 2), LinearHead(8, 3))(torch.zeros(1, 8, 4, 5)).clip_probabilities.shape
        torch.Size([1, 5])
    """

    per_class = ()
    heads = 0

    def __init__(self, fitted: Head, kept: Head) -> None:
        super().__init__()
        self.fitted, self.kept = fitted, kept
        self.classes = fitted.classes + kept.classes

    def forward(self, features: Tensor, valid_steps: Tensor | None = None) -> Tagging:
        """See `Head`."""
        one, other = self.fitted(features, valid_steps), self.kept(features, valid_steps)
        clip = torch.cat([one.clip_probabilities, other.clip_probabilities], dim=1)
        frames = torch.cat([one.frame_probabilities, other.frame_probabilities], dim=2)
        return one._replace(clip_probabilities=clip, frame_probabilities=frames)


def build_head(kind: str, backbone: Backbone, classes: int, heads: int, momentum: float) -> Head:
    """The head of a network.

    Args:
        kind: one of `HEADS`.
        heads: of attention; the other kinds have none.

    Raises:
        ValueError: an unknown kind, or numbers out of their range.
    """
    if kind not in HEADS:
        raise ValueError(f"no head is called {kind!r}; there are {', '.join(HEADS)}")
    if classes < 1:
        raise ValueError(f"a network needs at least one class; got {classes}")
    return HEADS[kind].build(backbone, classes, heads, momentum)


@dataclass(frozen=True)
class HeadKind:
    """A head by name.

    build: from the backbone, classes, attention heads and the momentum of batch normalisation. largest: name of its
    tensor that has a row for every class (and attention head), which bounds what a file may ask for.
    """

    build: Callable[[Backbone, int, int, float], Head]
    largest: str


HEADS = {
    "attention": HeadKind(
        lambda backbone, classes, heads, _: Pooling(backbone.channels, classes, heads), "classification.weight"
    ),
    "mlp": HeadKind(
        lambda backbone, classes, *_: MlpHead(backbone.channels, classes, backbone.hidden_channels), "output.weight"
    ),
    "fully_convolutional": HeadKind(
        lambda backbone, classes, _, momentum: ConvolutionalHead(backbone.channels, classes, momentum), "output.weight"
    ),
    "linear": HeadKind(lambda backbone, classes, *_: LinearHead(backbone.channels, classes), "output.weight"),
    "softmax": HeadKind(lambda backbone, classes, *_: SoftmaxHead(backbone.channels, classes), "output.weight"),
}
