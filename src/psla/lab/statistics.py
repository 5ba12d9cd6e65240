"""What a table of clips is made of: class counts, imbalance, label errors, coverage; as `psla stats` shows it.

Paper: Figure 4 (sample count of each class), section IV-A and Figure 5 (balanced sampling, unseen clips), section V
(labels that were left out). All of it follows from the labels; the log-mel's moments, which need the sound, are in
`moments.py`. Not covered: the difference that label enhancement makes (`psla.report.enhancement`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psla.data.labels import Labels
from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary
from psla.files import write_json_atomic
from psla.techniques.sampling import clip_weights, expected_unseen, simulated_unseen


class StatisticsError(ValueError):
    """What cannot be counted; the sentence says why."""


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs.

    clips: that carry it. drawn: how often an epoch of balanced sampling reads such a clip, in expectation; a traversal,
    which reads every clip once, does so `clips` times.
    """

    id: str
    name: str
    clips: int
    drawn: float

    def heard(self, mixup_rate: float) -> float:
        """How often an epoch has such a clip, read or mixed in: the second of a pair is drawn uniformly."""
        return self.drawn + mixup_rate * self.clips


@dataclass(frozen=True)
class Counts:
    """The labels of a list of clips, counted.

    Attributes:
        clips, labels: how many. unlabelled: clips without a label.
        labels_per_clip: how many clips have 0, 1, 2, ... labels.
        classes: one a class, in the order of the vocabulary.
        smoothing: of the clip weights that `drawn` follows from.
    """

    clips: int
    labels: int
    unlabelled: int
    labels_per_clip: tuple[int, ...]
    classes: tuple[ClassCount, ...]
    smoothing: float

    @property
    def ranked(self) -> list[ClassCount]:
        """The classes that occur, most frequent first."""
        return sorted((each for each in self.classes if each.clips), key=lambda each: -each.clips)

    @property
    def absent(self) -> list[ClassCount]:
        """The classes that no clip carries."""
        return [each for each in self.classes if not each.clips]

    @property
    def imbalance(self) -> float:
        """Clips of the most frequent class by clips of the rarest that occurs."""
        return self.ranked[0].clips / self.ranked[-1].clips

    def imbalance_drawn(self, mixup_rate: float = 0.0) -> float:
        """The same under balanced sampling and mixup: of how often a class is heard an epoch, greatest by smallest."""
        heard = [each.heard(mixup_rate) for each in self.ranked]
        return max(heard) / min(heard)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "clips": self.clips,
            "labels": self.labels,
            "labels_per_clip_mean": self.labels / self.clips,
            "labels_per_clip": list(self.labels_per_clip),
            "unlabelled_clips": self.unlabelled,
            "smoothing": self.smoothing,
            "imbalance": self.imbalance,
            "imbalance_drawn": self.imbalance_drawn(),
            "absent_classes": [each.id for each in self.absent],
            "classes": [asdict(each) for each in self.classes],
        }


def count(labels: Labels, smoothing: float = 0.0) -> Counts:
    """Count the labels of a list of clips.

    Args:
        labels: of at least one clip, with at least one label.
        smoothing: of the clip weights, >= 0.

    Raises:
        StatisticsError: no clips, or no labels.
        ValueError: a negative smoothing.

    Example:
        >>> labels = Labels.from_sets(["a", "b", "c"], [[0], [0, 1], [0]], Vocabulary(["dog", "rain"]))
        >>> counts = count(labels)
        >>> counts.imbalance, counts.labels_per_clip, [round(each.drawn, 3) for each in counts.classes]
        (3.0, (0, 2, 1), [3.0, 2.0])
    """
    if not len(labels.indices):
        raise StatisticsError(f"there is nothing to count: {len(labels)} clips without one label")
    lengths = np.diff(labels.offsets)
    weights = clip_weights(labels, smoothing)
    # An epoch has as many draws as clips.
    draws = np.repeat(weights * (len(labels) / weights.sum()), lengths)
    drawn = np.bincount(labels.indices, weights=draws, minlength=len(labels.vocabulary))
    per_class = labels.counts()
    return Counts(
        clips=len(labels),
        labels=len(labels.indices),
        unlabelled=int((lengths == 0).sum()),
        labels_per_clip=tuple(np.bincount(lengths).tolist()),
        classes=tuple(
            ClassCount(c.id, c.name, int(per_class[c.index]), float(drawn[c.index])) for c in labels.vocabulary
        ),
        smoothing=smoothing,
    )


@dataclass(frozen=True)
class ChildCount:
    """A child of an audited class: clips that carry it, and those of them that lack the parent."""

    id: str
    name: str
    clips: int
    without_parent: int


@dataclass(frozen=True)
class Audit:
    """Labels of a class against those of its children (section V).

    Attributes:
        id, name, clips: the parent, and how many clips carry it. children: a clip with two of them counts in both.
        parent_without_child: clips that carry the parent and no child: where type I errors hide. Not each is one: what
            sounds may be of none of the children.
        child_without_parent: clips that carry a child and not the parent: type II errors, each of them.
    """

    id: str
    name: str
    clips: int
    children: tuple[ChildCount, ...]
    parent_without_child: int
    child_without_parent: int


def child_classes(ontology: Ontology, vocabulary: Vocabulary, parent: str) -> list[str]:
    """The nearest classes below a class that the vocabulary has, in its order.

    A class outside the vocabulary is passed through: "Happy music" counts as a child of "Music", as in the paper,
    although the graph has "Music mood" between them.

    Raises:
        OntologyError: the graph does not have the class.

    Example:
        >>> graph = Ontology({"music": [], "mood": ["music"], "happy": ["mood"], "jolly": ["happy"]})
        >>> child_classes(graph, Vocabulary(["happy", "music", "jolly"]), "music")
        ['happy']
    """
    found: set[str] = set()
    passed: set[str] = set()
    ahead = list(ontology.children(parent))
    while ahead:
        step = ahead.pop()
        if step in vocabulary:
            found.add(step)
        elif step not in passed:
            passed.add(step)
            ahead.extend(ontology.children(step))
    return sorted(found, key=vocabulary.index_of)


def audit(labels: Labels, ontology: Ontology, parent: str, children: Sequence[str] | None = None) -> Audit:
    """Count the clips that carry a class without any of its children, and a child without the class.

    Args:
        parent: a class id of the vocabulary.
        children: ids of the children to look at, classes below the parent in the graph; None: `child_classes`.

    Raises:
        VocabularyError: a class that the vocabulary does not have.
        OntologyError: a class that the graph does not have.
        StatisticsError: the parent has no child in the vocabulary, or a class is not below it.

    Example:
        >>> graph = Ontology({"speech": [], "male": ["speech"], "female": ["speech"]})
        >>> sets = [["speech"], ["speech", "male"], ["male"], []]
        >>> labels = Labels.from_sets(list("abcd"), sets, Vocabulary(["speech", "male", "female"]))
        >>> found = audit(labels, graph, "speech")
        >>> found.clips, found.parent_without_child, found.child_without_parent
        (2, 1, 1)
    """
    vocabulary = labels.vocabulary
    name = vocabulary[parent].name
    known = child_classes(ontology, vocabulary, parent)
    if not known:
        raise StatisticsError(f"{name!r} ({parent}) has no child in this vocabulary: there is nothing to audit")
    below = ontology.descendants(parent)
    for child in children or ():
        if vocabulary[child].id not in below:
            raise StatisticsError(f"{vocabulary[child].name!r} ({child}) is not below {name!r} ({parent}) in the graph")
    has_parent, has_child = np.zeros((2, len(labels)), dtype=bool)
    has_parent[labels.rows_with(parent)] = True
    counted = []
    for child in dict.fromkeys(known if children is None else children):
        rows = labels.rows_with(child)
        has_child[rows] = True
        lacking = len(rows) - int(has_parent[rows].sum())
        counted.append(ChildCount(child, vocabulary[child].name, len(rows), lacking))
    both = int((has_parent & has_child).sum())
    clips = int(has_parent.sum())
    return Audit(parent, name, clips, tuple(counted), clips - both, int(has_child.sum()) - both)


def audit_all(labels: Labels, ontology: Ontology) -> list[Audit]:
    """The audit of every class of the vocabulary that has children in it, most type II errors first."""
    parents = [id for id in labels.vocabulary.ids if id in ontology and child_classes(ontology, labels.vocabulary, id)]
    return sorted((audit(labels, ontology, id) for id in parents), key=lambda each: -each.child_without_parent)


@dataclass(frozen=True)
class Coverage:
    """The share of clips not heard after 1, 2, ... epochs of balanced sampling, for one mixup rate (Figure 5).

    expected: from the weights; simulated: counted in the plans of a run with this seed, None if not asked for.
    """

    mixup_rate: float
    expected: tuple[float, ...]
    simulated: tuple[float, ...] | None
    seed: int


def coverage(
    labels: Labels,
    epochs: int,
    mixup_rates: Sequence[float],
    smoothing: float = 0.0,
    seed: int = 0,
    simulate: bool = True,
    progress: Callable[[int], None] = lambda epochs: None,
) -> list[Coverage]:
    """The coverage curve at each mixup rate; arguments as in `psla.techniques.sampling`.

    Raises:
        ValueError: an argument out of range, or clips without one label.
    """
    weights = clip_weights(labels, smoothing)
    expected = expected_unseen(weights, epochs, mixup_rates)
    counted = simulated_unseen(weights, epochs, mixup_rates, seed, progress) if simulate else {}
    return [
        Coverage(rate, tuple(curve.tolist()), tuple(counted[rate].tolist()) if simulate else None, seed)
        for rate, curve in expected.items()
    ]


def write_statistics(
    folder: Path, data: Mapping[str, Any], counts: Counts, curves: Sequence[Coverage], title: str
) -> list[Path]:
    """Write data to stats.json, and the counts and curves as pictures beside it; returns the paths."""
    from psla.report import figures  # matplotlib, which counting does not need

    paths = [folder / "stats.json", folder / "class_counts.png", folder / "coverage.png"]
    write_json_atomic(paths[0], data)
    clips, drawn, names = zip(*((each.clips, each.drawn, each.name) for each in counts.classes), strict=True)
    figures.class_counts(clips, drawn, names, paths[1], title)
    named = {f"mixup rate {each.mixup_rate:g}": each for each in curves}
    simulated = {name: each.simulated for name, each in named.items() if each.simulated is not None}
    figures.unseen({name: each.expected for name, each in named.items()}, simulated, paths[2])
    return paths
