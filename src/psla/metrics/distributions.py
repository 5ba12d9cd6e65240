"""Student's distribution and the derivatives of log gamma, for tests with few observations.

SciPy has all of them; it is not among the packages that psla needs, and these are a page. The tests compare with it.
"""

from __future__ import annotations

import math
from statistics import NormalDist


def student_cdf(t: float, degrees: float) -> float:
    """Share of Student's distribution below t; the degrees of freedom need not be whole.

    Example:
        >>> round(student_cdf(4.302653, 2), 4), round(student_cdf(1.959964, float("inf")), 4)
        (0.975, 0.975)
    """
    if math.isinf(t):
        return 1.0 if t > 0 else 0.0
    if degrees > 1e7:
        return 0.5 * math.erfc(-t / math.sqrt(2))
    tail = 0.5 * _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))
    return 1 - tail if t > 0 else tail


def student_quantile(share: float, degrees: float) -> float:
    """The inverse of `student_cdf`, for shares above 0 and below 1, after Newton.

    Example:
        >>> round(student_quantile(0.975, 2), 4), round(student_quantile(0.025, 30), 4)
        (4.3027, -2.0423)
    """
    if not 0 < share < 1:
        raise ValueError(f"a quantile needs a share above 0 and below 1; got {share}")
    if share < 0.5:
        return -student_quantile(1 - share, degrees)
    if degrees > 1e7:
        return NormalDist().inv_cdf(share)
    # Above 0 the distribution is concave, so Newton's steps from the left of the quantile never go beyond it.
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    t = NormalDist().inv_cdf(share)
    for _ in range(200):
        density = math.exp(log_scale - (degrees + 1) / 2 * math.log1p(t * t / degrees))
        step = (share - student_cdf(t, degrees)) / density
        t += step
        if abs(step) <= 1e-9 * max(t, 1e-9):
            break
    return t


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by Lentz's continued fraction (Numerical Recipes, section 6.4)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    fraction = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 + term * d, 1 + term / c
            d = 1 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            fraction *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return front * fraction / a


def digamma(x: float) -> float:
    """The derivative of log gamma: steps up to where its asymptotic series is good (Abramowitz and Stegun, 6.3.18)."""
    steps = 0.0
    while x < 8:
        steps -= 1 / x
        x += 1
    r = 1 / (x * x)
    return steps + math.log(x) - 0.5 / x - r * (1 / 12 - r * (1 / 120 - r / 252))


def trigamma(x: float) -> float:
    """The derivative of digamma (Abramowitz and Stegun, 6.4.12)."""
    steps = 0.0
    while x < 8:
        steps += 1 / (x * x)
        x += 1
    r = 1 / (x * x)
    return steps + 1 / x + r / 2 + r / x * (1 / 6 - r * (1 / 30 - r / 42))


def inverse_trigamma(value: float) -> float:
    """By halving: trigamma falls from infinity to 0."""
    low, high = 1e-6, 1e6
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if trigamma(middle) > value else (low, middle)
    return math.sqrt(low * high)
