"""What one class does over time: its steps smoothed, its runs above a level made into spans.

The inside of `psla.tagging.events`, whose head draws it. Steps come in blocks; the state that goes from one block to
the next is here, and no number depends on where the blocks are cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from psla.data.vocabulary import SoundClass

State = Literal["opened", "continued", "closed"]

_TINY = 1e-9  # seconds
_UNITS = 2.0**40  # a probability in whole units: their sum does not depend on how steps come in blocks


@dataclass
class Span:
    """A stretch of steps of one class, in seconds, and what they hold.

    opened: it has been told that it is an event. number: of that event, once it has one.
    """

    onset: float
    offset: float
    peak: float = 0.0
    units: int = 0  # the sum of the probabilities
    steps: int = 0
    opened: bool = False
    number: int = -1

    @property
    def mean(self) -> float:
        return self.units / _UNITS / self.steps

    def add(self, other: Span) -> None:
        """What follows at once."""
        self.offset, self.peak = other.offset, max(self.peak, other.peak)
        self.units, self.steps = self.units + other.units, self.steps + other.steps


@dataclass
class Change:
    """What became of a span of this class."""

    state: State
    sound: SoundClass
    span: Span


class Track:
    """One class: at most one span that is an event or may become one, and what came after it.

                      ____
    threshold   - - -/- - \\- - - - - - - -     span: it has reached the threshold: an event, or a part of one
                    /      \\      __           gap: what lies behind it, until something is joined with it
    release     ---/--------\\----/--\\---     rising: a run above the release level, not yet at the threshold
                   |  span  | gap |rising

    Args:
        max_gap, min_length: seconds; see `EventRule`.
    """

    def __init__(self, sound: SoundClass, max_gap: float, min_length: float) -> None:
        self._sound, self._max_gap, self._min_length = sound, max_gap + _TINY, min_length - _TINY
        self._span: Span | None = None
        self._gap: Span | None = None
        self._rising: Span | None = None
        self._open = False  # the span reaches to the last step
        self._told = 0.0  # the offset that was told last

    @property
    def idle(self) -> bool:
        """Whether nothing goes on, so that it can be forgotten."""
        return self._span is None and self._rising is None

    def push(self, steps: np.ndarray, times: np.ndarray, level: np.float32, release: np.float32) -> Iterator[Change]:
        """The next steps (steps,) float32 with their times (steps, 2); the level that an event reaches, and leaves."""
        if len(steps):
            reached, held = steps >= level, steps >= release
            sums = np.concatenate([[0], np.cumsum(np.rint(steps.astype(np.float64) * _UNITS).astype(np.int64))])
            bounds = [0, *(np.flatnonzero(held[1:] != held[:-1]) + 1).tolist(), len(steps)]
            for a, b in pairwise(bounds):
                peak, units = float(steps[a:b].max()), int(sums[b] - sums[a])
                run = Span(float(times[a, 0]), float(times[b - 1, 1]), peak, units, b - a)
                if held[a]:
                    yield from self._above(run, bool(reached[a:b].any()))
                else:
                    yield from self._below(run)
        if self._span is not None and self._long(self._span) and self._span.offset > self._told:
            self._told = self._span.offset
            yield Change("continued", self._sound, self._span) if self._span.opened else self._opening(self._span)

    def close(self) -> Iterator[Change]:
        """The end: the span is closed, a run that has not reached the threshold is none."""
        self._rising = None
        yield from self._end()

    def _above(self, run: Span, reached: bool) -> Iterator[Change]:
        if self._open and self._span is not None:
            self._span.add(run)
            return
        if self._rising is None:
            self._rising = run
        else:
            self._rising.add(run)
        if not reached:
            return
        risen, self._rising = self._rising, None
        if self._span is not None and risen.onset - self._span.offset <= self._max_gap:
            if self._gap is not None:
                self._span.add(self._gap)
            self._span.add(risen)
        else:
            yield from self._end()
            self._span = risen
        self._gap, self._open = None, True

    def _below(self, run: Span) -> Iterator[Change]:
        self._open = False
        if self._span is not None:
            for part in (self._rising, run):
                if part is not None and self._gap is not None:
                    self._gap.add(part)
                elif part is not None:
                    self._gap = part
            if run.offset - self._span.offset > self._max_gap:  # whatever comes next begins there or later
                yield from self._end()
        self._rising = None

    def _end(self) -> Iterator[Change]:
        span, self._span, self._gap, self._open = self._span, None, None, False
        if span is not None and self._long(span):
            if not span.opened:
                yield self._opening(span)
            yield Change("closed", self._sound, span)

    def _opening(self, span: Span) -> Change:
        span.opened = True
        return Change("opened", self._sound, span)

    def _long(self, span: Span) -> bool:
        return span.offset - span.onset >= self._min_length


class Median:
    """The median of so many steps around each; at both ends, of those that are there."""

    def __init__(self, steps: int) -> None:
        self._half = steps // 2
        self._rows: np.ndarray | None = None  # those that are still needed, and their times
        self._times = np.zeros((0, 2))
        self._done = 0  # how many of the rows have been given out

    def push(self, rows: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The next rows (steps, classes) and their times (steps, 2) -> those that no later row can change."""
        if self._half == 0:
            return rows, times
        self._rows = rows if self._rows is None else np.concatenate([self._rows, rows])
        self._times = np.concatenate([self._times, times])
        return self._give(len(self._rows) - self._half)

    def close(self) -> tuple[np.ndarray, np.ndarray]:
        """The last ones; what is pushed then is another beginning."""
        if self._rows is None:
            return np.zeros((0, 0), np.float32), self._times
        given = self._give(len(self._rows))
        self._rows, self._times, self._done = None, np.zeros((0, 2)), 0
        return given

    def _give(self, until: int) -> tuple[np.ndarray, np.ndarray]:
        rows, half = self._rows, self._half
        assert rows is not None
        places = range(self._done, max(self._done, until))
        given = np.zeros((len(places), rows.shape[1]), np.float32)
        whole = [i for i in places if i >= half and i + half < len(rows)]
        if whole:
            windows = np.lib.stride_tricks.sliding_window_view(rows, 2 * half + 1, axis=0)  # (steps, classes, window)
            first = whole[0] - places[0]
            given[first : first + len(whole)] = np.median(windows[whole[0] - half : whole[-1] - half + 1], axis=2)
        for i in places:
            if i < half or i + half >= len(rows):
                given[i - places[0]] = np.median(rows[max(0, i - half) : i + half + 1], axis=0)
        times = self._times[places.start : places.stop]
        kept = max(0, places.stop - half)
        self._rows, self._times, self._done = rows[kept:].copy(), self._times[kept:].copy(), places.stop - kept
        return given, times
