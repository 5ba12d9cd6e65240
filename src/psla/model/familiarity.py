"""Familiarity: is a clip like one of the classes at all? A score from the averaged features, beside the probabilities.

The features, brought to length 1 (z), are taken for normal around the mean of their class, with one covariance for all
classes. How much nearer z is to the mean m_k of class k than to the mean m_0 of all clips, in Mahalanobis' distance, is

    1/2 |z - m_0|^2 - 1/2 |z - m_k|^2 = (m_k - m_0)' P (z - (m_k + m_0) / 2)         P: the inverse covariance

which is linear in z: the covariance itself need not be kept. The score is that of the nearest class less that of the
nearest background (m_0 is one, with 0; clips of silence, noise and hum are others), less a threshold.

Source: relative Mahalanobis distance, J. Ren et al., A Simple Fix to Mahalanobis Distance for Improving Near-OOD
Detection, 2021, https://arxiv.org/abs/2106.09022; there m_0 has a covariance of its own, which did worse here.
Not here: means, covariance and threshold (`psla.training.known`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHORTEST = 1e-12  # of the features, which are divided by their length


class Familiarity(nn.Module):
    """The score; its numbers are not trained with the network.

    Args:
        channels: of the features.
        classes: rows of `weight` that are classes; those after them are backgrounds.
        rows: of both, `classes` or more.

    Shape:
        features: (batch, channels). Returns (batch,) float32: below 0, the clip is like none of the classes.

    Raises:
        ValueError: fewer rows than classes.

    Example:
        >>> Familiarity(8, classes=3, rows=4)(torch.ones(2, 8)).tolist()
        [0.0, 0.0]
    """

    weight: Tensor
    bias: Tensor
    threshold: Tensor

    def __init__(self, channels: int, classes: int, rows: int) -> None:
        super().__init__()
        if rows < classes:
            raise ValueError(f"familiarity has a row for each class, {classes} of them, not {rows}")
        self.classes = classes
        self.register_buffer("weight", torch.zeros(rows, channels))
        self.register_buffer("bias", torch.zeros(rows))
        self.register_buffer("threshold", torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        unit = features / torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp(min=SHORTEST)
        nearer = nn.functional.linear(unit, self.weight, self.bias)
        background = nn.functional.pad(nearer[:, self.classes :], (1, 0)).amax(dim=1)  # that of all clips is 0
        return nearer[:, : self.classes].amax(dim=1) - background - self.threshold
