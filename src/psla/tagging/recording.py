"""Recording: gathers what the network says of one recording's windows, and makes one result of it.

Several windows become one clip by `combine`: `mean` weighs each window by the samples it holds (a tail of 0.1 s must
not outvote 10 s), `max` takes the highest probability that any window gives a class. A clip that fits into one window
gets, to the bit, what `psla.model.inference.predict` gives it, clamped to [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from psla.data.vocabulary import Vocabulary
from psla.tagging.meter import SignalMeter
from psla.tagging.result import Embedding, TagResult
from psla.tagging.timeline import SAMPLE_RATE, Timeline, steps_within

Combine = Literal["mean", "max"]


@dataclass(frozen=True)
class WindowTagging:
    """What the network says of one window, unclamped.

    clip: (classes,) float32; frames: (steps, classes) float32; features: (steps, channels) float32 where asked for.
    """

    clip: np.ndarray
    frames: np.ndarray
    features: np.ndarray | None = None


class Recording:
    """The windows of one recording, in their order.

    Args:
        vocabulary: the classes of the probabilities.
        step, window, hop: lengths in samples.
        combine: `mean` or `max`; see the module's head.
        source_rate: sample rate of the source in Hz, where it is known.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        step: int,
        window: int,
        hop: int,
        combine: Combine = "mean",
        source_rate: float | None = None,
    ) -> None:
        self.vocabulary, self.combine, self.source_rate = vocabulary, combine, source_rate
        self.step, self.window, self.hop = step, window, hop
        self.windows = self.samples = 0
        self._meter = SignalMeter()
        self._frames = Timeline(step, window, len(vocabulary))
        self._features: Timeline | None = None
        self._sum, self._highest = np.zeros(len(vocabulary)), np.full(len(vocabulary), -np.inf)
        self._feature_sum: np.ndarray | float = 0.0
        self._weight = 0

    def add(self, waveform: np.ndarray, tagging: WindowTagging) -> None:
        """The next window: its samples (1 .. window,) int16, and what the network says of it."""
        begin, length = self.windows * self.hop, len(waveform)
        self.windows, self.samples = self.windows + 1, begin + length
        self._meter.add(waveform)
        self._sum += length * tagging.clip.astype(np.float64)
        self._highest = np.maximum(self._highest, tagging.clip)
        self._weight += length
        self._frames.add(begin, tagging.frames)
        if tagging.features is not None:
            if self._features is None:
                self._features = Timeline(self.step, self.window, tagging.features.shape[1])
            self._features.add(begin, tagging.features)
            inside = tagging.features[: steps_within(length, self.step)]
            self._feature_sum = self._feature_sum + length * inside.mean(axis=0, dtype=np.float64)

    def result(self) -> TagResult:
        """What all windows say together; at least one must have been added."""
        combined = self._sum / self._weight if self.combine == "mean" else self._highest
        frames, times = self._frames.read(self.samples)
        embedding = None
        if self._features is not None:
            clip = np.asarray(self._feature_sum / self._weight, dtype=np.float32)
            embedding = Embedding(clip, self._features.read(self.samples)[0])
        return TagResult(
            vocabulary=self.vocabulary,
            clip_probabilities=np.clip(combined, 0, 1).astype(np.float32),
            frames=np.clip(frames, 0, 1),
            times=times,
            duration_s=self.samples / SAMPLE_RATE,
            windows=self.windows,
            flags=self._meter.flags(self.samples, self.window, self.source_rate),
            embedding=embedding,
        )
