"""How large a difference a planned comparison will find: the power of the test of `psla.metrics.significance`.

A comparison with n seeds and m clips finds a true difference when its p-value falls below a level. What it measures is
normal about the truth with the variance s^2 / n + c; s^2 is itself measured, from n - 1 degrees of freedom (and those
of a prior). So the power is the mean, over its chi-square distribution, of the chance that the measured difference
exceeds the half width of the interval. c, the luck of clips, falls as 1 / m.

Looks in a row. Where verdicts are given after each of several numbers of seeds, the level is spent between them: after
the share t of the seeds, alpha(t) = 2 - 2 Phi(z(1 - level / 2) / sqrt(t)) in all, which spends little early (O'Brien
and Fleming's boundary as Lan and DeMets spend it). The look k is tested at alpha(t_k) - alpha(t_(k - 1)): the sum of
the looks is the level, so the chance of one false finding or more is at most the level, however the looks depend on
each other. That bound costs some power against boundaries that know the dependence, which need variances that are
known.

Source: Lan, DeMets: Discrete sequential boundaries for clinical trials, Biometrika 70 (1983).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, norm, t

_POINTS = 400  # of the mean over the measured variance


@dataclass(frozen=True)
class Design:
    """A comparison before it is made.

    Attributes:
        between: variance of one seed's difference, the luck of its trainings.
        clips: variance that other clips of the same number would give the mean, in all seeds alike.
        seeds: of the pairs, 2 or more; or 1: then the luck of training is left out, as in the test.
        units: how many clips, or sources, are drawn: 2 or more.
        level: chance of a false finding, above 0 and below 1, after whatever correction.
        prior_degrees: degrees of freedom that other rows lend; 0: none.

    Raises:
        ValueError: a value outside its range.
    """

    between: float
    clips: float
    seeds: int
    units: int
    level: float = 0.05
    prior_degrees: float = 0.0

    def __post_init__(self) -> None:
        if min(self.between, self.clips, self.prior_degrees) < 0 or self.seeds < 1 or self.units < 2:
            raise ValueError(f"a design needs variances from 0 on, a seed or more and 2 clips or more: {self}")
        if not 0 < self.level < 1:
            raise ValueError(f"the level must be above 0 and below 1, not {self.level}")

    def power(self, difference: float) -> float:
        """Chance that a true difference of this size is found, with the right sign.

        Example:
            >>> design = Design(between=1e-4, clips=1e-5, seeds=3, units=300)
            >>> [round(design.power(each), 2) for each in (0.0, 0.03, 0.06)]
            [0.02, 0.72, 0.99]
        """
        parts = 0.0
        if self.seeds > 1 and self.between > 0:
            own, lent = self.seeds - 1, self.prior_degrees
            seen = self.between * chi2.ppf((np.arange(_POINTS) + 0.5) / _POINTS, own) / own
            measured = (own * seen + lent * self.between) / (own + lent)
            parts = t.isf(self.level / 2, own + lent) ** 2 * measured / self.seeds
        half = np.sqrt(parts + t.isf(self.level / 2, self.units - 1) ** 2 * self.clips)
        luck = math.sqrt((self.between / self.seeds if self.seeds > 1 else 0.0) + self.clips)
        if luck == 0:
            return float(difference != 0)
        return float(np.mean(norm.sf((half - abs(difference)) / luck)))

    def finds(self, power: float = 0.8) -> float:
        """The smallest true difference that is found with this power.

        Example:
            >>> design = Design(between=1e-4, clips=1e-5, seeds=3, units=300)
            >>> round(design.finds(), 3), round(design.power(design.finds()), 6)
            (0.034, 0.8)
        """
        if not 0 < power < 1:
            raise ValueError(f"a power must be above 0 and below 1, not {power}")
        if self.between == self.clips == 0:
            return 0.0
        high = math.sqrt(self.between + self.clips)
        while self.power(high) < power:
            high *= 2
        return float(brentq(lambda difference: self.power(difference) - power, 0, high))

    def seeds_for(self, difference: float, power: float = 0.8, most: int = 200) -> int | None:
        """The fewest seeds that find this difference with this power; None: not even `most` do, for the clips' luck.

        Example:
            >>> Design(between=1e-4, clips=1e-5, seeds=3, units=300).seeds_for(0.02)
            5
            >>> Design(between=1e-4, clips=1e-4, seeds=3, units=300).seeds_for(0.02) is None
            True
        """
        return next((n for n in range(2, most + 1) if replace(self, seeds=n).power(difference) >= power), None)


def spent(looks: Sequence[int], level: float) -> list[float]:
    """The level of each look, so that all together are `level`; see the module's head.

    Args:
        looks: numbers of seeds after which is looked, ascending.

    Raises:
        ValueError: no looks, or not ascending.

    Example:
        >>> [round(each, 5) for each in spent([3, 5, 8], 0.05)]
        [0.00137, 0.0118, 0.03683]
    """
    if not looks or looks[0] < 1 or any(b <= a for a, b in pairwise(looks)):
        raise ValueError(f"looks must be ascending numbers of seeds, not {list(looks)}")
    z = norm.isf(level / 2)
    so_far = [float(2 * norm.sf(z / math.sqrt(each / looks[-1]))) for each in looks]
    return [so_far[0], *(b - a for a, b in pairwise(so_far))]
