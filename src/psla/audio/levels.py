"""Levels: how loud the channels of a recording are, and how loud their mean is, before anything is made of them.

A model hears the mean of the channels, at its own rate. What it hears may be silent though the recording is not: two
channels in anti-phase cancel. And a constant is silent, whatever its value, though its resampled edges are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Levels:
    """The highest distance of a sample from the mean of all samples, of full scale.

    Attributes:
        loudest: of the loudest channel.
        mixed: of the mean of the channels.
        channels: how many there are.
    """

    loudest: float
    mixed: float
    channels: int

    @property
    def cancelled(self) -> bool:
        """Whether of the channels less is left in their mean than a quarter of what one of them alone would leave."""
        return self.mixed < self.loudest / (4 * self.channels)


class LevelMeter:
    """Measures blocks, one after the other.

    Example:
        >>> meter = LevelMeter()
        >>> meter.add(np.float32([[0.5, -0.5], [-0.5, 0.5]]), np.zeros(2, np.float32))
        >>> meter.levels, meter.levels.cancelled
        (Levels(loudest=0.5, mixed=0.0, channels=2), True)
    """

    def __init__(self) -> None:
        self._lowest: np.ndarray = np.full(1, np.inf)
        self._highest: np.ndarray = np.full(1, -np.inf)
        self._sum: np.ndarray = np.zeros(1)
        self._count = 0

    def add(self, block: np.ndarray, mono: np.ndarray) -> None:
        """A block (frames, channels) float32, frames >= 1, and the mean of its channels (frames,)."""
        values = block if block.shape[1] == 1 else np.column_stack([block, mono])
        self._lowest = np.minimum(self._lowest, values.min(axis=0))
        self._highest = np.maximum(self._highest, values.max(axis=0))
        self._sum = self._sum + values.sum(axis=0, dtype=np.float64)
        self._count += len(values)

    @property
    def levels(self) -> Levels:
        """Of all blocks, at least one."""
        mean = self._sum / self._count
        peaks = np.maximum(self._highest - mean, mean - self._lowest)
        *channels, mixed = peaks if len(peaks) > 1 else np.repeat(peaks, 2)
        return Levels(float(max(channels)), float(mixed), len(channels))
