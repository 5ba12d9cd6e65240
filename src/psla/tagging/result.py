"""What a tagger says of one recording: probabilities of the clip and of its steps, flags, and embeddings if asked.

Also parts of it by subtree of AudioSet's ontology, and probabilities that agree with that: a vocabulary whose class ids
are not in the ontology is a list of classes that have no kin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from psla.data.ontology import Ontology
from psla.data.vocabulary import SoundClass, Vocabulary, VocabularyError


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the backbone hears: its last features, averaged over frequency, before the pooling gives them classes.

    Attributes:
        clip: (channels,) float32, the mean over the steps inside the audio and over the windows, each window weighted
            by the samples it holds. 1280 channels for EfficientNet-B0 and Lite0, 1408 for B2, 2048 for ResNet-50.
        steps: (steps, channels) float32, on the time axis of `TagResult.times`.
    """

    clip: np.ndarray
    steps: np.ndarray


@dataclass(frozen=True, eq=False)
class TagResult:
    """What a tagger says of one recording.

    Attributes:
        vocabulary: the classes, in the order of the columns.
        clip_probabilities: (classes,) float32 in [0, 1], for the whole recording.
        frames: (steps, classes) float32 in [0, 1]; the steps whose middle lies inside the audio, at least one.
        times: (steps, 2) float64, beginning and end of each step in seconds; none ends after the audio does.
        duration_s: length of the audio in seconds.
        windows: how many windows it was cut into.
        flags: what makes the result doubtful, of `silent`, `band-limited`, `short` and `unfamiliar`; see
            `psla.tagging.recording`.
        embedding: only where it was asked for.

    Example:
        >>> result = TagResult(Vocabulary(["dog", "rain"]), np.float32([0.25, 0.5]), np.float32([[0.25, 0.5]]),
        ...                    np.array([[0.0, 0.3]]), duration_s=0.3, windows=1)
        >>> [(c.name, probability) for c, probability in result.top(1)]
        [('rain', 0.5)]
    """

    vocabulary: Vocabulary
    clip_probabilities: np.ndarray
    frames: np.ndarray
    times: np.ndarray
    duration_s: float
    windows: int
    flags: tuple[str, ...] = ()
    embedding: Embedding | None = None

    def top(self, n: int) -> list[tuple[SoundClass, float]]:
        """The n most probable classes, the most probable first; equal ones in the order of the vocabulary."""
        order = np.argsort(-self.clip_probabilities, kind="stable")[: max(0, n)]
        return [(self.vocabulary[int(i)], float(self.clip_probabilities[i])) for i in order]

    def part(self, ids: Sequence[str]) -> TagResult:
        """The result for these classes only, in this order.

        Raises:
            VocabularyError: a class that the vocabulary does not have, or one given twice.
        """
        columns = [self.vocabulary.index_of(id) for id in ids]
        clip, frames = self.clip_probabilities[columns], self.frames[:, columns]
        return replace(self, vocabulary=self.vocabulary.part(ids), clip_probabilities=clip, frames=frames)

    def to_dict(self, top: int, threshold: float = 0.0) -> dict[str, Any]:
        """Plain data for JSON: duration_s, windows, flags and the `top` most probable classes; no frames.

        Args:
            threshold: classes of a lower probability are left out.
        """
        classes = [
            {"id": c.id, "name": c.name, "probability": probability}
            for c, probability in self.top(top)
            if probability >= threshold
        ]
        return {
            "duration_s": self.duration_s,
            "windows": self.windows,
            "flags": list(self.flags),
            "classes": classes,
        }


def choose_classes(wanted: Iterable[str], vocabulary: Vocabulary, ontology: Ontology) -> list[str]:
    """Ids of the classes meant by names or ids: each with all that is a kind of it. In the vocabulary's order.

    A name may be that of a class which the vocabulary does not have, but kinds of which it has ("Human voice").

    Raises:
        VocabularyError: a name that neither the vocabulary nor the ontology knows, that several classes share, or
            nothing of which is in the vocabulary.

    Example:
        >>> vocabulary = Vocabulary.audioset()
        >>> [vocabulary[id].name for id in choose_classes(["rain"], vocabulary, Ontology.audioset())]
        ['Rain', 'Raindrop', 'Rain on surface']
    """
    chosen: set[str] = set()
    for text in wanted:
        id = _find(text, vocabulary, ontology)
        kinds = {id, *(ontology.descendants(id) if id in ontology else ())} & set(vocabulary.ids)
        if not kinds:
            raise VocabularyError(f"{text!r}: neither this class nor any kind of it is among the model's classes")
        chosen |= kinds
    return [id for id in vocabulary.ids if id in chosen]


def _find(text: str, vocabulary: Vocabulary, ontology: Ontology) -> str:
    try:
        return vocabulary.find(text).id
    except VocabularyError:
        if text in ontology:
            return text
        named = [id for id in ontology.ids if ontology.name(id).casefold() == text.casefold()]
        # A vocabulary of other ids has no use for the ontology's names: its own hint is the better one.
        if len(named) != 1 or not any(id in ontology for id in vocabulary.ids):
            raise
        return named[0]


def roll_up(result: TagResult, ontology: Ontology) -> TagResult:
    """The result with every class at least as probable as each kind of it, in the clip and in every step.

    Raises:
        VocabularyError: no class of the vocabulary is in the ontology.

    Example:
        >>> import numpy as np
        >>> family = Ontology({"animal": [], "dog": ["animal"]})
        >>> frames, times = np.float32([[0.1, 0.7]]), np.array([[0.0, 0.3]])
        >>> result = TagResult(Vocabulary(["animal", "dog"]), frames[0], frames, times, duration_s=0.3, windows=1)
        >>> roll_up(result, family).clip_probabilities
        array([0.7, 0.7], dtype=float32)
    """
    rolled = []
    kin = kinds_of(result.vocabulary, ontology)
    for table in (result.clip_probabilities, result.frames):
        copy = table.copy()
        for index, kinds in kin.items():
            copy[..., index] = table[..., [index, *kinds]].max(axis=-1)
        rolled.append(copy)
    return replace(result, clip_probabilities=rolled[0], frames=rolled[1])


def kinds_of(vocabulary: Vocabulary, ontology: Ontology) -> dict[int, list[int]]:
    """For each class that has kinds in the vocabulary their indices, at any depth.

    Raises:
        VocabularyError: no class of the vocabulary is in the ontology.
    """
    known = [c for c in vocabulary if c.id in ontology]
    if not known:
        raise VocabularyError("none of the model's classes is in AudioSet's ontology: there is nothing to roll up")
    below = {c.index: ontology.descendants(c.id) for c in known}
    kin = {index: sorted(vocabulary.index_of(id) for id in ids if id in vocabulary) for index, ids in below.items()}
    return {index: kinds for index, kinds in kin.items() if kinds}
