"""What a tagger says of one recording: probabilities of the clip and of its steps, flags, and embeddings if asked.

Also parts of it by subtree of AudioSet's ontology, probabilities that agree with that, and the deepest classes of it: a
vocabulary whose class ids are not in the ontology is a list of classes that have no kin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from psla.data.ontology import Ontology
from psla.data.vocabulary import SoundClass, Vocabulary, VocabularyError

STANDS_FOR = 0.5
"""A class stands for one above it from this share of its probability on; see `TagResult.top`."""
THRESHOLD = 0.5
"""Of a class for which the model has no threshold of its own."""


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
        clip_probabilities: (classes,) float32 in [0, 1], for the whole recording; NaN where all of it was dropped.
        frames: (steps, classes) float32 in [0, 1]; the steps whose middle lies inside the audio, at least one, but for
            those that were dropped.
        times: (steps, 2) float64, beginning and end of each step in seconds; none ends after the audio does.
        duration_s: length of the audio in seconds.
        windows: how many windows it was cut into.
        flags: what makes the result doubtful, of `silent`, `cancelled`, `band-limited`, `short`, `unfinished`
            and `unfamiliar`; see `psla.tagging.recording`.
        embedding: only where it was asked for.
        dropped_s: seconds of the steps that `psla.tagging.privacy.drop_speech` took out; None where it was not asked.
        unfamiliar: (steps,) bool, the steps of windows that are like none of the classes; None: the model cannot tell.
        own: ids of the classes that this, and the flag, speaks of: all, but where others were kept beside them.

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
    dropped_s: float | None = None
    unfamiliar: np.ndarray | None = None
    own: tuple[str, ...] = ()

    def top(
        self, n: int, threshold: float | Mapping[str, float] = 0.0, deepest: bool = False
    ) -> list[tuple[SoundClass, float]]:
        """The n most probable classes, the most probable first; equal ones in the order of the vocabulary.

        Args:
            threshold: classes of a lower probability are left out, before n of the others are taken. By class id, as
                `Tagger.thresholds`: of each class its own, of one that is not there 0.5.
            deepest: then a class is left out, too, that has a kind at any depth which is not left out itself and is at
                least half as probable (`STANDS_FOR`). The most probable such kind takes its place among the n, so that
                each of the n most probable classes is there, or a kind of it.

        Example:
            >>> classes = Vocabulary.audioset().part(["/m/0jbk", "/m/0bt9lr", "/m/06mb1"])
            >>> clip, times = np.float32([0.75, 0.5, 0.625]), np.array([[0.0, 0.3]])
            >>> result = TagResult(classes, clip, clip[None], times, duration_s=0.3, windows=1)
            >>> [[c.name for c, _ in result.top(2, deepest=each)] for each in (False, True)]
            [['Animal', 'Rain'], ['Rain', 'Dog']]
        """
        probability = self.clip_probabilities.tolist()
        # NaN, of a recording that was dropped, reaches no threshold.
        least = threshold if isinstance(threshold, Mapping) else dict.fromkeys(self.vocabulary.ids, threshold)
        levels = [least.get(id, THRESHOLD) for id in self.vocabulary.ids]
        places = {i: each for i, (each, level) in enumerate(zip(probability, levels, strict=True)) if each >= level}
        if deepest:
            places = _deepest(places, _kin(self.vocabulary))
        taken = sorted(places, key=lambda i: (-places[i], i))[: max(0, n)]
        return [(self.vocabulary[i], probability[i]) for i in sorted(taken, key=lambda i: (-probability[i], i))]

    def familiar_frames(self) -> np.ndarray:
        """The frames with 0 in place of what is said of its own classes in steps that are like none of them."""
        if self.unfamiliar is None:
            return self.frames
        own = frozenset(self.own)
        return muted(self.frames, self.unfamiliar, [c.index for c in self.vocabulary if c.id in own])

    def part(self, ids: Sequence[str]) -> TagResult:
        """The result for these classes only, in this order.

        Raises:
            VocabularyError: a class that the vocabulary does not have, or one given twice.
        """
        columns = [self.vocabulary.index_of(id) for id in ids]
        clip, frames = self.clip_probabilities[columns], self.frames[:, columns]
        return replace(self, vocabulary=self.vocabulary.part(ids), clip_probabilities=clip, frames=frames)

    def only(self, *classes: str) -> TagResult:
        """The result for these classes, by name or id, and all kinds of them; as `choose_classes`, errors too."""
        return self.part(choose_classes(classes, self.vocabulary))

    def without(self, *classes: str) -> TagResult:
        """The result without these classes, by name or id, and all kinds of them; as `choose_classes`, errors too."""
        gone = set(choose_classes(classes, self.vocabulary))
        return self.part([id for id in self.vocabulary.ids if id not in gone])

    def to_dict(self, top: int, threshold: float | Mapping[str, float] = 0.0, deepest: bool = False) -> dict[str, Any]:
        """Plain data for JSON: duration_s, windows, flags and the classes that `top` gives; no frames.

        And `speech_dropped_s`, where speech was to be dropped.
        """
        classes = [
            {"id": c.id, "name": c.name, "probability": probability}
            for c, probability in self.top(top, threshold, deepest)
        ]
        return {
            "duration_s": self.duration_s,
            "windows": self.windows,
            "flags": list(self.flags),
            **({} if self.dropped_s is None else {"speech_dropped_s": self.dropped_s}),
            "classes": classes,
        }


def muted(frames: np.ndarray, unfamiliar: np.ndarray, own: Sequence[int]) -> np.ndarray:
    """Frames (steps, classes) with 0 in these columns where a step (steps,) is unfamiliar."""
    if not unfamiliar.any():
        return frames
    frames = frames.copy()
    frames[np.ix_(unfamiliar, np.asarray(own, int))] = 0.0
    return frames


def choose_classes(wanted: Iterable[str], vocabulary: Vocabulary) -> list[str]:
    """Ids of the classes meant by names or ids: each with all that is a kind of it. In the vocabulary's order.

    A name may be one of AudioSet's that the vocabulary does not have, but kinds of which it has ("Human voice").

    Raises:
        VocabularyError: a name that neither the vocabulary nor the ontology knows, that several classes share, or
            nothing of which is in the vocabulary.

    Example:
        >>> vocabulary = Vocabulary.audioset()
        >>> [vocabulary[id].name for id in choose_classes(["rain"], vocabulary)]
        ['Rain', 'Raindrop', 'Rain on surface']
    """
    chosen: set[str] = set()
    ontology = Ontology.audioset()
    for text in wanted:
        id = _find(text, vocabulary)
        kinds = {id, *(ontology.descendants(id) if id in ontology else ())} & set(vocabulary.ids)
        if not kinds:
            raise VocabularyError(f"{text!r}: neither this class nor any kind of it is among the model's classes")
        chosen |= kinds
    return [id for id in vocabulary.ids if id in chosen]


def _find(text: str, vocabulary: Vocabulary) -> str:
    """The id that a name or id means, of the vocabulary first; whether capital or not does not matter."""
    try:
        return vocabulary.find(text).id
    except VocabularyError as error:
        # A vocabulary of other ids has no use for the ontology's names.
        ontology = Ontology.audioset()
        names = {id: ontology.name(id) for id in ontology.ids} if _kin(vocabulary) is not None else {}
        known = [*dict.fromkeys([*vocabulary.ids, *names])]
        for called in (lambda id: id, lambda id: names.get(id, "")):
            if len(found := [id for id in known if called(id).casefold() == text.casefold()]) == 1:
                return found[0]
        if any(each.casefold() == text.casefold() for each in vocabulary.names):
            raise  # several classes of that name
        hint = vocabulary.hint(text, names.values())
        raise VocabularyError(f"{text!r} is not a class of the model's {len(vocabulary)} ({hint})") from error


def roll_up(result: TagResult) -> TagResult:
    """The result with every class at least as probable as each kind of it, in the clip and in every step.

    Raises:
        VocabularyError: no class of the vocabulary is in the ontology.

    Example:
        >>> import numpy as np
        >>> family = Vocabulary.audioset().part(["/m/0jbk", "/m/0bt9lr"])  # Animal, Dog
        >>> frames, times = np.float32([[0.1, 0.7]]), np.array([[0.0, 0.3]])
        >>> roll_up(TagResult(family, frames[0], frames, times, duration_s=0.3, windows=1)).clip_probabilities
        array([0.7, 0.7], dtype=float32)
    """
    rolled = []
    kin = kinds_of(result.vocabulary)
    for table in (result.clip_probabilities, result.frames):
        copy = table.copy()
        for index, kinds in kin.items():
            copy[..., index] = table[..., [index, *kinds]].max(axis=-1)
        rolled.append(copy)
    return replace(result, clip_probabilities=rolled[0], frames=rolled[1])


def kinds_of(vocabulary: Vocabulary) -> Mapping[int, tuple[int, ...]]:
    """For each class that has kinds in the vocabulary their indices, at any depth.

    Raises:
        VocabularyError: no class of the vocabulary is in the ontology.
    """
    kin = _kin(vocabulary)
    if kin is None:
        raise VocabularyError("none of the model's classes is in AudioSet's ontology: there is nothing to roll up")
    return kin


@lru_cache(maxsize=8)
def _kin(vocabulary: Vocabulary) -> Mapping[int, tuple[int, ...]] | None:
    """As `kinds_of`; None where no class of the vocabulary is in the ontology."""
    ontology = Ontology.audioset()
    below = {c.index: ontology.descendants(c.id) for c in vocabulary if c.id in ontology}
    kin = {i: tuple(sorted(vocabulary.index_of(id) for id in ids if id in vocabulary)) for i, ids in below.items()}
    return {index: kinds for index, kinds in kin.items() if kinds} if below else None


def _deepest(places: dict[int, float], kin: Mapping[int, Sequence[int]] | None) -> dict[int, float]:
    """Of classes with their probabilities those that none stands for, each with the place that it takes."""
    kin = kin or {}
    taken: dict[int, float] = {}
    # A class has fewer kinds than any class above it: each comes after those that may stand for it.
    for index in sorted(places, key=lambda i: len(kin.get(i, ()))):
        below = [i for i in kin.get(index, ()) if i in taken and places[i] >= STANDS_FOR * places[index]]
        heir = max(below, key=lambda i: places[i], default=index)
        taken[heir] = max(taken.get(heir, 0.0), places[index])
    return taken
