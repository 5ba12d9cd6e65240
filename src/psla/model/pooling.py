"""From backbone features to clip and frame probabilities: mean, single-head and multi-head attention pooling.

Paper, section II-C and Figure 2: the features are averaged over frequency; two parallel 1 x 1 convolutions give, at
every step, an attention and a classification in (0, 1); the attention is normalised over time; their product is summed
over time; the heads' sums are added with a learnable weight a head.

    clip(c)     = sum_h w_h sum_t  a_h(t, c) / sum_s a_h(s, c)  *  p_h(t, c)
    frame(t, c) = sum_h w_h p_h(t, c)                           (without the attention)

The head weights are not constrained, so neither sum need stay in [0, 1]; whoever promises a probability clamps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

# Keeps the attention's sum over time away from zero, as the released code does.
EPSILON = 1e-7


class Tagging(NamedTuple):
    """What a tagger says of a batch.

    clip_probabilities: (batch, classes) float32.
    frame_probabilities: (batch, steps, classes) float32; a step is as many frames as the backbone's stride.
    features: (batch, steps, channels) float32, the backbone's, averaged over frequency, before they are given classes;
        None where there are several backbones.
    """

    clip_probabilities: Tensor
    frame_probabilities: Tensor
    features: Tensor | None = None


class Pooling(nn.Module):
    """Attention pooling with any number of heads; zero heads is the mean over time.

    Args:
        channels: channels of the backbone's features.
        classes: number of classes.
        heads: 0 for mean pooling, 1 for single-head, n for n-headed attention (the paper: 4).

    Shape:
        features: (batch, channels, mel rows, steps); valid_steps: (batch,) int, optional: steps past a clip's own are
        left out of the sums over time. Returns `Tagging`.

    Raises:
        ValueError: fewer than zero heads, or no class.

    Example:
        >>> Pooling(8, 3, heads=2)(torch.zeros(1, 8, 4, 5)).frame_probabilities.shape
        torch.Size([1, 5, 3])
    """

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

    def forward(self, features: Tensor, valid_steps: Tensor | None = None) -> Tagging:
        """Pool features to probabilities, in float32 whatever the autocast."""
        with torch.autocast(features.device.type, enabled=False):
            kind = torch.promote_types(features.dtype, torch.float32)
            steps = features.to(kind).mean(dim=2).transpose(1, 2)  # (batch, steps, channels)
            return self._pool(steps, self._valid(steps, valid_steps))

    def _valid(self, steps: Tensor, valid_steps: Tensor | None) -> Tensor | None:
        if valid_steps is None:
            return None
        # A clip shorter than one step still has its first.
        count = valid_steps.clamp(min=1, max=steps.shape[1])
        return (torch.arange(steps.shape[1], device=steps.device) < count[:, None])[:, :, None, None]

    def _pool(self, steps: Tensor, valid: Tensor | None) -> Tagging:
        batch, count, _ = steps.shape
        shape = (batch, count, max(self.heads, 1), self.classes)
        probability = torch.sigmoid(self.classification(steps)).view(shape)
        if self.attention is None:
            attention = torch.ones_like(probability)
        else:
            attention = torch.sigmoid(self.attention(steps)).view(shape).clamp(EPSILON, 1.0 - EPSILON)
        if valid is not None:
            attention = attention * valid
        attention = attention / attention.sum(dim=1, keepdim=True)
        clip = (attention * probability).sum(dim=1)  # (batch, heads, classes)
        if self.head_weight is None:
            return Tagging(clip[:, 0], probability[:, :, 0], steps)
        weight = self.head_weight[:, None]
        return Tagging((clip * weight).sum(dim=1), (probability * weight).sum(dim=2), steps)
