"""Thresholds for a stated goal, what they give, and intervals of both.

    f1                  the highest F1
    precision=0.9       as many clips named as may be while nine of ten names are right
    recall=0.9          as few clips named as may be while nine of ten positives are
    false-alarms=1/h    as many clips named as may be while one an hour of clips without the class is

The rule counts one mistake more than was seen (conformal risk control: A. Angelopoulos et al., 2022,
https://arxiv.org/abs/2208.02814): of N + 1 named clips, not N, so many must be right; of P + 1 positives, M + 1 are
missed where M were; one more is a false alarm. So nine right of nine are a precision of 0.9, and few clips may leave a
goal out of reach.

What a threshold gives is a share of clips (`share`): its interval is Clopper and Pearson's for as many clips as the
sample is worth, clips of one recording being alike (J. Rao and A. Scott, A simple method for the analysis of clustered
binary data, 1992). That of F1 is had from the share J of TP in TP + FP + FN, F1 = 2 J / (1 + J). The interval of a
threshold is of a bootstrap over recordings. All are of 95 %.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import beta

from psla.metrics.resampling import draw_units

DRAWS = 200
_HOURS = {"h": 1.0, "min": 1 / 60, "day": 24.0}
_KINDS = "f1, precision=0.9, recall=0.9 or false-alarms=1/h (or /min, /day)"


class GoalError(ValueError):
    """A goal that is none."""


@dataclass(frozen=True)
class Goal:
    """What thresholds are for: kind is f1, precision, recall or false-alarms; value a share, or alarms an hour.

    Example:
        >>> Goal.parse("false-alarms=12/day")
        Goal(kind='false-alarms', value=0.5, text='false-alarms=12/day')
    """

    kind: str
    value: float
    text: str

    @staticmethod
    def parse(text: str) -> Goal:
        """Raises GoalError."""
        if text == "f1":
            return Goal("f1", 0.0, text)
        found = re.fullmatch(r"(precision|recall|false-alarms)=(\d*\.?\d+)(?:/(h|min|day))?", text)
        if found:
            kind, value, unit = found[1], float(found[2]), found[3]
            if kind == "false-alarms" and unit and value > 0:
                return Goal(kind, value / _HOURS[unit], text)
            if kind != "false-alarms" and not unit and 0 < value < 1:
                return Goal(kind, value, text)
        raise GoalError(f"a goal is {_KINDS}, a share above 0 and below 1; not {text!r}")


class Share(NamedTuple):
    """A share of clips with its interval; NaN where there is none to ask."""

    value: float
    low: float
    high: float


def share(success: np.ndarray, groups: np.ndarray) -> Share:
    """The share of clips that are so.

    Shape: success: (clips,) bool; groups: (clips,) the recording of each.

    Example:
        >>> [round(each, 3) for each in share(np.array([True] * 9 + [False]), np.arange(10))]
        [0.9, 0.53, 0.998]
    """
    clips = len(success)
    if not clips:
        return Share(np.nan, np.nan, np.nan)
    value, numbers = float(success.mean()), np.unique(groups, return_inverse=True)[1].reshape(-1)
    units = int(numbers.max()) + 1
    if value in (0.0, 1.0) or units == 1:
        worth = float(units)  # nothing tells how alike the clips of a recording are
    else:
        apart = np.bincount(numbers, success - value)
        variance = units / (units - 1) * float((apart**2).sum()) / clips**2
        worth = min(clips, value * (1 - value) / variance) if variance > 0 else float(clips)
    right, wrong = value * worth, (1 - value) * worth
    low = float(beta.ppf(0.025, right, wrong + 1)) if right > 0 else 0.0
    high = float(beta.ppf(0.975, right + 1, wrong)) if wrong > 0 else 1.0
    return Share(value, low, high)


def thresholds_for(
    goal: Goal, probability: np.ndarray, truth: np.ndarray, hours: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(draws,) the threshold of one class for a goal under each draw; NaN where the goal is out of reach.

    It lies half-way between the last clip that is named and the first that is not.

    Shape: probability: (clips,); truth: (clips,) bool; hours: (clips,) length of each; weights: (draws, clips) how
        often each clip counts.

    Example:
        >>> p, truth = np.linspace(0, 1, 101), np.linspace(0, 1, 101) >= 0.5
        >>> thresholds_for(Goal.parse("f1"), p, truth, np.ones(101), np.ones((1, 101))).round(6).tolist()
        [0.495]
    """
    order = np.argsort(-probability, kind="stable")
    p, w = probability[order], weights[:, order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(p)), len(p) - 1)  # of those that are equally probable
    named, right = w.cumsum(axis=1)[:, last], (w * truth[order]).cumsum(axis=1)[:, last]
    positives = right[:, -1:]
    if goal.kind == "f1":
        score = 2 * right / np.maximum(named + positives, 1e-9)
        reached, place = np.ones_like(score, dtype=bool), score.argmax(axis=1)
    elif goal.kind == "recall":
        reached = positives - right + 1 <= (1 - goal.value) * (positives + 1)
        place = reached.argmax(axis=1)
    else:
        if goal.kind == "precision":
            reached = right >= goal.value * (named + 1)
        else:
            heard = (w * ~truth[order] * hours[order]).sum(axis=1, keepdims=True)
            reached = named - right + 1 <= goal.value * heard
        place = reached.shape[1] - 1 - reached[:, ::-1].argmax(axis=1)
    ends = p[last]
    between = np.append((ends[:-1] + ends[1:]) / 2, ends[-1])
    return np.where(reached.any(axis=1), between[place], np.nan)


def threshold_interval(
    goal: Goal, probability: np.ndarray, truth: np.ndarray, hours: np.ndarray, groups: np.ndarray
) -> tuple[float, float, float]:
    """The threshold of one class, and its interval; NaN where the goal is out of reach (of the draws: of most).

    Shape: as `thresholds_for`; groups: (clips,) numbers from 0 on of what is drawn together.
    """
    value = float(thresholds_for(goal, probability, truth, hours, np.ones((1, len(truth))))[0])
    counts = draw_units(np.random.default_rng(0), DRAWS, int(groups.max()) + 1)[:, groups]
    drawn = thresholds_for(goal, probability, truth, hours, counts)
    if np.isnan(value) or np.isnan(drawn).mean() > 0.5:
        return value, np.nan, np.nan
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return value, min(float(low), value), max(float(high), value)


def given(goal: Goal, named: np.ndarray, truth: np.ndarray, hours: np.ndarray, groups: np.ndarray) -> Share:
    """What a threshold gives, in the goal's measure: F1, precision, recall, or false alarms an hour.

    Shape: named, truth: (clips,) bool; hours, groups: (clips,).

    Example:
        >>> named, truth = np.array([True, True, False]), np.array([True, False, False])
        >>> given(Goal.parse("precision=0.9"), named, truth, np.ones(3), np.arange(3)).value
        0.5
    """
    asked = {"f1": named | truth, "precision": named, "recall": truth, "false-alarms": ~truth}[goal.kind]
    found = share((named if goal.kind == "false-alarms" else named & truth)[asked], groups[asked])
    if goal.kind == "f1":
        return Share(*(2 * each / (1 + each) for each in found))
    if goal.kind == "false-alarms":
        per_hour = float(asked.sum() / hours[asked].sum()) if asked.any() else np.nan
        return Share(*(each * per_hour for each in found))
    return found
