"""Known: what a familiarity score (`psla.model.familiarity`, with its algebra) is made of: means and covariance.

The covariance within the classes is shrunk to a multiple of the identity, as O. Ledoit and M. Wolf, A well-conditioned
estimator for large-dimensional covariance matrices, 2004, https://doi.org/10.1016/S0047-259X(03)00096-4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from psla.model.familiarity import SHORTEST

LEAST_SHRUNK = 1e-4  # few clips may leave directions without any spread, which could not be inverted
MOST = 256  # backgrounds of one origin: each is a row in the model file
KEPT = 0.9  # of the clips that are like a class, as cross-validation says


class Known(NamedTuple):
    """Rows of the score: weight (classes and backgrounds, channels), bias, and the number of classes."""

    weight: np.ndarray
    bias: np.ndarray
    classes: int

    def score(self, features: np.ndarray) -> np.ndarray:
        """(clips,) before the threshold."""
        nearer = unit(features) @ self.weight.T + self.bias
        return nearer[:, : self.classes].max(axis=1) - nearer[:, self.classes :].max(axis=1, initial=0.0)


def unit(features: np.ndarray) -> np.ndarray:
    """Features of length 1, float64."""
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), SHORTEST)


def at_most(values: np.ndarray, most: int = MOST) -> np.ndarray:
    """So many rows of more, evenly spaced.

    Example:
        >>> at_most(np.arange(5), 2).tolist()
        [0, 3]
    """
    return values[:: max(1, -(-len(values) // most))]


def shrunk_covariance(x: np.ndarray) -> np.ndarray:
    """Ledoit and Wolf's covariance of (clips, channels), whose mean is 0.

    Example:
        >>> shrunk_covariance(np.array([[1.0, 0.0], [-1.0, 0.0]])).tolist()
        [[0.99995, 0.0], [0.0, 5e-05]]
    """
    clips, channels = x.shape
    sample = x.T @ x / clips
    mean = np.trace(sample) / channels
    squares = x**2
    noise = ((squares.T @ squares).sum() / clips - (sample**2).sum()) / clips
    spread = (sample**2).sum() - channels * mean**2
    share = min(max(noise / spread, LEAST_SHRUNK), 1.0) if spread > 0 else 1.0
    return (1 - share) * sample + share * mean * np.eye(channels)


def know(features: np.ndarray, labels: np.ndarray, backgrounds: np.ndarray) -> Known:
    """The score that these clips teach.

    Args:
        features: (clips, channels); labels: (clips, classes) bool, at least one in each row and column.
        backgrounds: (any, channels) features of clips that are of no class, each a row of the score.
    """
    z = unit(features)
    means = (labels.T @ z) / labels.sum(axis=0)[:, None]
    covariance = shrunk_covariance(z - (labels @ means) / labels.sum(axis=1, keepdims=True))
    if not covariance.any():  # clips that are all alike
        covariance = np.eye(len(covariance))
    whole = means.mean(axis=0)
    rows = np.vstack([means, unit(backgrounds)])
    weight = np.linalg.solve(covariance, (rows - whole).T).T
    return Known(weight, -(weight * (rows + whole) / 2).sum(axis=1), labels.shape[1])
