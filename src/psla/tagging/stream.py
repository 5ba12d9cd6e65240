"""Stream: sound as it comes, told what began and what ended, with the numbers that the whole would get as a file.

    samples, any cut, rate, channels ──► mono int16 at the model's rate ──► windows, as the Tagger's ──► the network
                                          (a resampler with state)                                         │
    events: opened, continued, closed  ◄── `EventTracker` ◄── steps that no later window reaches ◄── Timeline ◄─┘

All of it is what files go through, so the steps and the events of a stream are those of the file: at the model's own
rate to the bit (on the CPU), and at others too as far as the resampler's output does not depend on cuts, which its
authors say and the tests hold to 2 units of 16 bits. Positions are counted in samples, in whole numbers, so they do not
drift. Memory does not grow: what is held is a window, the steps that are not final, and what events are going on.

How late: a step is final, and its event told, at most `latency_s` after its beginning has been pushed: a window, a step
for the grid, and half of the widest median. An event is closed when a gap that is not bridged lies behind it.

Where samples were lost, `gap` says so: what came before ends there, as at the end of a file, and what comes after is
another beginning, at its own place in time. Nothing is heard across a gap.

Not here: where the sound comes from (`psla.audio.live`), and who is told (`psla.tagging.live`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from psla.audio.decode import AudioError, Converter, full_scale
from psla.audio.worker import checked_rate
from psla.tagging.batch import BATCH
from psla.tagging.events import EventRule, EventTracker, StreamEvent
from psla.tagging.recording import Timeline
from psla.tagging.tagger import Cutter, Tagger

_NAME = "<stream>"
_MOST_CHANNELS = 64  # of a block shorter than that: more look like samples


class Stream:
    """Tags sound that comes in blocks; for one thread at a time.

    Args:
        tagger: the model, its window and its hop.
        threshold: probability that events must reach; None: as `rule` says.
        rule: how events are found; None: the defaults of `EventRule`.
        classes: ids of the classes whose events are told; None: all.

    Attributes:
        latency_s: seconds after which a step is final at the latest; see the module's head.
        frames, times: the steps that became final in the last call of `push`, `gap` or `close`: (steps, classes)
            float32 in [0, 1], all of the model's classes, and (steps, 2) float64, begin and end in seconds since the
            stream began.
        newest: (classes,) float32, what the newest window says of its last step: at once, but not final. None before
            the first window.

    Raises:
        ValueError: a threshold out of range, or a rule for a class that there is not.
        VocabularyError: a class that the model does not have.

    Example:
        >>> import psla
        >>> stream = psla.Stream(psla.load("esc10-lite0"), threshold=0.9)
        >>> told = stream.push(np.zeros((48000, 2), np.float32), 48000) + stream.close()
        >>> told, stream.position_s, stream.times.tolist()
        ([], 1.0, [[0.0, 0.32], [0.32, 0.64], [0.64, 0.96]])
    """

    def __init__(
        self,
        tagger: Tagger,
        *,
        threshold: float | None = None,
        rule: EventRule | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        rule = rule or EventRule()
        if threshold is not None:
            rule = replace(rule, threshold=threshold)
        self.tagger, self.rule = tagger, rule
        vocabulary = tagger.model.vocabulary
        ids = vocabulary.ids if classes is None else list(classes)
        self._columns = np.array([vocabulary.index_of(id) for id in ids], int)
        self._tracker = EventTracker(vocabulary.part(ids), tagger.step_s, rule, tagger.thresholds)
        widest = max(each.median_steps for each in (rule, *rule.classes.values()))
        self.latency_s = tagger.window_s + tagger.step_s * (1 + widest // 2)
        self.frames, self.times = self._no_steps()
        self.newest: np.ndarray | None = None
        self.closed = False
        self._converter: Converter | None = None
        self._rate = 0
        self._base = 0  # where the segment began, in samples at the model's rate
        self._begin()

    @property
    def position_s(self) -> float:
        """How far the stream has come, in seconds: what was pushed, but for what the resampler holds, and the gaps."""
        return (self._base + self._heard) / self.tagger.sample_rate

    def push(self, samples: np.ndarray, sample_rate: int | None = None) -> list[StreamEvent]:
        """The next samples; they follow those before without a hole.

        Args:
            samples: (samples,) or (samples, channels), any number, none too; int16, int32 or float in [-1, 1], clipped
                beyond.
            sample_rate: in Hz, 1000 or more; None: the model's. Another one than before begins another resampler.

        Returns: what is new about events, window by window, in each by onset.

        Raises:
            AudioError: another shape or type, NaN or infinity, or a rate out of range; nothing of the block is taken.
            ValueError: the stream is closed.
        """
        self._open()
        rate = self.tagger.sample_rate if sample_rate is None else checked_rate(sample_rate, _NAME)
        block = _checked(np.asarray(samples))
        told: list[StreamEvent] = []
        steps: list[tuple[np.ndarray, np.ndarray]] = []
        if len(block):
            if self._converter is None or rate != self._rate:
                converter = Converter(rate, self.tagger.sample_rate, _NAME)
                first = converter.push(block)  # what is refused is refused before anything has changed
                told += self._hear(self._rest(), steps)
                self._converter, self._rate = converter, rate
                told += self._hear(first, steps)
            else:
                told += self._hear(self._converter.push(block), steps)
        self._keep(steps)
        return told

    def gap(self, seconds: float) -> list[StreamEvent]:
        """So many seconds were lost here, 0 or more: what came before has ended, what comes is another beginning.

        Returns: as `push`.
        """
        self._open()
        if not 0 <= seconds < np.inf:
            raise ValueError(f"a gap is 0 or more seconds long, not {seconds}")
        steps: list[tuple[np.ndarray, np.ndarray]] = []
        told = self._end(steps)
        self._base += self._heard + round(seconds * self.tagger.sample_rate)
        self._begin()
        self._keep(steps)
        return told

    def close(self) -> list[StreamEvent]:
        """The end: what is left is heard, and every event is closed. Closed again, it says nothing.

        Returns: as `push`.
        """
        steps: list[tuple[np.ndarray, np.ndarray]] = []
        told = [] if self.closed else self._end(steps)
        self.closed = True
        self._keep(steps)
        return told

    def _open(self) -> None:
        if self.closed:
            raise ValueError("this stream is closed: make another")

    def _begin(self) -> None:
        """A segment: what is heard without a hole."""
        tagger = self.tagger
        self._converter = None
        self._cutter = Cutter(tagger.window_samples, tagger.hop_samples)
        self._segment = _Segment(tagger)
        self._heard = 0  # samples of it at the model's rate

    def _end(self, steps: list[tuple[np.ndarray, np.ndarray]]) -> list[StreamEvent]:
        told = self._hear(self._rest(), steps)
        told += self._run(self._cutter.close(), steps)
        if self._heard:
            told += self._track(*self._segment.rest(self._base), steps)
        return told + self._tracker.close()

    def _rest(self) -> np.ndarray:
        return np.zeros(0, np.int16) if self._converter is None else self._converter.close()

    def _hear(self, samples: np.ndarray, steps: list[tuple[np.ndarray, np.ndarray]]) -> list[StreamEvent]:
        self._heard += len(samples)
        return self._run(self._cutter.push(samples), steps) if len(samples) else []

    def _run(self, windows: Iterable[np.ndarray], steps: list[tuple[np.ndarray, np.ndarray]]) -> list[StreamEvent]:
        told: list[StreamEvent] = []
        coming = iter(windows)
        while batch := [(self._segment, window) for window in islice(coming, BATCH)]:
            self.tagger.run(batch)
            for frames, times in self._segment.take(self._base):  # window by window: however many came at once
                told += self._track(frames, times, steps)
            self.newest = self._segment.newest
        return told

    def _track(
        self, frames: np.ndarray, times: np.ndarray, steps: list[tuple[np.ndarray, np.ndarray]]
    ) -> list[StreamEvent]:
        steps.append((frames, times))
        return self._tracker.push(frames[:, self._columns], times)

    def _keep(self, steps: list[tuple[np.ndarray, np.ndarray]]) -> None:
        frames, times = zip(self._no_steps(), *steps, strict=True)
        self.frames, self.times = np.concatenate(frames), np.concatenate(times)

    def _no_steps(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((0, len(self.tagger.model.vocabulary)), np.float32), np.zeros((0, 2))


class _Segment:
    """What the network says of windows that follow each other without a hole: who is told, for `Tagger.run`."""

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger
        self._timeline = Timeline(tagger.step_samples, len(tagger.model.vocabulary), tagger.sample_rate)
        self._shortest = tagger.shortest_samples
        self._windows = self._samples = self._given = 0
        self._ready: list[np.ndarray] = []
        self.newest: np.ndarray | None = None

    def add(
        self,
        waveform: np.ndarray,
        clip: np.ndarray,
        frames: np.ndarray,
        features: np.ndarray | None = None,
        familiarity: float | None = None,
    ) -> None:
        """The next window, as `Recording.add`."""
        tagger = self._tagger
        begin, length = self._windows * tagger.hop_samples, len(waveform)
        self._windows, self._samples = self._windows + 1, begin + length
        self._timeline.add(begin, begin + min(max(length, self._shortest), tagger.window_samples), frames)
        if length == tagger.window_samples:  # the next one begins a hop later, if there is one
            self._timeline.finish(self._windows * tagger.hop_samples // tagger.step_samples)
        self._ready.append(self._timeline.take())
        self.newest = np.clip(frames[-1], 0, 1)

    def take(self, base: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Steps and times of each window that was added, those that are final; base: the segment's first sample."""
        ready, self._ready = self._ready, []
        for rows in ready:
            yield self._timed(rows, base, self._samples)

    def rest(self, base: int) -> tuple[np.ndarray, np.ndarray]:
        """The last steps and times."""
        return self._timed(self._timeline.rest(self._samples), base, self._samples)

    def _timed(self, rows: np.ndarray, base: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
        step = self._tagger.step_samples
        edges = (self._given + np.arange(len(rows)))[:, None] * step + [0, step]
        self._given += len(rows)
        return np.clip(rows, 0, 1), (base + np.minimum(edges, samples)) / self._tagger.sample_rate


def _checked(samples: np.ndarray) -> np.ndarray:
    """(samples, channels) float32."""
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not samples.shape[1]):
        raise AudioError(_NAME, f"the shape must be (samples,) or (samples, channels); it is {samples.shape}")
    if samples.ndim == 2 and samples.shape[1] > max(samples.shape[0], _MOST_CHANNELS):
        raise AudioError(_NAME, f"the shape {samples.shape} looks like (channels, samples); give (samples, channels)")
    return full_scale(samples, _NAME) if samples.size else np.zeros((0, 1), np.float32)
