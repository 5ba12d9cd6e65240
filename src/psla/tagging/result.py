"""What a tagger says of one recording: probabilities of the clip and of its steps, flags, and embeddings if asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from psla.data.vocabulary import SoundClass, Vocabulary


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
        flags: what the audio itself makes doubtful, of `silent`, `band-limited` and `short`; see
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
