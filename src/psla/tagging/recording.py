"""Recording: gathers what a model says of one recording's windows, and makes one result of it.

Several windows become one clip by `combine`: `mean` weighs each window by the samples it holds (a tail of 0.1 s must
not outvote 10 s), `max` takes the highest probability that any window gives a class. A clip that fits into one window
gets, to the bit, what `psla.model.inference.predict` gives it, clamped to [0, 1].

The steps of windows that overlap or drift come onto one grid from the beginning of the audio (`Timeline`):

    steps     |  0  |  1  |  2  |  3  |  4  |     each as many frames of the front end as the backbone's stride
    windows   |---------------|
                      |---------------|           a step's value is the mean of the windows' steps, by their overlap

A window is a little longer than its steps (the last frame is longer than a hop), so windows end to end drift against
the grid; the last step of a window reaches to the window's end. Steps that no later window can reach are finished at
once: what memory a timeline takes is that of its result.

What is noticed of the audio itself, before any class (`SignalMeter`):

`silent`: no sample of any channel is 0.001 of full scale (-60 dBFS) from the mean of all: a constant is silent, too.

`cancelled`: the channels are not silent, but in their mean, which is what the model hears, less is left than a quarter
of what one of them alone would leave there, such as of a stereo recording whose channels are in anti-phase.

`unfinished`: the file may have been cut, and nothing in it tells: an Ogg without its last page.

`band-limited`: the source does not reach as high as the model hears. Either its sample rate is below the model's, or
the spectrum says so: a recording that was made at a lower rate, or sent through a telephone, and then resampled, has
nothing above some frequency but the rounding noise of 16 bits. The mean power spectrum is taken in bands of 250 Hz:

    power   ####
            ######  #######|                      |: the edge, from 2 kHz to seven eighths of what the model hears;
            ###############|                         the kilohertz below it stands 35 dB above rounding noise, half of
      noise ---------------|-----------------        all bands below it stand out of that noise, and none above it
                                        frequency    does (by 10 dB)

`short`: shorter than nine tenths of what the model is given at least; the rest is padding. For most models that is a
window (which is a little longer than the clips that a model was trained on: 10.575 s for the 10 s of AudioSet), for one
that hears each recording at its own length, its shortest.

`unfamiliar`: like none of the model's classes, if the model can tell (`psla.model.familiarity`); windows are combined
as for the probabilities. A step is so whose windows are so (the same, of those that it lies in): no event is there.

Not covered: a narrow band whose rest holds other noise than that of rounding, such as that of an analogue tape.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from scipy.fft import rfft

from psla.audio.levels import Levels
from psla.data.vocabulary import Vocabulary
from psla.tagging.result import Embedding, TagResult

Combine = Literal["mean", "max"]

SILENT_PEAK = 0.001  # of full scale
SHORT_SHARE = 0.9  # of what is heard at least
FLAG_WORDS = {
    "silent": "silent: nothing louder than -60 dBFS",
    "cancelled": "cancelled: the channels cancel each other, the model hears next to nothing of them",
    "band-limited": "band-limited: lacks high frequencies that the model listens to",
    "short": "short: less than what the model hears at least",
    "unfinished": "unfinished: the file may have been cut, its last page is missing",
    "unfamiliar": "unfamiliar: like none of the model's classes",
}
*FLAGS, UNFAMILIAR = FLAG_WORDS

_FRAME_S, _BAND = 0.032, 8  # of a spectrum: 31.25 Hz a bin; bins of a band: 250 Hz
_BAND_HZ = _BAND / _FRAME_S


class SignalMeter:
    """Peak and mean power spectrum of the windows of one recording.

    Example:
        >>> meter = SignalMeter(16000)
        >>> meter.add(np.zeros(16000, np.int16))
        >>> meter.flags(samples=16000, shortest=32000)
        ('silent', 'short')
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._lowest, self._highest, self._sum, self._count = 32767, -32768, 0, 0
        frame = round(_FRAME_S * sample_rate)
        # Hann's window squared: its side lobes fall by 30 dB an octave, so that a loud tone does not fill empty bands.
        self._window = (np.hanning(frame) ** 2).astype(np.float32)
        # Rounding to int16 makes an error of variance 1/12; its power in a bin of the windowed spectrum is
        # the sum of the squared window times that.
        noise = float((self._window.astype(np.float64) ** 2).sum()) / 12
        self._empty, self._standing = 10 * noise, 10**3.5 * noise
        self._power = np.zeros(frame // 2 // _BAND)  # (bands,): 0 to half the sample rate
        self._frames = 0

    def add(self, window: np.ndarray) -> None:
        """A window (samples,) int16; where windows overlap, what they share counts twice in the spectrum."""
        self._lowest, self._highest = min(self._lowest, int(window.min())), max(self._highest, int(window.max()))
        self._sum, self._count = self._sum + int(window.sum(dtype=np.int64)), self._count + len(window)
        frame = len(self._window)
        if not window.any():  # the spectrum of silence is known
            self._frames += len(window) // frame
            return
        frames = window[: len(window) // frame * frame].reshape(-1, frame)
        # (frames, bins), but for what does not fill a band, such as half the sample rate
        spectrum = rfft(frames * self._window)[:, : len(self._power) * _BAND]  # scipy's: float32 as fast as it can be
        power = (spectrum.real**2 + spectrum.imag**2).sum(axis=0, dtype=np.float64)
        self._power += power.reshape(-1, _BAND).mean(axis=1)
        self._frames += len(frames)

    def band_edge_hz(self) -> float | None:
        """Where a recording of a narrower band than the model's ends, by its spectrum; None where it is not so."""
        power = self._power / max(1, self._frames)
        standing_out = power > self._empty
        if not standing_out.any():
            return None
        edge = int(np.flatnonzero(standing_out)[-1]) + 1  # bands
        # Seven eighths of what the model hears are its whole band: filters and codecs leave something out everywhere.
        if not 2000 <= edge * _BAND_HZ <= self.sample_rate * 7 / 16 or standing_out[:edge].mean() < 0.5:
            return None
        return edge * _BAND_HZ if power[edge - round(1000 / _BAND_HZ) : edge].mean() > self._standing else None

    @property
    def peak(self) -> float:
        """The highest distance of a sample from the mean of all, 0 to 65535."""
        mean = self._sum / max(1, self._count)
        return max(self._highest - mean, mean - self._lowest, 0)

    def flags(
        self,
        samples: int,
        shortest: int,
        source_rate: float | None = None,
        levels: Levels | None = None,
        unfinished: bool = False,
    ) -> tuple[str, ...]:
        """Those of `FLAGS` that hold for a recording of so many samples, of which so many are heard at least.

        Args:
            source_rate: sample rate of the source in Hz, where it is known.
            levels: of the source, before it was mixed and resampled, where they are known.
            unfinished: whether the source may have been cut.
        """
        silent = (self.peak / 32768 if levels is None else levels.loudest) < SILENT_PEAK
        cancelled = not silent and levels is not None and levels.cancelled
        low_rate = source_rate is not None and source_rate < self.sample_rate
        narrow = low_rate or (not silent and not cancelled and self.band_edge_hz() is not None)
        short = samples < SHORT_SHARE * shortest
        holding = (silent, cancelled, narrow, short, unfinished)
        return tuple(flag for flag, holds in zip(FLAGS, holding, strict=True) if holds)


class Timeline:
    """Weighted means of the windows' steps.

    Args:
        step: samples of a step of the grid.
        columns: numbers a step, such as the classes.
        sample_rate: samples in a second.

    Example:
        >>> timeline = Timeline(step=16000, columns=1, sample_rate=16000)
        >>> timeline.add(0, 32000, np.array([[0.0], [0.2]]))
        >>> timeline.add(16000, 48000, np.array([[0.4], [1.0]]))
        >>> values, times = timeline.read(48000)
        >>> values[:, 0].round(2), times.tolist()
        (array([0. , 0.3, 1. ], dtype=float32), [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    """

    def __init__(self, step: int, columns: int, sample_rate: int) -> None:
        self.step, self.sample_rate = step, sample_rate
        self._finished: list[np.ndarray] = []  # float32 rows of the first cells, after those that were taken
        self._taken = 0
        self._first = 0  # the first cell that is still open
        self._sums = np.zeros((0, columns))
        self._weights = np.zeros(0)

    def add(self, begin: int, end: int, steps: np.ndarray) -> None:
        """The steps (steps, columns) of the window from this sample on, not before the one added last, to that one."""
        begins = begin + self.step * np.arange(len(steps))
        ends = np.append(begins[1:], max(end, begins[-1] + 1))
        cells = np.arange(begin // self.step, -(-ends[-1] // self.step))
        self.finish(int(cells[0]))
        more = max(0, int(cells[-1]) + 1 - self._first - len(self._sums))
        self._sums = np.concatenate([self._sums, np.zeros((more, self._sums.shape[1]))])
        self._weights = np.concatenate([self._weights, np.zeros(more)])
        low = np.maximum(begins[None], cells[:, None] * self.step)
        high = np.minimum(ends[None], (cells[:, None] + 1) * self.step)
        overlap = np.maximum(high - low, 0).astype(np.float64)  # (cells, steps), in samples
        # Not `@`: the matrix library would call up all processors for it, and have them wait beside the decoders.
        self._sums[cells - self._first] += np.einsum("cs,sk->ck", overlap, steps.astype(np.float64))
        self._weights[cells - self._first] += overlap.sum(axis=1)

    def finish(self, cell: int) -> None:
        """Closes the cells before this one: no window that is still to come reaches them."""
        if cell > self._first:
            done = cell - self._first
            self._finished.append((self._sums[:done] / self._weights[:done, None]).astype(np.float32))
            self._first, self._sums, self._weights = cell, self._sums[done:], self._weights[done:]

    def take(self) -> np.ndarray:
        """The finished steps that were not taken before, (steps, columns) float32; they are forgotten here."""
        rows = np.concatenate([np.zeros((0, self._sums.shape[1]), np.float32), *self._finished])
        self._finished, self._taken = [], self._taken + len(rows)
        return rows

    def rest(self, samples: int) -> np.ndarray:
        """As `take`, at the end of audio of this length: to the last step whose middle lies inside it."""
        count = steps_within(samples, self.step)
        self.finish(max(count, self._first))
        before = self._taken
        return self.take()[: count - before]

    def read(self, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """The steps whose middle lies inside audio of this length, at least one; reading ends the timeline.

        Shape: values (steps, columns) float32; times (steps, 2) float64: begin and end in seconds, none past the audio.
        """
        values = self.rest(samples)
        times = np.minimum(np.arange(len(values))[:, None] * self.step + [0, self.step], samples) / self.sample_rate
        return values, times


def steps_within(samples: int, step: int) -> int:
    """How many steps have their middle inside audio of this length; at least one.

    Example:
        >>> [steps_within(samples, 10) for samples in (1, 15, 16, 25, 26)]
        [1, 1, 2, 2, 3]
    """
    return max(1, (samples + step // 2 - 1) // step)


class Hearer(Protocol):
    """Who is told what the network says of windows: a `Recording`, or a stream (`psla.tagging.stream`)."""

    def add(
        self,
        waveform: np.ndarray,
        clip: np.ndarray,
        frames: np.ndarray,
        features: np.ndarray | None = None,
        familiarity: float | None = None,
    ) -> None: ...


class Recording:
    """The windows of one recording, in their order.

    Args:
        vocabulary: the classes of the probabilities.
        step, window, hop: lengths in samples. shortest: what is heard at least, see `TaggingModel`.
        sample_rate: samples in a second.
        combine: `mean` or `max`; see the module's head.
        own: how many classes, the first ones, the familiarity speaks of; 0: all.
        source_rate: sample rate of the source in Hz, where it is known.

    Attributes:
        levels, unfinished: as `SignalMeter.flags` takes them; to be set before `result`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        step: int,
        window: int,
        shortest: int,
        hop: int,
        sample_rate: int,
        combine: Combine = "mean",
        own: int = 0,
        source_rate: float | None = None,
    ) -> None:
        self.vocabulary, self.combine, self.source_rate = vocabulary, combine, source_rate
        self.step, self.window, self.hop, self.sample_rate = step, window, hop, sample_rate
        self.shortest = shortest
        self.own = tuple(vocabulary.ids[: own or None])
        self.windows = self.samples = 0
        self.levels: Levels | None = None
        self.unfinished = False
        self._meter = SignalMeter(sample_rate)
        self._frames = Timeline(step, len(vocabulary), sample_rate)
        self._features: Timeline | None = None
        self._sum, self._highest = np.zeros(len(vocabulary)), np.full(len(vocabulary), -np.inf)
        self._feature_sum: np.ndarray | float = 0.0
        self._familiarity: list[tuple[float, int]] = []  # of each window, and its samples
        self._familiar_steps = Timeline(step, 1, sample_rate)
        self._weight = 0

    def add(
        self,
        waveform: np.ndarray,
        clip: np.ndarray,
        frames: np.ndarray,
        features: np.ndarray | None = None,
        familiarity: float | None = None,
    ) -> None:
        """The next window: its samples (1 .. window,) int16, and what the network says of it, unclamped.

        Shape: clip (classes,) float32; frames (steps, classes) float32; features (steps, channels) where asked for.
        familiarity: see `Tagging`.
        """
        begin, length = self.windows * self.hop, len(waveform)
        self.windows, self.samples = self.windows + 1, begin + length
        self._meter.add(waveform)
        self._sum += length * clip.astype(np.float64)
        self._highest = np.maximum(self._highest, clip)
        self._weight += length
        end = begin + min(max(length, self.shortest), self.window)
        self._frames.add(begin, end, frames)
        if familiarity is not None:
            self._familiarity.append((familiarity, length))
            self._familiar_steps.add(begin, end, np.full((len(frames), 1), familiarity))
        if features is not None:
            if self._features is None:
                self._features = Timeline(self.step, features.shape[1], self.sample_rate)
            self._features.add(begin, end, features)
            inside = features[: steps_within(length, self.step)]
            self._feature_sum = self._feature_sum + length * inside.mean(axis=0, dtype=np.float64)

    def result(self) -> TagResult:
        """What all windows say together; at least one must have been added."""
        combined = self._sum / self._weight if self.combine == "mean" else self._highest
        frames, times = self._frames.read(self.samples)
        embedding = None
        if self._features is not None:
            clip = np.asarray(self._feature_sum / self._weight, dtype=np.float32)
            embedding = Embedding(clip, self._features.read(self.samples)[0])
        flags = self._meter.flags(self.samples, self.shortest, self.source_rate, self.levels, self.unfinished)
        return TagResult(
            vocabulary=self.vocabulary,
            clip_probabilities=np.clip(combined, 0, 1).astype(np.float32),
            frames=np.clip(frames, 0, 1),
            times=times,
            duration_s=self.samples / self.sample_rate,
            windows=self.windows,
            flags=(*flags, UNFAMILIAR) if self._unfamiliar() else flags,
            embedding=embedding,
            unfamiliar=self._familiar_steps.read(self.samples)[0][:, 0] < 0 if self._familiarity else None,
            own=self.own if self._familiarity else (),
        )

    def _unfamiliar(self) -> bool:
        if not self._familiarity:
            return False
        scores, samples = np.array(self._familiarity).T
        return bool((np.average(scores, weights=samples) if self.combine == "mean" else scores.max()) < 0)
