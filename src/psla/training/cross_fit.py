"""Cross-validation of a head on features: folds of whole recordings, the strength they choose, scores with intervals.

Each fold's clips are answered by a head that has heard none of their recordings, at the strength that has the lowest
balanced log loss on the other folds' clips; so no clip has a say in the strength it is answered with. A class with one
recording stays in training always. Intervals are of a bootstrap over recordings, 95 % of the draws.

Not here: the file and its report (`psla.training.fit`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psla.data.labels import Labels
from psla.metrics.resampling import Ranked, defined_mean, draw_units, drawn_precisions
from psla.metrics.scores import average_precisions, nan_to_none
from psla.training.known import KEPT, Known, at_most, know
from psla.training.logistic import Linear, balanced, losses, probabilities, regress

FOLDS = 5
STRENGTHS = tuple(float(f"{10**power:.3g}") for power in np.arange(0.5, -4.25, -0.5))
DRAWS = 1000
NEVER = -1  # the fold of what stays in training
_STEPS = 20  # of thresholds, from 0.05 to 0.95


@dataclass(frozen=True)
class Task:
    """What a head is fitted to.

    Shape:
        features: (clips, channels) float32; labels: (clips, classes) bool; groups: (clips,) the recording of each clip,
        as numbers from 0 on. backgrounds: (any, channels) features of no class.
    """

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    single: bool
    backgrounds: np.ndarray

    def head(self, rows: np.ndarray, strength: float) -> Linear:
        """The head of some of the clips."""
        return next(regress(self.features[rows], self.labels[rows], [strength], self.single))

    def known(self, rows: np.ndarray) -> Known:
        """The familiarity score of some of the clips; those without labels are backgrounds, too."""
        features, labels = self.features[rows], self.labels[rows]
        labelled = labels.any(axis=1)
        # A class that has no clip here has no mean: no clip may be near it.
        there = labels.any(axis=0)
        backgrounds = np.vstack([self.backgrounds, at_most(features[~labelled])])
        return know(features[labelled], labels[labelled][:, there], backgrounds)


@dataclass(frozen=True)
class Answers:
    """What cross-validation says.

    Attributes:
        folds: (clips,) the fold in which a clip is held out, or `NEVER`.
        probabilities: (clips, classes) float32, of heads that have not heard the clip; NaN where it is never held out.
        familiarity: (clips,) likewise, before the threshold.
        losses: balanced log loss by strength, over all folds.
        strength: that of the lowest.
    """

    folds: np.ndarray
    probabilities: np.ndarray
    familiarity: np.ndarray
    losses: dict[float, float]
    strength: float

    @property
    def asked(self) -> np.ndarray:
        """(clips,) which clips were held out."""
        return np.not_equal(self.folds, NEVER)


def folds_of(labels: np.ndarray, groups: np.ndarray, most: int = FOLDS) -> np.ndarray:
    """(clips,) a fold for each recording, every class in proportion; `NEVER` where a class has but one recording.

    Greedy, rarest class first: a recording goes where its classes are rarest. The same clips give the same folds.

    Example:
        >>> folds_of(np.eye(2, dtype=bool)[[0, 0, 0, 0, 1]], np.array([0, 0, 1, 2, 3]), 2).tolist()
        [0, 0, 1, 1, -1]
    """
    count = int(groups.max()) + 1
    of_group = np.zeros((count, labels.shape[1]))  # clips of each class
    np.add.at(of_group, groups, labels)
    alone = (of_group > 0).sum(axis=0) == 1
    free = np.asarray(of_group[:, alone].sum(axis=1) == 0)
    sizes = np.bincount(groups)
    folds = np.full(count, NEVER)
    number = min(most, int(free.sum()))
    held, total = np.zeros((number, labels.shape[1])), np.maximum(of_group.sum(axis=0), 1)
    filled = np.zeros(number)
    rarest = np.where(of_group > 0, total, np.inf).min(axis=1)
    for group in np.lexsort((np.arange(count), -sizes, rarest)):
        if free[group]:
            share = (held[:, of_group[group] > 0] / total[of_group[group] > 0]).sum(axis=1)
            fold = folds[group] = int(np.lexsort((filled, share))[0])
            held[fold] += of_group[group]
            filled[fold] += sizes[group]
    return folds[groups]


def cross_validate(task: Task) -> Answers:
    """Answers of every clip that is held out; there must be two folds or more."""
    folds = folds_of(task.labels, task.groups)
    shape = (len(STRENGTHS), *task.labels.shape)
    logits = np.full(shape, np.nan)
    for fold in range(folds.max() + 1):
        held = folds == fold
        found = regress(task.features[~held], task.labels[~held], STRENGTHS, task.single)
        for place, head in enumerate(found):
            logits[place, held] = head.logits(task.features[held])
    asked = np.not_equal(folds, NEVER)
    weights = balanced(task.labels, task.single)
    lost = np.full((len(STRENGTHS), len(folds)), np.nan)
    for place in range(len(STRENGTHS)):
        lost[place, asked] = (weights * losses(logits[place], task.labels, task.single)).sum(axis=1)[asked]
    chosen = np.full((len(folds), task.labels.shape[1]), np.nan, dtype=np.float32)
    for fold in range(folds.max() + 1):
        best = int(lost[:, asked & (folds != fold)].sum(axis=1).argmin())
        chosen[folds == fold] = probabilities(logits[best, folds == fold], task.single)
    whole = lost[:, asked].sum(axis=1)
    by_strength = {strength: float(loss) for strength, loss in zip(STRENGTHS, whole, strict=True)}
    return Answers(folds, chosen, held_out_familiarity(task, folds), by_strength, STRENGTHS[int(whole.argmin())])


def held_out_familiarity(task: Task, folds: np.ndarray) -> np.ndarray:
    """(clips,) the score of each clip that is held out, before the threshold; NaN for the others."""
    scores = np.full(len(folds), np.nan)
    for fold in range(folds.max() + 1):
        held = folds == fold
        scores[held] = task.known(~held).score(task.features[held])
    return scores


def threshold_of(familiarity: np.ndarray) -> float:
    """What keeps `KEPT` of the held-out scores; not below 0: what is nearer to a background than to any class has no
    name."""
    return max(float(np.nanquantile(familiarity, 1 - KEPT)), 0.0)


def measured(said: np.ndarray, labels: Labels, groups: np.ndarray, single: bool) -> dict[str, Any]:
    """Accuracy (one label a clip) or mean average precision, each class's average precision, intervals, confusion.

    Shape:
        said: (clips, classes) float32, in the order of the labels; groups: (clips,), drawn together.

    Returns: plain data. The interval of an accuracy of 0 or 1, which draws cannot widen, is Clopper and Pearson's for
        as many trials as there are recordings.
    """
    groups = np.unique(groups, return_inverse=True)[1].reshape(-1)
    units = int(groups.max()) + 1
    counts = draw_units(np.random.default_rng(0), DRAWS, units)
    (drawn,) = drawn_precisions([Ranked(said, labels)], counts, groups, lambda draws: None)
    precisions = average_precisions(said, labels)
    per_class = []
    for c in labels.vocabulary:
        low, high = _interval(drawn[:, c.index])
        row = {"id": c.id, "name": c.name, "positives": len(labels.rows_with(c.id))}
        per_class.append(row | {"average_precision": float(precisions[c.index]), "low": low, "high": high})
    if not single:
        low, high = _interval(defined_mean(drawn.astype(np.float64)))
        value, what, confusion = float(defined_mean(precisions)), "mean_average_precision", None
    else:
        truth, answers = labels.indices, said.argmax(axis=1)
        right, sizes = np.bincount(groups, truth == answers), np.bincount(groups)
        value, what = float(right.sum() / sizes.sum()), "accuracy"
        low, high = _interval((counts @ right) / (counts @ sizes))
        low, high = (0.025 ** (1 / units), 1.0) if value == 1 else (low, high)
        low, high = (0.0, 1 - 0.025 ** (1 / units)) if value == 0 else (low, high)
        table = np.zeros((len(labels.vocabulary),) * 2, dtype=int)
        np.add.at(table, (truth, answers), 1)
        confusion = table.tolist()
    told = {"measure": what, "value": value, "low": low, "high": high, "clips": len(said), "recordings": units}
    return nan_to_none(told | {"per_class": per_class, "confusion": confusion})


def learning_curve(task: Task, answers: Answers) -> list[dict[str, float]]:
    """Accuracy, or mean average precision, of heads of the first 1, 2, 4, ... clips of each class in training."""
    order = np.random.default_rng(0).permutation(len(task.labels))
    kinds = np.hstack([task.labels, ~task.labels.any(axis=1, keepdims=True)])
    ranks = np.full(kinds.shape, len(kinds))  # of a clip among those of its class
    curve, size, most = [], 1, int(task.labels.sum(axis=0).max() * (1 - 1 / (answers.folds.max() + 1)))
    while size < most:
        said = np.full(task.labels.shape, np.nan)
        for fold in range(answers.folds.max() + 1):
            left = order[answers.folds[order] != fold]
            ranks[left] = np.where(kinds[left], kinds[left].cumsum(axis=0), len(kinds))
            rows = left[(ranks[left] <= size).any(axis=1)]
            held = answers.folds == fold
            said[held] = task.head(rows, answers.strength).logits(task.features[held])
        curve.append({"clips_per_class": size, "value": _value(said[answers.asked], task.labels[answers.asked], task)})
        size *= 2
    return curve


def twice_as_many(curve: Sequence[Mapping[str, float]], value: float) -> float | None:
    """About what twice as many clips would give: the errors of the curve fall as a power of the clips of a class.

    Args:
        curve: of `learning_curve`. value: the score of all clips.

    Returns: None where the curve has fewer than two points.

    Example:
        >>> points = [{"clips_per_class": n, "value": 1 - 0.4 / n} for n in (1, 2, 4)]
        >>> round(twice_as_many(points, 0.95), 3)
        0.975
    """
    points = curve[-3:]
    if len(points) < 2:
        return None
    sizes = [point["clips_per_class"] for point in points]
    errors = [max(1 - point["value"], 1e-3) for point in points]
    power = min(float(np.polyfit(np.log(sizes), np.log(errors), 1)[0]), 0.0)
    return 1 - (1 - value) * 2**power


def thresholds(answers: Answers, labels: np.ndarray) -> np.ndarray:
    """(classes,) the threshold of the highest F1 in cross-validation, of 0.05, 0.1, ... 0.95; the middle of equals."""
    return best_f1(answers.probabilities[answers.asked], labels[answers.asked])


def best_f1(said: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(classes,) as `thresholds`, of these probabilities and labels, (clips, classes)."""
    grid = np.arange(1, _STEPS) / _STEPS
    named = said[None] >= grid[:, None, None]
    f1 = 2 * (named & true).sum(axis=1) / np.maximum(named.sum(axis=1) + true.sum(axis=0), 1)
    best = [np.flatnonzero(column == column.max()) for column in f1.T]
    return np.array([grid[places[len(places) // 2]] for places in best])


def _value(logits: np.ndarray, labels: np.ndarray, task: Task) -> float:
    if task.single:
        return float((logits.argmax(axis=1) == labels.argmax(axis=1)).mean())
    from psla.data.vocabulary import Vocabulary

    ids = [str(row) for row in range(len(labels))]
    known = Labels.from_matrix(ids, labels, Vocabulary([str(c) for c in range(labels.shape[1])]))
    return float(defined_mean(average_precisions(probabilities(logits, False), known)))


def _interval(values: np.ndarray) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    low, high = np.quantile(defined, [0.025, 0.975]) if len(defined) else (np.nan, np.nan)
    return float(low), float(high)
