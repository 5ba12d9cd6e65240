"""How good predictions are: average precision, area under the ROC curve and d-prime, per class and mean.

Source: PSLA, section II-B (mean average precision, the main metric) and section VII (AUC and d-prime, Table XI).
Average precision is scikit-learn's step-wise sum; clips with equal probability form one threshold. AUC counts a tie of
a positive and a negative clip as one half (midranks).

Both come from one sort of the class's column. For a positive clip with probability s let
    n(s) = clips with probability >= s,   t(s) = positive clips with probability >= s.
The recall rises by 1/P at each positive clip, at the precision of its threshold, so
    AP  = 1/P * sum over positive clips of t(s) / n(s)
    AUC = 1/(P N) * sum over positive clips of (negatives below s + 1/2 negatives at s).
Only the positive clips are looked up in the sorted column, and few clips are positive for a class: no label is sorted,
and the result does not depend on the order of the clips, not even in the last bit.

Not here: confidence intervals (`compare.py`), thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from statistics import NormalDist, fmean
from typing import Any

import numpy as np

from psla.data.labels import Labels
from psla.metrics.predictions import Predictions, unlike

COLUMNS_AT_A_TIME = 32  # bounds the memory of the transposed float32 copy
SQRT_2 = math.sqrt(2)


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class.

    `positives` counts the clips that carry the class. `average_precision` and `auc` lie in [0, 1]. NaN where
    undefined: all three without positives, `auc` and `d_prime` without negatives. `d_prime` is finite, see `score`.
    """

    id: str
    name: str
    positives: int
    average_precision: float
    auc: float
    d_prime: float


@dataclass(frozen=True)
class Scores:
    """The scores of predictions against labels; made by `score`.

    Attributes:
        mean_average_precision: mean over the classes with positives, in [0, 1].
        mean_auc: mean over the classes with positives and negatives, in [0, 1].
        d_prime: d-prime of `mean_auc`, as in the code released with the paper.
        mean_d_prime: mean of the classes' d-primes.
        accuracy: share of clips whose most probable class is the label, in [0, 1]; None unless each clip has exactly
            one label.
        clips: number of clips.
        classes_scored: number of classes with positives.
        classes_without_positives: ids of the classes that no clip carries; they are in no mean.
        clip_ids_hash: which clips were scored (`Predictions.hash_of_ids`).
        per_class: one `ClassScore` a class, in the order of the vocabulary.
    """

    mean_average_precision: float
    mean_auc: float
    d_prime: float
    mean_d_prime: float
    accuracy: float | None
    clips: int
    classes_scored: int
    classes_without_positives: list[str]
    clip_ids_hash: str
    per_class: list[ClassScore]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: NaN becomes None."""
        return nan_to_none(asdict(self))

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Scores:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a key too many or too few.
        """
        per_class = [ClassScore(**_stated(each, ClassScore)) for each in _stated(data, Scores)["per_class"]]
        return Scores(**{**_stated(data, Scores), "per_class": per_class})


def score(predictions: Predictions, labels: Labels) -> Scores:
    """Score predictions against labels, joined by clip id; the labels may cover more clips than the predictions.

    A class without positives is NaN, left out of the means, counted and named; a class that every clip carries has an
    average precision but no AUC. An AUC of exactly 0 or 1 would make d-prime infinite, which says only that the test
    is too small to see an error, so d-prime takes the AUC of a class clipped to [m, 1 - m] with m = 0.5 / (P N), half
    of one wrongly ordered pair of its P positive and N negative clips. The mean AUC is clipped likewise for `d_prime`,
    with the mean of the m. The AUCs themselves are not clipped.

    Accuracy takes the first of equally probable classes.

    Source: PSLA, sections II-B and VII.

    Raises:
        ValueError: no clips, or labels in another vocabulary.
        KeyError: clips without labels, counted, the first named.

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary(["dog", "rain", "siren"])
        >>> labels = Labels.from_sets(["a", "b", "c"], [["dog"], ["rain"], ["dog"]], vocabulary)
        >>> probabilities = np.array([[0.9, 0.2, 0.1], [0.5, 0.7, 0.1], [0.4, 0.3, 0.1]], dtype=np.float32)
        >>> scores = score(Predictions(probabilities, ["a", "b", "c"], vocabulary), labels)
        >>> [round(each.average_precision, 3) for each in scores.per_class], scores.classes_without_positives
        ([0.833, 1.0, nan], ['siren'])
        >>> round(scores.mean_average_precision, 3), scores.mean_auc, round(scores.accuracy, 3)
        (0.917, 0.75, 1.0)
    """
    vocabulary = predictions.vocabulary
    if labels.vocabulary != vocabulary:
        raise ValueError(f"predictions and labels have {unlike(vocabulary, labels.vocabulary)}")
    if len(predictions) == 0:
        raise ValueError("scores need at least one clip; these predictions have none")
    labels = labels.select(predictions.clip_ids)
    ap, auc, positives = _average_precision_and_auc(predictions.probabilities, labels)
    pairs = [count * (len(labels) - count) for count in positives]
    margins = [0.5 / each if each else math.nan for each in pairs]
    d_primes = [d_prime(area, margin) for area, margin in zip(auc, margins, strict=True)]
    mean_auc = _mean(auc)
    return Scores(
        mean_average_precision=_mean(ap),
        mean_auc=mean_auc,
        d_prime=d_prime(mean_auc, _mean(margins)),
        mean_d_prime=_mean(d_primes),
        accuracy=_accuracy(predictions.probabilities, labels),
        clips=len(labels),
        classes_scored=sum(count > 0 for count in positives),
        classes_without_positives=[c.id for c in vocabulary if positives[c.index] == 0],
        clip_ids_hash=predictions.hash_of_ids,
        per_class=[
            ClassScore(c.id, c.name, positives[c.index], ap[c.index], auc[c.index], d_primes[c.index])
            for c in vocabulary
        ],
    )


def average_precisions(probabilities: np.ndarray, labels: Labels) -> np.ndarray:
    """(classes,) float64: average precision of each class, NaN without positives; no AUC, no names.

    Args:
        probabilities: (clips, classes), the rows in the order of the labels' clips.
        labels: of exactly these clips.

    Raises:
        ValueError: another shape than the labels'.

    Example:
        >>> from psla.data.vocabulary import Vocabulary
        >>> labels = Labels.from_sets(["a", "b"], [["dog"], []], Vocabulary(["dog", "rain"]))
        >>> average_precisions(np.array([[0.2, 0.1], [0.7, 0.1]], dtype=np.float32), labels).tolist()
        [0.5, nan]
    """
    if probabilities.shape != (len(labels), len(labels.vocabulary)):
        raise ValueError(
            f"probabilities {probabilities.shape} do not fit labels of {len(labels)} clips and "
            f"{len(labels.vocabulary)} classes"
        )
    return np.array(_average_precision_and_auc(probabilities, labels)[0])


def d_prime(auc: float, margin: float = 0.0) -> float:
    """d-prime = sqrt(2) times the quantile of the standard normal distribution at the AUC (PSLA, Table XI).

    How many standard deviations two normal distributions of equal width lie apart, if a draw from the one exceeds a
    draw from the other with probability `auc`.

    Args:
        auc: in [0, 1]; NaN gives NaN.
        margin: in [0, 0.5]; the AUC is first clipped to [margin, 1 - margin].

    Raises:
        ValueError: an AUC or a margin outside its range.

    Example:
        >>> d_prime(0.5), round(d_prime(0.975), 3), d_prime(1.0)
        (0.0, 2.772, inf)
    """
    if math.isnan(auc):
        return math.nan
    if not (0 <= auc <= 1 and 0 <= margin <= 0.5):
        raise ValueError(f"d-prime needs an AUC in [0, 1] and a margin in [0, 0.5]; got {auc} and {margin}")
    auc = min(max(auc, margin), 1 - margin)
    if auc in (0, 1):
        return math.inf if auc else -math.inf
    return SQRT_2 * NormalDist().inv_cdf(auc)


def _average_precision_and_auc(probabilities: np.ndarray, labels: Labels) -> tuple[list[float], list[float], list[int]]:
    """Average precision, AUC and number of positives of each class; the algebra is in the module's head."""
    clips, classes = probabilities.shape
    ap, auc = [math.nan] * classes, [math.nan] * classes
    for first in range(0, classes, COLUMNS_AT_A_TIME):
        # Always a copy, (classes of the block, clips): its rows are sorted in place below.
        block = np.array(probabilities[:, first : first + COLUMNS_AT_A_TIME].T, dtype=np.float32, order="C")
        for c, column in enumerate(block, start=first):  # (clips,)
            hits = np.sort(column[labels.rows_with(labels.vocabulary.ids[c])])  # (positives,)
            if len(hits) == 0:
                continue
            column.sort()
            below, up_to = np.searchsorted(column, hits, "left"), np.searchsorted(column, hits, "right")
            hits_below, hits_up_to = np.searchsorted(hits, hits, "left"), np.searchsorted(hits, hits, "right")
            ap[c] = float(np.mean((len(hits) - hits_below) / (clips - below)))
            if len(hits) < clips:
                # (negatives below + negatives below or at s) = twice the midrank count; whole numbers, hence exact.
                twice = int(np.sum(below + up_to - hits_below - hits_up_to))
                auc[c] = twice / (2 * len(hits) * (clips - len(hits)))
    return ap, auc, labels.counts().tolist()


def _accuracy(probabilities: np.ndarray, labels: Labels) -> float | None:
    if np.any(np.diff(labels.offsets) != 1):
        return None
    return float(np.mean(probabilities.argmax(axis=1) == labels.indices))


def _mean(values: Iterable[float]) -> float:
    defined = [each for each in values if not math.isnan(each)]
    return fmean(defined) if defined else math.nan


def nan_to_none(data: Any) -> Any:
    """Plain data in which NaN, however deep, is None: JSON has no NaN.

    Example:
        >>> nan_to_none({"a": [{"b": math.nan}, 1.5]})
        {'a': [{'b': None}, 1.5]}
    """
    if isinstance(data, dict):
        return {key: nan_to_none(each) for key, each in data.items()}
    if isinstance(data, list):
        return [nan_to_none(each) for each in data]
    return None if isinstance(data, float) and math.isnan(data) else data


def _stated(data: dict[str, Any], kind: type) -> dict[str, Any]:
    """What is stored of a dataclass, its NaN back in their places; refused if the keys are not those of its fields."""
    types = {each.name: each.type for each in fields(kind)}
    if not isinstance(data, dict) or set(data) != set(types):
        wrong = sorted(set(data) ^ set(types)) if isinstance(data, dict) else [type(data).__name__]
        raise ValueError(f"stored {kind.__name__} must have exactly the keys of its fields; wrong: {', '.join(wrong)}")
    # Not where the type is `float | None`: there None is a value.
    return {key: math.nan if each is None and types[key] == "float" else each for key, each in data.items()}
