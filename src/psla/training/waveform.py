"""Changes of single training waveforms: circular shift, a part cut out of a longer clip, level.

None of them is in the paper. They are drawn from (seed, epoch, position in the plan) and nothing else, like masks and
mixup, and come before mixing. Shift and cut are made where clips are read; the level is changed on the device, in
floating point, where nothing can clip.

Not here: which clips are read and mixed (`psla.techniques.sampling`), the mixing (`psla.model.augmentation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

# Places where a part may begin, when they are drawn by energy: every 10 ms at 16 kHz.
GRID = 160


@dataclass(frozen=True)
class Cut:
    """Shifts a waveform round in a circle, then cuts a part out of it.

    Args:
        samples: length of the part, at least 1; a clip that is not longer stays whole. None: all of the clip.
        by: every place alike (`uniform`), or in proportion to the part's energy (`energy`): many clips are mostly
            silence. A clip that is all silence is cut as if by `uniform`.
        shift: largest shift, later or earlier, as a share of the clip; 0 .. 1.

    Raises:
        ValueError: a value outside its range.

    Example:
        >>> loud_end = np.repeat(np.array([0, 1000], dtype=np.int16), 1600)
        >>> Cut(1600, "energy")(loud_end, np.array([0.5, 0.9])).tolist() == [1000] * 1600
        True
    """

    samples: int | None
    by: Literal["uniform", "energy"] = "uniform"
    shift: float = 0.0

    def __post_init__(self) -> None:
        short = self.samples is not None and self.samples < 1
        if short or self.by not in ("uniform", "energy") or not 0.0 <= self.shift <= 1.0:
            raise ValueError(
                f"a cut needs at least 1 sample, a place by uniform or energy, a shift in [0, 1]; got {self}"
            )

    def __call__(self, waveform: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """The part: (samples,) or shorter. waveform: (any,) int16. uniforms: two numbers in [0, 1), shift and place."""
        length = len(waveform)
        if self.shift and length:
            waveform = np.roll(waveform, round((2 * uniforms[0] - 1) * self.shift * length))
        if self.samples is None or length <= self.samples:
            return waveform
        start = self._start(waveform, uniforms[1], self.samples)
        return waveform[start : start + self.samples]

    def _start(self, waveform: np.ndarray, uniform: float, samples: int) -> int:
        last = len(waveform) - samples
        if self.by == "energy":
            starts = np.arange(0, last + 1, GRID)
            energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
            heard = np.cumsum(energy[starts + samples] - energy[starts])
            if heard[-1] > 0:
                place = np.searchsorted(heard, uniform * heard[-1], side="right")
                return int(starts[min(place, len(starts) - 1)])
        return int(uniform * (last + 1))


def gains(uniforms: Tensor, gain_db: float) -> Tensor:
    """Factors between -gain_db and +gain_db decibels, uniform in decibels: any shape, in [0, 1) -> float32.

    Example:
        >>> gains(torch.tensor([0.0, 0.5]), 20.0).tolist()
        [0.10000000149011612, 1.0]
    """
    return torch.pow(10.0, (2.0 * uniforms - 1.0) * gain_db / 20.0).float()
