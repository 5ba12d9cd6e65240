"""What a tagger notices of the audio itself, before any class: silence, a narrow band, a short clip.

`silent`: no sample reaches 0.001 of full scale (-60 dBFS).

`band-limited`: the source does not reach as high as the model hears. Either its sample rate is below the model's, or
the spectrum says so: a recording that was made at a lower rate, or sent through a telephone, and then resampled, has
nothing above some frequency but the rounding noise of 16 bits. The mean power spectrum is taken in bands of 250 Hz:

    power   ####
            ######  #######|                      |: the edge, at 2 to 7 kHz; the kilohertz below it stands 35 dB above
            ###############|                         rounding noise, half of all bands below it stand out of that noise,
      noise ---------------|-----------------        and none above it does (by 10 dB)
                                        frequency

`short`: shorter than nine tenths of the model's window; the rest of the window is padding. (A window is a little longer
than the clips that a model was trained on: 10.575 s for the 10 s of AudioSet.)

Not covered: a narrow band whose rest holds other noise than that of rounding, such as that of an analogue tape.
"""

from __future__ import annotations

import numpy as np

from psla.tagging.timeline import SAMPLE_RATE

SILENT_PEAK = 0.001  # of full scale
SHORT_SHARE = 0.9  # of the window
SILENT, BAND_LIMITED, SHORT = "silent", "band-limited", "short"
FLAGS = (SILENT, BAND_LIMITED, SHORT)

_FRAME = 512  # samples of a spectrum: 31.25 Hz a bin
_BAND = 8  # bins: 250 Hz
# Hann's window squared: its side lobes fall by 30 dB an octave, so that a loud tone does not fill the empty bands.
_WINDOW = (np.hanning(_FRAME) ** 2).astype(np.float32)
# Rounding to int16 makes an error of variance 1/12; its power in a bin of the windowed spectrum is
# the sum of the squared window times that.
_NOISE = float((_WINDOW.astype(np.float64) ** 2).sum()) / 12
_EMPTY, _STANDING = 10 * _NOISE, 10**3.5 * _NOISE


class SignalMeter:
    """Peak and mean power spectrum of the windows of one recording.

    Example:
        >>> meter = SignalMeter()
        >>> meter.add(np.zeros(16000, np.int16))
        >>> meter.flags(samples=16000, window=32000)
        ('silent', 'short')
    """

    def __init__(self) -> None:
        self.peak = 0  # 0 .. 32768
        self._power = np.zeros(_FRAME // 2 // _BAND)  # (bands,): 0 to 8 kHz
        self._frames = 0

    def add(self, window: np.ndarray) -> None:
        """A window (samples,) int16; where windows overlap, what they share counts twice in the spectrum."""
        self.peak = max(self.peak, int(window.max()), -int(window.min()))
        frames = window[: len(window) // _FRAME * _FRAME].reshape(-1, _FRAME)
        spectrum = np.fft.rfft(frames * _WINDOW)[:, :-1]  # (frames, bins), but for half the sample rate
        power = (spectrum.real**2 + spectrum.imag**2).sum(axis=0, dtype=np.float64)
        self._power += power.reshape(-1, _BAND).mean(axis=1)
        self._frames += len(frames)

    def band_edge_hz(self) -> float | None:
        """Where a recording of a narrower band than 8 kHz ends, by its spectrum; None where it is not so."""
        power = self._power / max(1, self._frames)
        width = SAMPLE_RATE / _FRAME * _BAND
        standing_out = power > _EMPTY
        if not standing_out.any():
            return None
        edge = int(np.flatnonzero(standing_out)[-1]) + 1  # bands
        if not 2000 <= edge * width <= 7000 or standing_out[:edge].mean() < 0.5:
            return None
        return edge * width if power[edge - round(1000 / width) : edge].mean() > _STANDING else None

    def flags(self, samples: int, window: int, source_rate: float | None = None) -> tuple[str, ...]:
        """Those of `FLAGS` that hold for a recording of so many samples, tagged in windows of so many.

        Args:
            source_rate: sample rate of the source in Hz, where it is known.
        """
        silent = self.peak < SILENT_PEAK * 32768
        low_rate = source_rate is not None and source_rate < SAMPLE_RATE
        narrow = low_rate or (not silent and self.band_edge_hz() is not None)
        return tuple(
            flag for flag, holds in zip(FLAGS, (silent, narrow, samples < SHORT_SHARE * window), strict=True) if holds
        )
