"""Timeline: the steps of windows that overlap or drift, on one grid from the beginning of the audio.

    steps     |  0  |  1  |  2  |  3  |  4  |     a grid from the beginning of the audio, 32 hops of the front end each
    windows   |---------------|
                      |---------------|           a step's value is the mean of the windows' steps, by their overlap

A window is a little longer than its steps (the last frame is 25 ms long), so windows end to end drift against the grid;
the last step of a window reaches to the window's end. Steps that no later window can reach are finished at once: what
memory a timeline takes is that of its result.
"""

from __future__ import annotations

import numpy as np

from psla.model.frontends.kaldi import FrontEndConfig

SAMPLE_RATE = FrontEndConfig().sample_rate


class Timeline:
    """Weighted means of the windows' steps.

    Args:
        step: samples of a step of the grid.
        window: samples of a window; its last step ends where it does.
        columns: numbers a step, such as the classes.

    Example:
        >>> timeline = Timeline(step=16000, window=32000, columns=1)
        >>> timeline.add(0, np.array([[0.0], [0.2]]))
        >>> timeline.add(16000, np.array([[0.4], [1.0]]))
        >>> values, times = timeline.read(48000)
        >>> values[:, 0].round(2), times.tolist()
        (array([0. , 0.3, 1. ], dtype=float32), [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    """

    def __init__(self, step: int, window: int, columns: int) -> None:
        self.step, self.window = step, window
        self._finished: list[np.ndarray] = []  # float32 rows of the first cells
        self._first = 0  # the first cell that is still open
        self._sums = np.zeros((0, columns))
        self._weights = np.zeros(0)

    def add(self, begin: int, steps: np.ndarray) -> None:
        """The steps (steps, columns) of the window that begins at this sample, not before the one added last."""
        begins = begin + self.step * np.arange(len(steps))
        ends = np.append(begins[1:], begin + self.window)
        cells = np.arange(begin // self.step, -(-ends[-1] // self.step))
        self._finish(int(cells[0]))
        more = max(0, int(cells[-1]) + 1 - self._first - len(self._sums))
        self._sums = np.concatenate([self._sums, np.zeros((more, self._sums.shape[1]))])
        self._weights = np.concatenate([self._weights, np.zeros(more)])
        low = np.maximum(begins[None], cells[:, None] * self.step)
        high = np.minimum(ends[None], (cells[:, None] + 1) * self.step)
        overlap = np.maximum(high - low, 0).astype(np.float64)  # (cells, steps), in samples
        self._sums[cells - self._first] += overlap @ steps.astype(np.float64)
        self._weights[cells - self._first] += overlap.sum(axis=1)

    def _finish(self, cell: int) -> None:
        """Closes the cells before this one."""
        if cell > self._first:
            done = cell - self._first
            self._finished.append((self._sums[:done] / self._weights[:done, None]).astype(np.float32))
            self._first, self._sums, self._weights = cell, self._sums[done:], self._weights[done:]

    def read(self, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """The steps whose middle lies inside audio of this length, at least one; reading ends the timeline.

        Shape: values (steps, columns) float32; times (steps, 2) float64: begin and end in seconds, none past the audio.
        """
        count = steps_within(samples, self.step)
        self._finish(max(count, self._first))
        times = np.minimum(np.arange(count)[:, None] * self.step + [0, self.step], samples) / SAMPLE_RATE
        return np.concatenate(self._finished)[:count], times


def steps_within(samples: int, step: int) -> int:
    """How many steps have their middle inside audio of this length; at least one.

    Example:
        >>> [steps_within(samples, 10) for samples in (1, 15, 16, 25, 26)]
        [1, 1, 2, 2, 3]
    """
    return max(1, (samples + step // 2 - 1) // step)
