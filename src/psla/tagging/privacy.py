"""Speech and excluded classes taken out of a result before anything is made of it, so that nothing of them is written.

The law of speech: a step is dropped if any class that is Human voice or a kind of it (speech, singing, laughter,
crying, ...) is at least as probable in it as the threshold. Of dropped steps nothing is left: no frames, no embedding,
no event, and none that goes on across them. What is told of the clip is made of the steps that remain, as their mean by
length; a recording without such a step keeps what it has, to the bit.

Not covered: what a model misses, and what the network heard of speech in the steps beside it: a step is as long as the
model's stride, but its numbers also depend on the sound around it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary, VocabularyError
from psla.tagging.batch import FileResult
from psla.tagging.result import Embedding, TagResult

SPEECH_THRESHOLD = 0.3
_HUMAN_VOICE = "/m/09l8g"
_OWN_NAMES = {"speech", "human voice", "voice"}  # of classes whose ids are not AudioSet's


def speech_classes(vocabulary: Vocabulary) -> list[str]:
    """Ids of the classes that are a human voice: Human voice, what is below it, and classes called speech or voice.

    Raises:
        VocabularyError: there is none.

    Example:
        >>> speech_classes(Vocabulary(["dog", "speech"])), len(speech_classes(Vocabulary.audioset()))
        (['speech'], 40)
    """
    voices = {_HUMAN_VOICE, *Ontology.audioset().descendants(_HUMAN_VOICE)}
    found = [c.id for c in vocabulary if c.id in voices or c.name.casefold().replace("_", " ") in _OWN_NAMES]
    if not found:
        raise VocabularyError(f"none of the model's {len(vocabulary)} classes is speech: it cannot tell what to drop")
    return found


def drop_speech(result: TagResult, threshold: float = SPEECH_THRESHOLD) -> TagResult:
    """The result without the steps in which a human voice is at least so probable; see the module's head.

    If no step remains, the probabilities of the clip are NaN, and so is its embedding: nothing is known of it.

    Raises:
        ValueError: a threshold that is not above 0 and at most 1.
        VocabularyError: no class is speech.

    Example:
        >>> frames, times = np.float32([[0.5, 0.2], [0.25, 0.75]]), np.array([[0.0, 0.5], [0.5, 1.0]])
        >>> result = TagResult(Vocabulary(["dog", "speech"]), frames.max(0), frames, times, duration_s=1.0, windows=1)
        >>> rest = drop_speech(result)
        >>> rest.times.tolist(), rest.clip_probabilities, rest.dropped_s
        ([[0.0, 0.5]], array([0.5, 0.2], dtype=float32), 0.5)
    """
    Withheld(speech=threshold)  # its range
    columns = [result.vocabulary.index_of(id) for id in speech_classes(result.vocabulary)]
    kept = (result.frames[:, columns] < np.float32(threshold)).all(axis=1)
    if kept.all():
        return replace(result, dropped_s=result.dropped_s or 0.0)
    lengths = np.diff(result.times)[:, 0]

    def mean(steps: np.ndarray) -> np.ndarray:
        if not len(steps):
            return np.full(steps.shape[1], np.nan, np.float32)
        return np.average(steps, axis=0, weights=lengths[kept]).astype(np.float32)

    frames, embedding = result.frames[kept], result.embedding
    if embedding is not None:
        embedding = Embedding(mean(embedding.steps[kept]), embedding.steps[kept])
    return replace(
        result,
        clip_probabilities=mean(frames),
        frames=frames,
        times=result.times[kept],
        embedding=embedding,
        unfamiliar=None if result.unfamiliar is None else result.unfamiliar[kept],
        dropped_s=(result.dropped_s or 0.0) + float(lengths[~kept].sum()),
    )


@dataclass(frozen=True)
class Withheld:
    """What is taken out of every result: classes, by id, and moments in which speech is at least so probable.

    Embeddings know nothing of classes: they lose the moments only.
    """

    classes: tuple[str, ...] = ()
    speech: float | None = None

    def __post_init__(self) -> None:
        if self.speech is not None and not 0 < self.speech <= 1:
            raise ValueError(f"the threshold of speech must be above 0 and at most 1, not {self.speech}")

    def of(self, file: FileResult) -> FileResult:
        """The file with what is left of its result; VocabularyError as `drop_speech`."""
        result = file.result
        if result is not None and self.speech is not None:
            result = drop_speech(result, self.speech)
        if result is not None and self.classes:
            result = result.part([id for id in result.vocabulary.ids if id not in self.classes])
        return replace(file, result=result)


NOTHING = Withheld()
