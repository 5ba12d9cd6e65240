"""Measures of a waveform that the laws of the synthesised events are stated in: spectra, lines, envelopes, rates."""

from itertools import pairwise

import numpy as np

RATE = 16000
"""Sampling rate in Hz of the waveforms that are measured."""


def spectrum(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and power, windowed."""
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2 + 1e-12
    return np.fft.rfftfreq(len(wave), 1 / RATE), power


def share(wave: np.ndarray, *bands: float) -> float:
    """Share of the power between two frequencies, or in several such bands."""
    f, power = spectrum(wave)
    edges = np.searchsorted(f, bands).reshape(-1, 2)
    return float(sum(power[a:b].sum() for a, b in edges) / power.sum())


def lines(wave: np.ndarray, count: int, apart: float = 15.0) -> np.ndarray:
    """The strongest spectral lines in Hz, `apart` Hz from each other, strongest first."""
    f, power = spectrum(wave)
    power, found = power.copy(), []
    for _ in range(count):
        found.append(max(f[power.argmax()], 1.0))
        power[np.abs(f - found[-1]) < apart] = 0
    return np.array(found)


def purity(wave: np.ndarray, width: float = 20.0) -> float:
    """Share of the power within `width` Hz of the strongest line."""
    top = lines(wave, 1)[0]
    return share(wave, top - width, top + width)


def envelope(wave: np.ndarray, ms: float = 5.0) -> np.ndarray:
    """Root mean square a frame."""
    frame = round(ms * RATE / 1000)
    return np.sqrt(np.mean(wave[: len(wave) // frame * frame].reshape(-1, frame) ** 2, axis=1))


def track(wave: np.ndarray, ms: float = 50.0) -> np.ndarray:
    """The strongest frequency of each frame that is not near silence."""
    frame = round(ms * RATE / 1000)
    parts = wave[: len(wave) // frame * frame].reshape(-1, frame)
    loud = [part for part in parts if part.std() > 0.1 * parts.std(axis=1).max()]
    spectra = np.abs(np.fft.rfft(np.array(loud) * np.hanning(frame), 4 * frame))
    return np.maximum(spectra.argmax(axis=1), 1) * RATE / (4 * frame)


def onsets(wave: np.ndarray, level: float = 0.25, quiet: float = 0.1, ms: float = 5.0) -> np.ndarray:
    """Times in s at which the envelope rises above `level` of its maximum after having been below `quiet` of it."""
    env, found, armed = envelope(wave, ms), [], True
    for i, value in enumerate(env / env.max()):
        if armed and value > level:
            found.append(i * ms / 1000)
            armed = False
        armed = armed or value < quiet
    return np.array(found)


def modulation(wave: np.ndarray, low: float, high: float, within: tuple[float, float] = (4, 120)) -> bool:
    """Whether the strongest rate of the envelope, of those within limits, lies between two rates in Hz."""
    env = envelope(wave, 2.0)
    env = env - np.convolve(env, np.ones(150) / 150, "same")
    power = np.abs(np.fft.rfft(env * np.hanning(len(env)))) ** 2
    rate = np.fft.rfftfreq(len(env), 0.002)
    inside = (rate >= within[0]) & (rate <= within[1])
    return low <= float(rate[inside][power[inside].argmax()]) <= high


def flatness(wave: np.ndarray, low: float, high: float) -> float:
    """Geometric by arithmetic mean of the power in bands of 50 Hz: 1 for a flat spectrum."""
    f, power = spectrum(wave)
    bands = np.array([power[(f >= a) & (f < a + 50)].mean() for a in np.arange(low, high, 50.0)])
    return float(np.exp(np.log(bands + 1e-20).mean()) / bands.mean())


def slope(wave: np.ndarray, low: float = 60, high: float = 7000) -> float:
    """dB an octave of the power density."""
    f, power = spectrum(wave)
    edges = np.geomspace(low, high, 12)
    density = [10 * np.log10(power[(f >= a) & (f < b)].mean()) for a, b in pairwise(edges)]
    return float(np.polyfit(np.log2(np.sqrt(edges[:-1] * edges[1:])), density, 1)[0])


def dies_away(wave: np.ndarray) -> bool:
    """Whether there is one stroke, at the beginning, and each third is weaker than the one before it."""
    env = np.convolve(envelope(wave, 20.0), np.ones(5) / 5, "valid")
    thirds = [part.std() for part in np.array_split(wave, 3)]
    return bool(env.argmax() < 8 and all(later < former for former, later in pairwise(thirds)))


def steady(wave: np.ndarray, most: float = 0.25) -> bool:
    """Whether the level hardly changes, the first and the last 0.1 s apart."""
    env = envelope(wave, 50.0)[2:-2]
    return bool(env.std() / env.mean() < most)


def pulses(wave: np.ndarray) -> bool:
    """Whether one rate of the envelope between 8 and 100 Hz stands out."""
    env = envelope(wave, 2.0)
    power = np.abs(np.fft.rfft((env - env.mean()) * np.hanning(len(env)))) ** 2
    rate = np.fft.rfftfreq(len(env), 0.002)
    inside = power[(rate > 8) & (rate < 100)]
    return bool(inside.max() > 40 * np.median(inside))


def difference(wave: np.ndarray, other: np.ndarray, rate: int) -> tuple[float, float]:
    """How far the sound of `other`, at another rate, is from the wave's, between 100 Hz and 7 kHz.

    Returns:
        mean magnitude of the difference of the power in bands of 40 ms, in dB, where it is within 40 dB of the
        strongest band's; and the difference of the levels, in dB, which does not count in the former.
    """
    first, second = (_bands(w, r) for w, r in ((wave, RATE), (other, rate)))
    level = float(np.log10(second.sum() / first.sum()))
    floor = 1e-4 * first.max()
    off = np.log10(second / 10**level + floor) - np.log10(first + floor)
    return 10 * float(np.abs(off).mean()), 10 * level


def _bands(wave: np.ndarray, rate: int) -> np.ndarray:
    """(frames of 40 ms, bands of a third of an octave from 100 Hz to 7 kHz) power."""
    frame = round(0.04 * rate)
    frames = wave[: len(wave) // frame * frame].reshape(-1, frame) * np.hanning(frame)
    power = np.abs(np.fft.rfft(frames, axis=1)[:, :281] / rate) ** 2  # bins of 25 Hz
    return np.add.reduceat(power, np.unique(np.geomspace(4, 280, 20).round().astype(int)), axis=1)[:, :-1]
