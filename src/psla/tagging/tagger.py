"""Tagger: tag audio of any length with a model file, in bounded memory.

    blocks of int16 -> windows of the front end's length, one every hop -> batches -> the network -> one result

Windows begin at 0, hop, 2 hop, ... until they cover the audio. The last one takes what is left and is padded by the
front end's rule, so no sample is dropped, and the rest of a window is never a window of its own.

Several windows become one clip by `combine`: `mean` weighs each window by the samples it holds (a tail of 0.1 s must
not outvote 10 s), `max` takes the highest probability that any window gives a class. A clip that fits into one window
gets, to the bit, what `psla.model.inference.predict` gives it, clamped to [0, 1].

    steps     |  0  |  1  |  2  |  3  |  4  |     a grid from the beginning of the audio, 32 hops of the front end each
    windows   |---------------|
                      |---------------|           a step's value is the mean of the windows' steps, by their overlap
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from psla.data.audio import SAMPLE_RATE, AudioStream, Source, from_array
from psla.data.vocabulary import SoundClass, Vocabulary
from psla.model.inference import tag_waveforms
from psla.model.model_file import Model, load_model
from psla.model.network import STRIDE

BATCH = 8  # windows that go through the network together


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

    def top(self, n: int) -> list[tuple[SoundClass, float]]:
        """The n most probable classes, the most probable first; equal ones in the order of the vocabulary."""
        order = np.argsort(-self.clip_probabilities, kind="stable")[: max(0, n)]
        return [(self.vocabulary[int(i)], float(self.clip_probabilities[i])) for i in order]

    def to_dict(self, top: int) -> dict[str, Any]:
        """Plain data for JSON: duration_s, windows and the `top` most probable classes; no frames."""
        classes = [{"id": c.id, "name": c.name, "probability": probability} for c, probability in self.top(top)]
        return {"duration_s": self.duration_s, "windows": self.windows, "classes": classes}


class Tagger:
    """Tags files, bytes, file objects and arrays of any length.

    Args:
        model: what `load_model` gives; its network is put into evaluation mode.
        hop_s: seconds from one window's beginning to the next's, one sample to a whole window; None: a whole window.
        combine: `mean` or `max`; see the module's head.

    Raises:
        ValueError: a hop out of range, an unknown rule, or a front end for another sample rate than 16 kHz.

    Example:
        >>> tagger = load("runs/esc50/model.safetensors")  # doctest: +SKIP
        >>> tagger.tag("street.flac").top(1)                      # doctest: +SKIP
        [(SoundClass(index=42, id='siren', name='siren'), 0.93)]
    """

    def __init__(self, model: Model, hop_s: float | None = None, combine: Literal["mean", "max"] = "mean") -> None:
        front_end = model.network.config.front_end
        if front_end.sample_rate != SAMPLE_RATE:
            raise ValueError(f"the front end must take {SAMPLE_RATE} Hz; this model's takes {front_end.sample_rate} Hz")
        if combine not in ("mean", "max"):
            raise ValueError(f"combine must be mean or max, not {combine!r}")
        longest = front_end.window_samples / SAMPLE_RATE
        if hop_s is not None and not 1 / SAMPLE_RATE <= hop_s <= longest:
            raise ValueError(f"hop_s must be above 0 and at most the window of {longest:g} s, not {hop_s}")
        self.model, self.combine = model, combine
        self.window_samples = front_end.window_samples
        self.hop_samples = self.window_samples if hop_s is None else round(hop_s * SAMPLE_RATE)
        self.step_samples = STRIDE * front_end.hop_samples
        model.network.eval()

    def tag(self, source: Source | np.ndarray, sample_rate: int | None = None) -> TagResult:
        """Tag one recording.

        Args:
            source: a path, the bytes of a file, a binary file object, or an array (samples,) or (samples, channels),
                float in [-1, 1], int16 or int32.
            sample_rate: of the array, in Hz; a file says its own.

        Raises:
            AudioError: the audio cannot be read; the error says which and why.
            ValueError: an array without a sample rate, or a sample rate for what is not an array.
        """
        if isinstance(source, np.ndarray):
            if sample_rate is None:
                raise ValueError("an array does not say how fast it was sampled: give its sample_rate in Hz")
            return self._tag_blocks([from_array(source, sample_rate)])
        if sample_rate is not None:
            raise ValueError("sample_rate is for arrays only: a file says its own")
        with AudioStream(source) as stream:
            return self._tag_blocks(stream)

    def _tag_blocks(self, blocks: Iterable[np.ndarray]) -> TagResult:
        network, classes = self.model.network, len(self.model.vocabulary)
        device = next(network.parameters()).device
        timeline = _Timeline(self.step_samples, self.window_samples, classes)
        total, weight, highest = np.zeros(classes), 0, np.full(classes, -np.inf)
        windows = samples = 0
        cut = cut_windows(blocks, self.window_samples, self.hop_samples)
        while batch := list(islice(cut, BATCH)):
            tagging = tag_waveforms(network, batch, device)
            clip = tagging.clip_probabilities.cpu().numpy()  # (batch, classes)
            frames = tagging.frame_probabilities.cpu().numpy()  # (batch, steps, classes)
            for row, window in enumerate(batch):
                begin = windows * self.hop_samples
                total += len(window) * clip[row].astype(np.float64)
                weight += len(window)
                highest = np.maximum(highest, clip[row])
                timeline.add(begin, frames[row])
                windows, samples = windows + 1, begin + len(window)
        combined = total / weight if self.combine == "mean" else highest
        values, times = timeline.read(samples)
        return TagResult(
            vocabulary=self.model.vocabulary,
            clip_probabilities=np.clip(combined, 0, 1).astype(np.float32),
            frames=values,
            times=times,
            duration_s=samples / SAMPLE_RATE,
            windows=windows,
        )


def load(path: str | Path, hop_s: float | None = None, combine: Literal["mean", "max"] = "mean") -> Tagger:
    """The tagger of a model file; `hop_s` and `combine` as `Tagger` takes them.

    Raises:
        ModelFileError: no such file, or not a model file of this version.
        ValueError: as `Tagger`.
    """
    return Tagger(load_model(path), hop_s, combine)


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[np.ndarray]:
    """Windows of a stream of samples, `hop` <= `window` apart, until they cover it; the last one may be shorter.

    Shape: blocks: any number of (samples,) arrays. Each window: (window,), the last (1 .. window,).

    Example:
        >>> [w.tolist() for w in cut_windows([np.arange(3), np.arange(3, 7)], window=4, hop=2)]
        [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6]]
        >>> [w.tolist() for w in cut_windows([np.arange(4)], window=4, hop=2)]
        [[0, 1, 2, 3]]
    """
    waiting: list[np.ndarray] = []
    held, first = 0, True  # held: samples from the next window's beginning on
    for block in blocks:
        waiting.append(block)
        held += len(block)
        if held < window:
            continue
        joined, begin = np.concatenate(waiting), 0
        while held - begin >= window:
            yield joined[begin : begin + window].copy()  # a view would keep the whole block alive
            begin, first = begin + hop, False
        waiting, held = [joined[begin:].copy()], held - begin
    # Of what is held, the window before has covered window - hop samples: only what is beyond them asks for another.
    if held and (first or held > window - hop):
        yield np.concatenate(waiting)


class _Timeline:
    """Means of the windows' steps on one grid, weighted by how long each lies in a step of the grid.

    A window is a little longer than its steps (the last frame is 25 ms long), so windows end to end drift against the
    grid; the last step of a window reaches to the window's end. What memory it takes is that of its result.
    """

    def __init__(self, step: int, window: int, classes: int) -> None:
        self.step, self.window = step, window
        self.sums = np.zeros((64, classes))
        self.weights = np.zeros(64)

    def add(self, begin: int, frames: np.ndarray) -> None:
        """The steps (steps, classes) of the window that begins at this sample."""
        begins = begin + self.step * np.arange(len(frames))
        ends = np.append(begins[1:], begin + self.window)
        cells = np.arange(begin // self.step, -(-ends[-1] // self.step))
        if cells[-1] >= len(self.sums):
            more = max(len(self.sums), int(cells[-1]) + 1 - len(self.sums))
            self.sums = np.concatenate([self.sums, np.zeros((more, self.sums.shape[1]))])
            self.weights = np.concatenate([self.weights, np.zeros(more)])
        low = np.maximum(begins[None], cells[:, None] * self.step)
        high = np.minimum(ends[None], (cells[:, None] + 1) * self.step)
        overlap = np.maximum(high - low, 0).astype(np.float64)  # (cells, steps), in samples
        self.sums[cells] += overlap @ frames.astype(np.float64)
        self.weights[cells] += overlap.sum(axis=1)

    def read(self, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Values (steps, classes) float32 in [0, 1] and times (steps, 2) in seconds, of audio this long."""
        count = max(1, (samples + self.step // 2 - 1) // self.step)
        times = np.minimum(np.arange(count)[:, None] * self.step + [0, self.step], samples) / SAMPLE_RATE
        values = self.sums[:count] / self.weights[:count, None]
        return np.clip(values, 0, 1).astype(np.float32), times
