"""L: label enhancement, which adds labels that annotators left out (paper, section V, Algorithm 2).

A teacher's predictions propose labels, the ontology limits them. For each original label of a clip the candidates are
    type I   its children in the vocabulary     (the clip has the parent's label but not the child's),
    type II  its ancestors in the vocabulary    (the clip has the child's label but not the parent's).
A candidate is added where the teacher's probability is greater than the class's threshold: the mean, the median or a
percentile of the teacher's probabilities over the clips that were labelled with the class from the start. One pass:
what is added proposes nothing further.

As in the released code a class whose only restriction is `abstract` ends the walk: it is no ancestor, nothing is
looked for above it, and as a label it proposes no children. Other classes outside the vocabulary are walked through
but never added. Not covered: the training of the teacher, and what the difference looks like (`enhancement_report.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.sparse import csr_array

from psla.data.labels import Labels
from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions

TYPES = ("I", "II")
_BITS = {"I": 1, "II": 2}  # of `Additions.types`
CLIPS_AT_A_TIME = 8192  # bounds the candidates that are in memory at once
Relation = Literal["all", "direct"]


class LabelingError(ValueError):
    """Labels, predictions or settings that cannot be used to enhance labels."""


@dataclass(frozen=True)
class Additions:
    """Added labels, one entry each, in the order of clips and then classes.

    rows: int64 rows of the clips in the labels. classes: int32 class indices. types: uint8, the sum of 1 (type I) and
    2 (type II); 3 where both propose the label. probabilities: float64, the teacher's.
    """

    rows: np.ndarray
    classes: np.ndarray
    types: np.ndarray
    probabilities: np.ndarray

    def take(self, chosen: np.ndarray) -> Additions:
        """These entries: a boolean mask or positions."""
        return Additions(self.rows[chosen], self.classes[chosen], self.types[chosen], self.probabilities[chosen])

    def of_type(self, kind: str) -> np.ndarray:
        """(additions,) bool: which of them type `I` or `II` proposes."""
        return (self.types & _BITS[kind]) > 0

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Enhancement:
    """What label enhancement did.

    Attributes:
        labels: the enhanced labels: those there were and those added, clips in the order of the original labels.
        added: the added labels only, of the same clips.
        thresholds: (classes,) float64; NaN for a class that no clip was labelled with.
        additions: the added labels one by one, with type and probability.
        original: the labels as they were.
        types, threshold, relation: the settings.
        classes_outside_ontology: ids of vocabulary classes that the ontology does not have; they propose nothing and
            are proposed by none.
    """

    labels: Labels
    added: Labels
    thresholds: np.ndarray
    additions: Additions
    original: Labels
    types: tuple[str, ...]
    threshold: str | float
    relation: Relation
    classes_outside_ontology: tuple[str, ...]

    @property
    def classes_without_threshold(self) -> list[str]:
        """Ids of the classes that no clip was labelled with: they have no threshold and get no label."""
        return [c.id for c in self.labels.vocabulary if np.isnan(self.thresholds[c.index])]

    def keep(self, chosen: np.ndarray) -> Enhancement:
        """The same enhancement with only these additions, a boolean mask over `additions`."""
        return _finish(self, self.additions.take(chosen))


def enhance(
    labels: Labels,
    predictions: Predictions,
    ontology: Ontology,
    types: Collection[str] = frozenset(TYPES),
    threshold: str | float = "mean",
    relation: Relation = "all",
    force: bool = False,
    progress: Callable[[int], None] = lambda clips: None,
) -> Enhancement:
    """Add the labels that a teacher is sure of and the ontology makes plausible (Algorithm 2).

    Args:
        labels: the original labels.
        predictions: the teacher's probabilities for the same clips and classes, joined by clip id; may be mapped from
            a file: they are read in blocks of rows.
        ontology: which class is a kind of which.
        types: `{"I"}` (children), `{"II"}` (ancestors) or both.
        threshold: `"mean"` (paper), `"median"`, or a percentile as a number, 0 .. 100 (linear interpolation), over the
            probabilities in float64 of the clips that carry the class.
        relation: for type II, `"all"` ancestors (released code) or `"direct"` parents only.
        force: enhance predictions of the split evaluation, too.
        progress: called with the number of clips done since the last call.

    Raises:
        LabelingError: other clips or classes on one side than on the other (counted both ways), an evaluation split
            without `force`, or a setting outside its range.

    Source: paper, section V; https://github.com/YuanGongND/psla/tree/main/src/label_enhancement

    Example:
        >>> vocabulary = Vocabulary(["animal", "dog"])
        >>> labels = Labels.from_sets(["a", "b", "c"], [["animal"], ["animal", "dog"], ["dog"]], vocabulary)
        >>> probabilities = np.array([[0.9, 0.8], [0.7, 0.6], [0.6, 0.6]], dtype=np.float32)
        >>> predictions = Predictions(probabilities, ["a", "b", "c"], vocabulary)
        >>> enhancement = enhance(labels, predictions, Ontology({"animal": [], "dog": ["animal"]}))
        >>> enhancement.thresholds.round(3).tolist(), enhancement.added.matrix().astype(int).tolist()
        ([0.8, 0.6], [[0, 1], [0, 0], [0, 0]])
    """
    chosen = _check_types(types)
    _check_threshold(threshold)
    if relation not in ("all", "direct"):
        raise LabelingError(f"relation must be 'all' or 'direct', not {relation!r}")
    if predictions.split == "evaluation" and not force:
        raise LabelingError(
            "these are predictions of the split evaluation, whose labels must stay as they are: scores on enhanced "
            "labels cannot be compared; force it if this is meant"
        )
    rows = _join(labels, predictions)
    thresholds = class_thresholds(labels, predictions, threshold, rows)
    # NaN would do, too, but warns on some processors: nothing is greater than infinity.
    limits = np.where(np.isnan(thresholds), np.inf, thresholds)
    parts = [tuple(np.zeros(0, kind) for kind in (np.int64, np.int32, np.uint8, np.float64))]
    for clips, clip, classes, bits in _candidates(labels, ontology, chosen, relation):
        at = clip if rows is None else rows[clip]
        probabilities = predictions.probabilities[at, classes].astype(np.float64)
        sure = probabilities > limits[classes]
        parts.append((clip[sure], classes[sure], bits[sure], probabilities[sure]))
        progress(clips)
    additions = Additions(*(np.concatenate(each, dtype=each[0].dtype) for each in zip(*parts, strict=True)))
    outside = tuple(id for id in labels.vocabulary.ids if id not in ontology)
    settings = Enhancement(labels, labels, thresholds, additions, labels, chosen, threshold, relation, outside)
    return _finish(settings, additions)


def class_thresholds(
    labels: Labels, predictions: Predictions, threshold: str | float = "mean", rows: np.ndarray | None = None
) -> np.ndarray:
    """(classes,) float64: mean, median or percentile of the probabilities of a class over the clips that carry it.

    NaN for a class that no clip carries. `rows` are the predictions' rows of the labels' clips, where they differ.
    """
    _check_threshold(threshold)
    clip = np.repeat(np.arange(len(labels)), np.diff(labels.offsets))
    values = predictions.probabilities[clip if rows is None else rows[clip], labels.indices].astype(np.float64)
    values = values[np.argsort(labels.indices, kind="stable")]  # class after class, clips in their order
    of_classes = np.split(values, np.cumsum(labels.counts()))[: len(labels.vocabulary)]
    return np.array([_threshold_of(each, threshold) for each in of_classes], dtype=np.float64)


def candidate_labels(
    labels: Labels, ontology: Ontology, types: Collection[str] = frozenset(TYPES), relation: Relation = "all"
) -> Labels:
    """What enhancement may add to these labels at most, whatever a teacher says.

    Example:
        >>> labels = Labels.from_sets(["a", "b"], [["animal"], ["dog"]], Vocabulary(["animal", "dog"]))
        >>> candidate_labels(labels, Ontology({"animal": [], "dog": ["animal"]}), {"I"}).matrix().astype(int).tolist()
        [[0, 1], [0, 0]]
    """
    found = [(clip, c) for _, clip, c, _ in _candidates(labels, ontology, _check_types(types), relation)]
    rows, classes = (np.concatenate(each) for each in zip((np.zeros(0, np.int64),) * 2, *found, strict=True))
    return _labels(labels, _sparse(labels, rows, classes))


def proposals(
    ontology: Ontology, vocabulary: Vocabulary, kind: str, relation: Relation = "all"
) -> tuple[tuple[int, ...], ...]:
    """For each class of the vocabulary the indices of the classes that its label proposes, by type `I` or `II`.

    Example:
        >>> graph = Ontology({"animal": [], "pet": ["animal"], "dog": ["pet"]})
        >>> proposals(graph, Vocabulary(["animal", "dog"]), "I"), proposals(graph, Vocabulary(["animal", "dog"]), "II")
        (((), ()), ((), (0,)))
    """
    found = []
    for c in vocabulary:
        near: Collection[str] = ()
        if c.id in ontology and kind == "I":
            near = () if ontology.is_abstract(c.id) else ontology.children(c.id)
        elif c.id in ontology:
            direct = [id for id in ontology.parents(c.id) if not ontology.is_abstract(id)]
            near = direct if relation == "direct" else ontology.concrete_ancestors(c.id)
        found.append(tuple(sorted({vocabulary.index_of(id) for id in near if id in vocabulary})))
    return tuple(found)


def _candidates(
    labels: Labels, ontology: Ontology, types: tuple[str, ...], relation: Relation
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Blocks of clips: how many, and of each candidate the clip, the class and the type bits, ascending."""
    classes = len(labels.vocabulary)
    tables = []
    for kind in types:
        proposed = proposals(ontology, labels.vocabulary, kind, relation)
        pairs = np.array([(own, c) for own, row in enumerate(proposed) for c in row], dtype=np.int64).reshape(-1, 2)
        tables.append((_BITS[kind], csr_array((np.ones(len(pairs), np.int32), pairs.T), shape=(classes, classes))))
    carried = _sparse(labels).astype(np.int32)
    for first in range(0, len(labels), CLIPS_AT_A_TIME):
        own = carried[first : first + CLIPS_AT_A_TIME]
        # What several labels of a clip propose counts once, and what the clip has already is no candidate.
        bits = sum(((own @ table).sign() * bit for bit, table in tables), start=csr_array(own.shape, dtype=np.int32))
        bits -= bits * own
        bits.eliminate_zeros()
        bits.sort_indices()
        found = bits.tocoo()
        yield own.shape[0], found.row.astype(np.int64) + first, found.col, found.data.astype(np.uint8)


def _sparse(labels: Labels, rows: np.ndarray | None = None, classes: np.ndarray | None = None) -> csr_array:
    """(clips, classes) bool: these labels, or in their shape the pairs of row and class, each given once."""
    shape = len(labels), len(labels.vocabulary)
    if rows is None or classes is None:
        return csr_array((np.ones(len(labels.indices), bool), labels.indices, labels.offsets), shape=shape)
    return csr_array((np.ones(len(rows), bool), (rows, classes)), shape=shape)


def _labels(like: Labels, matrix: csr_array) -> Labels:
    matrix.sort_indices()
    return Labels(like.clip_ids, matrix.indptr, matrix.indices, like.vocabulary)


def _finish(settings: Enhancement, additions: Additions) -> Enhancement:
    """The enhancement with the labels that these additions make."""
    original = settings.original
    added = _sparse(original, additions.rows, additions.classes)
    labels = _labels(original, _sparse(original) + added)
    return replace(settings, labels=labels, added=_labels(original, added), additions=additions)


def _threshold_of(values: np.ndarray, threshold: str | float) -> float:
    if not len(values):
        return float("nan")
    if threshold == "mean":
        return float(np.mean(values))
    return float(np.median(values) if threshold == "median" else np.percentile(values, float(threshold)))


def _join(labels: Labels, predictions: Predictions) -> np.ndarray | None:
    """The predictions' rows of the labels' clips; None where both list the same clips in the same order."""
    if labels.vocabulary != predictions.vocabulary:
        ours, theirs = set(labels.vocabulary.ids), set(predictions.vocabulary.ids)
        raise LabelingError(
            f"labels and predictions have different vocabularies: {len(ours)} and {len(theirs)} classes, "
            f"{len(ours & theirs)} in common{', in another order' if ours == theirs else ''}"
        )
    if labels.clip_ids == predictions.clip_ids:
        return None
    here, there = set(labels.clip_ids), set(predictions.clip_ids)
    if here != there:
        raise LabelingError(
            f"labels and predictions are of different clips: {len(here & there)} in common, {len(here - there)} have "
            f"labels and no predictions{_first(here - there)}, {len(there - here)} have predictions and no "
            f"labels{_first(there - here)}; predict exactly the clips that are to be enhanced"
        )
    return predictions.rows_of(labels.clip_ids)


def _first(ids: set[str]) -> str:
    return f" (the first: {min(ids)!r})" if ids else ""


def _check_types(types: Collection[str]) -> tuple[str, ...]:
    # A string is a collection of its letters: "II" would pass for {"I"}.
    if isinstance(types, str) or not types or set(types) - set(TYPES):
        raise LabelingError(f"types must be a set of 'I' and 'II', not {types!r}")
    return tuple(kind for kind in TYPES if kind in types)


def _check_threshold(threshold: str | float) -> None:
    if threshold in ("mean", "median"):
        return
    number = isinstance(threshold, int | float | np.number) and not isinstance(threshold, bool)
    if not number or not 0 <= float(threshold) <= 100:
        raise LabelingError(f"threshold must be 'mean', 'median' or a percentile from 0 to 100, not {threshold!r}")
