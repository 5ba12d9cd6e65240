"""How sure a mean over seeds is, when another training and other clips would both have given another number.

n trainings (seeds) scored on the same clips, d_i the score of the i-th (or the difference of a pair with the same
seed), D their mean. Let s^2 be the variance of the d_i and c the covariance of two of them over draws of clips. Then

    Var(D) = s^2 / n + c

without bias: s^2 / n has the luck of training (and of clips, as far as it differs from model to model), c the luck of
clips that all models share. s^2 of three seeds is a poor estimate, c a good one, so each has its own quantile t of
Student's distribution, and the interval is

    D +- sqrt(t(n - 1)^2 s^2 / n + t(m - 1)^2 c),    m: number of clips (or sources).

It covers the truth at least as often as it says, whatever the shares of the two (Banerjee). With a common number of
degrees of freedom after Satterthwaite and Hillis, three seeds raised a false alarm 13 times in 100 where 5 are allowed;
percentiles over draws of three pairs have no such factor at all.

Three seeds have t(2) = 4.30, and far more after a correction for many tests. But where many rows were trained, the
luck of one tells of that of the others: `seed_prior` fits how the rows' s^2 spread about a common value (an inverse
chi-square distribution with d degrees of freedom), and the s^2 of a difference is drawn towards it as d further
degrees of freedom would draw it (Smyth). Where rows differ much in their luck, d is small and little is borrowed.

Source: the variance: Obuchowski and Rockette, Communications in Statistics: Simulation and Computation 24 (1995), for
readers (here seeds) and cases (here clips). The interval: Banerjee, Sankhya 22 (1960), for sums of means with unequal
variances. The prior: Smyth, Statistical Applications in Genetics and Molecular Biology 3 (2004), article 3. The
correction for many tests: Holm, Scandinavian Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import polygamma, psi, stdtr, stdtrit

LEAST_P = 1e-12  # smaller p-values are given as this one


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval; made by `estimate`.

    Attributes:
        value: the mean. low, high: its interval at the level `confidence`.
        p: two-sided, of the hypothesis that the true value is 0.
        seeds: how many. seeds_degrees: degrees of freedom of what is known of their luck, the prior's included.
        seeds_std, clips_std: standard errors from seeds and from clips. With one seed the first is None:
            the luck of training is not in the interval.
        training_std: standard deviation of one training alone, without what clips do to it; None with one seed.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: int
    seeds_degrees: float
    seeds_std: float | None
    clips_std: float
    training_std: float | None
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SeedPrior:
    """What a lab's rows tell of the luck of one training: its variance, worth so many degrees of freedom."""

    variance: float
    degrees: float


def seed_prior(variances: Sequence[float], degrees: Sequence[int]) -> SeedPrior | None:
    """Fit `SeedPrior` to the variances over seeds of several rows; None from fewer than four.

    The degrees of freedom are never more than the rows have together without two, those that are to be compared.

    Args:
        variances: of each row's score over its seeds; zeros are left out.
        degrees: of freedom of each, its seeds less one.

    Example:
        >>> found = seed_prior([1.0, 1.1, 0.9, 1.0, 1.05], [2] * 5)
        >>> round(found.variance, 2), found.degrees
        (1.01, 6.0)
        >>> seed_prior([1e-4, 1.0, 1e2, 1e-2, 1e4], [2] * 5).degrees < 1
        True
    """
    pairs = [(v, d) for v, d in zip(variances, degrees, strict=True) if v > 0 and d > 0]
    if len(pairs) < 4:
        return None
    found, free = np.array(pairs, dtype=float).T
    most = float(np.sort(free)[:-2].sum())
    logs = np.log(found) - psi(free / 2) + np.log(free / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, free / 2).mean())
    if excess <= polygamma(1, most / 2):
        return SeedPrior(float((found * free).sum() / free.sum()), most)
    half = brentq(lambda x: polygamma(1, x) - excess, 1e-6, most / 2)
    return SeedPrior(float(np.exp(logs.mean() + psi(half)) / half), 2 * half)


def estimate(
    exact: np.ndarray,
    drawn: np.ndarray,
    units: int,
    confidence: float = 0.95,
    prior: SeedPrior | None = None,
    trainings: int = 1,
) -> Estimate:
    """The mean over seeds, its interval over seeds and clips, and the p-value of zero; see the module's head.

    Args:
        exact: (seeds,) scores, or differences, as measured.
        drawn: (seeds, draws) the same under each draw of clips.
        units: how many clips, or sources, are drawn; 2 or more.
        confidence: level of the interval, above 0 and below 1.
        prior: what other rows tell of the luck of training; without several seeds it is not used.
        trainings: how many independent trainings are in a score: 2 for the difference of a pair.

    Raises:
        ValueError: shapes that do not fit, fewer than 2 draws or units, or another level.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> found = estimate(np.array([0.1, 0.2, 0.3]), 0.2 + 0.001 * rng.normal(size=(3, 200)), units=100)
        >>> round(found.value, 3), round(found.low, 2), round(found.high, 2), round(found.p, 3)
        (0.2, -0.05, 0.45, 0.074)
    """
    if exact.ndim != 1 or drawn.ndim != 2 or len(exact) != len(drawn) or not len(exact) or drawn.shape[1] < 2:
        raise ValueError(
            f"an estimate needs (seeds,) scores and (seeds, 2 or more draws); got {exact.shape}, {drawn.shape}"
        )
    if units < 2 or not 0 < confidence < 1:
        raise ValueError(
            f"an estimate needs 2 clips or more and a level above 0 and below 1; got {units}, {confidence}"
        )
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]  # a draw in which no class has a positive does not count
    if drawn.shape[1] < 2:
        raise ValueError("an estimate needs draws in which a class has positives: more clips, or more draws")
    count = len(exact)
    covariance = np.atleast_2d(np.cov(drawn))
    own = float(np.trace(covariance)) / count
    shared = own if count == 1 else float(covariance.sum() - np.trace(covariance)) / (count * (count - 1))
    clips = max(shared, 0.0)
    seen = between = float(exact.var(ddof=1)) if count > 1 else 0.0
    degrees: float = count - 1
    if prior is not None and count > 1:
        degrees += prior.degrees
        between = (prior.degrees * trainings * prior.variance + (count - 1) * seen) / degrees
    parts = [(part, free) for part, free in ((between / count, degrees), (clips, units - 1)) if part > 0]
    value, half = float(exact.mean()), _half_width(parts, 1 - confidence)
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        p=_p_value(abs(value), parts),
        seeds=count,
        seeds_degrees=float(degrees),
        seeds_std=math.sqrt(between / count) if count > 1 else None,
        clips_std=math.sqrt(clips),
        training_std=math.sqrt(max(seen - (own - shared), 0.0)) if count > 1 else None,
        confidence=confidence,
    )


def _half_width(parts: Sequence[tuple[float, float]], level: float) -> float:
    """Half of the interval that leaves out `level`; parts: variance and degrees of freedom each."""
    return math.sqrt(sum(float(stdtrit(degrees, level / 2)) ** 2 * part for part, degrees in parts))


def _p_value(value: float, parts: Sequence[tuple[float, float]]) -> float:
    """The level whose interval just reaches 0."""
    if not parts:
        return float(value == 0)
    if len(parts) == 1:
        part, degrees = parts[0]
        return 2 * float(stdtr(degrees, -value / math.sqrt(part)))
    if _half_width(parts, LEAST_P) <= value:
        return LEAST_P
    return math.exp(brentq(lambda log: _half_width(parts, math.exp(log)) - value, math.log(LEAST_P), 0))


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: with Holm's steps, the chance of one false finding or more is kept.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = least
    return corrected
