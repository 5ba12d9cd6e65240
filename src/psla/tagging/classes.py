"""Classes as a kind of each other: a part of a vocabulary by subtree, and probabilities that agree with the ontology.

The ontology is AudioSet's; a vocabulary whose class ids are not in it is a list of classes that have no kin.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.tagging.result import TagResult


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
