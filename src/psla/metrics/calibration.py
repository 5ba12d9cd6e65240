"""Calibration: maps from what a model says to how often it is so, and how far the two are apart.

`Platt`: sigmoid(slope * logit(p) + offset), with his targets (N + 1) / (N + 2) and 1 / (M + 2) of N positives and M
negatives in place of 1 and 0. Source: J. Platt, Probabilistic outputs for support vector machines, 1999; there of
margins, here of the log-odds that a model gives.

`Isotonic`: the nondecreasing steps that are nearest to the labels, between them straight lines; kept away from 0 and 1
as Platt's targets are. Source: B. Zadrozny and C. Elkan, Transforming classifier scores into accurate multiclass
probability estimates, 2002.

Expected calibration error: clips in bins of equal width by their probability; the mean over clips of the distance
between a bin's mean probability and its share of positives. Of several classes the mean over classes. Source: C. Guo
et al., On calibration of modern neural networks, 2017; class by class: M. Kull et al., Beyond temperature scaling,
2019.

Not here: thresholds (`psla.metrics.thresholds`), what a model file keeps (`psla.model.calibration`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, logit

BINS = 15
NEAREST = 1e-7  # to 0 and 1: of a float32, what is nearer to 1 is 1


class Platt(NamedTuple):
    """A map with two numbers; a slope of 0 or more keeps the order of the clips.

    Example:
        >>> Platt(1.0, 0.0)(np.array([0.25, 0.5])).round(6).tolist()
        [0.25, 0.5]
    """

    slope: float
    offset: float

    def __call__(self, probability: np.ndarray) -> np.ndarray:
        return expit(self.slope * log_odds(probability) + self.offset)


class Isotonic(NamedTuple):
    """A map through points, level before the first and after the last.

    Example:
        >>> Isotonic((0.25, 0.75), (0.5, 1.0))(np.array([0.0, 0.5, 1.0])).tolist()
        [0.5, 0.75, 1.0]
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, probability: np.ndarray) -> np.ndarray:
        return np.interp(probability, self.x, self.y)


Map = Platt | Isotonic


def log_odds(probability: np.ndarray) -> np.ndarray:
    """float64; of what is beyond 0 or 1, as the weighted heads of some models are, that of the nearest within."""
    return logit(np.clip(probability.astype(np.float64), NEAREST, 1 - NEAREST))


def platt(probability: np.ndarray, truth: np.ndarray) -> Platt:
    """Platt's map of one class.

    Shape: probability: (clips,); truth: (clips,) bool.

    Example:
        >>> found = platt(np.array([0.01, 0.02, 0.03, 0.04] * 50), np.array([False, False, True, True] * 50))
        >>> (found(np.array([0.01, 0.04])) > 0.5).tolist()
        [False, True]
    """
    from scipy.optimize import minimize  # takes long to import, and who tags only applies maps

    x = log_odds(probability)
    positives = int(truth.sum())
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (len(truth) - positives + 2))

    def loss(given: np.ndarray) -> tuple[float, np.ndarray]:
        z = given[0] * x + given[1]
        error = expit(z) - target
        return float((np.logaddexp(0, z) - target * z).mean()), np.array([(error * x).mean(), error.mean()])

    start = np.array([1.0, 0.0])
    options = {"maxiter": 500, "gtol": 1e-8, "ftol": 1e-13}
    found = minimize(loss, start, method="L-BFGS-B", jac=True, bounds=[(0, None), (None, None)], options=options).x
    return Platt(float(found[0]), float(found[1]))


def isotonic(probability: np.ndarray, truth: np.ndarray) -> Isotonic:
    """The isotonic map of one class; shapes as `platt`.

    Example:
        >>> found = isotonic(np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, True, False, True]))
        >>> [round(y, 3) for y in found.y]
        [0.333, 0.5, 0.5, 0.667]
    """
    from scipy.optimize import isotonic_regression  # as above

    levels, which = np.unique(probability.astype(np.float64), return_inverse=True)
    clips = np.bincount(which.reshape(-1)).astype(np.float64)
    share = np.bincount(which.reshape(-1), truth) / clips
    fitted = isotonic_regression(share, weights=clips)
    # Of each level stretch its ends; and its share as if one clip more of either kind had been there.
    y = np.asarray(fitted.x, dtype=np.float64)
    ends = np.zeros(len(y), dtype=bool)
    for begin, end in zip(fitted.blocks[:-1], fitted.blocks[1:], strict=True):
        total = clips[begin:end].sum()
        y[begin:end] = (y[begin:end] * total + 1) / (total + 2)
        ends[[begin, end - 1]] = True
    y = np.maximum.accumulate(y)
    return Isotonic(tuple(levels[ends].tolist()), tuple(y[ends].tolist()))


def log_loss(probability: np.ndarray, truth: np.ndarray) -> float:
    """The mean of minus the logarithm of the probability of what is so."""
    z = log_odds(probability)
    return float(np.logaddexp(0, np.where(truth, -z, z)).mean())


def reliability(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """The bins that have clips: how many, their mean probability, and their share of positives.

    Shape: probability and truth of one shape; of several classes all together.

    Example:
        >>> reliability(np.array([0.1, 0.15, 0.9]), np.array([False, True, True]), bins=2)
        [{'clips': 2, 'probability': 0.125, 'share': 0.5}, {'clips': 1, 'probability': 0.9, 'share': 1.0}]
    """
    p, t = probability.reshape(-1).astype(np.float64), truth.reshape(-1)
    which = np.clip((p * bins).astype(int), 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    sums, shares = (np.bincount(which, each, minlength=bins) / np.maximum(counts, 1) for each in (p, t))
    rows = zip(counts.tolist(), sums.tolist(), shares.tolist(), strict=True)
    return [{"clips": n, "probability": p, "share": share} for n, p, share in rows if n]


def calibration_errors(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> np.ndarray:
    """(classes,) the expected calibration error of each class.

    Shape: probability and truth: (clips, classes).

    Example:
        >>> calibration_errors(np.array([[0.9], [0.9]]), np.array([[True], [False]])).round(6).tolist()
        [0.4]
    """
    found = []
    for p, t in zip(probability.T, truth.T, strict=True):
        rows = reliability(p, t, bins)
        found.append(sum(row["clips"] * abs(row["probability"] - row["share"]) for row in rows) / max(1, len(p)))
    return np.array(found)
