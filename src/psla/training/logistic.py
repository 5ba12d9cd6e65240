"""Logistic regression on features: one of several classes (multinomial), or each class by itself.

With features standardised over the clips given, s_ic the weight of clip i for class c and L the strength,

    multinomial:  sum_i s_i -log softmax(W x_i + b)[y_i]                          +  L/2 |W|^2
    by itself:    sum_c sum_i s_ic (-log of the probability of what clip i is)    +  L/2 |W|^2

is minimised by L-BFGS. The weights are balanced: every class has as much in all, or by itself its clips as much as the
others; they sum to 1 (for each class). scikit-learn's LogisticRegression(class_weight="balanced") minimises the same
with C = 1 / (L n); the tests compare. It is not used here: 60 MB more to install for one function of SciPy's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

STEPS = 1000


class Linear(NamedTuple):
    """Logits of features as they are, the standardising folded in: weight (classes, channels), bias (classes,)."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(clips, channels) -> (clips, classes) float64."""
        return features @ self.weight.T + self.bias


def balanced(labels: np.ndarray, single: bool) -> np.ndarray:
    """The weight of each clip, (clips, 1), or of each clip for each class, (clips, classes); each column sums to 1.

    Example:
        >>> balanced(np.array([[1, 0], [1, 0], [0, 1]], dtype=bool), single=True)[:, 0].tolist()
        [0.25, 0.25, 0.5]
    """
    counts = np.maximum(labels.sum(axis=0), 1)
    if single:
        weights = (labels / counts).sum(axis=1, keepdims=True)
    else:
        weights = np.where(labels, 1 / counts, 1 / np.maximum(len(labels) - counts, 1))
    return weights / weights.sum(axis=0)


def losses(logits: np.ndarray, labels: np.ndarray, single: bool) -> np.ndarray:
    """(clips, 1) or (clips, classes): minus the logarithm of the probability of what is so."""
    if single:
        return -(log_softmax(logits, axis=1) * labels).sum(axis=1, keepdims=True)
    return np.logaddexp(0, np.where(labels, -logits, logits))


def probabilities(logits: np.ndarray, single: bool) -> np.ndarray:
    """(clips, classes) float32."""
    return (np.exp(log_softmax(logits, axis=1)) if single else expit(logits)).astype(np.float32)


def regress(features: np.ndarray, labels: np.ndarray, strengths: Sequence[float], single: bool) -> Iterator[Linear]:
    """The regression at each strength, in their order; each begins where the one before has ended.

    Shape:
        features: (clips, channels); labels: (clips, classes) bool, with `single` one True in each row.

    Example:
        >>> features, labels = np.array([[-1.0], [1.0]]), np.eye(2, dtype=bool)
        >>> (found,) = regress(features, labels, [0.01], single=True)
        >>> found.logits(features).argmax(axis=1).tolist()
        [0, 1]
    """
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    deviation = np.where(deviation > 0, deviation, 1.0)
    x = np.hstack([(features - mean) / deviation, np.ones((len(features), 1))])  # the last column is the bias's
    weights, classes = balanced(labels, single), labels.shape[1]

    def objective(flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        w = flat.reshape(classes, -1)
        logits = x @ w.T
        if single:
            logits -= logits.max(axis=1, keepdims=True)
            predicted = np.exp(logits)
            total = predicted.sum(axis=1, keepdims=True)
            loss, predicted = float((np.log(total[:, 0]) - logits[labels]) @ weights[:, 0]), predicted / total
        else:
            loss, predicted = float((weights * losses(logits, labels, single)).sum()), expit(logits)
        gradient = (weights * (predicted - labels)).T @ x
        gradient[:, :-1] += strength * w[:, :-1]
        return loss + strength / 2 * float((w[:, :-1] ** 2).sum()), gradient.ravel()

    flat = np.zeros(classes * x.shape[1])
    for strength in strengths:
        options = {"maxiter": STEPS, "gtol": 1e-7, "ftol": 1e-11}
        flat = minimize(objective, flat, (strength,), "L-BFGS-B", jac=True, options=options).x
        w = flat.reshape(classes, -1)
        weight = w[:, :-1] / deviation
        yield Linear(weight, w[:, -1] - weight @ mean)
