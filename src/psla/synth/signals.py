"""Signals that the embedded corpus is made of: shaped noise, tones, envelopes, repetitions; numpy, at 16 kHz."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

RATE = 16000
"""Sampling rate of every sound here, in Hz."""

Generator = np.random.Generator
Gain = Callable[[np.ndarray], np.ndarray]


def fast_length(n: int) -> int:
    """The next length that a fast Fourier transform likes: even, 8 to 16 times a power of two."""
    step = 1 << max(1, n.bit_length() - 4)
    return -(-n // step) * step


@lru_cache(maxsize=64)
def frequencies(length: int) -> np.ndarray:
    """(length // 2 + 1,) float32 frequencies in Hz; the first is 1 and not 0, so that it may stand in a denominator."""
    return np.maximum(np.fft.rfftfreq(length, 1 / RATE), 1).astype(np.float32)


def shape(wave: np.ndarray, gain: Gain) -> np.ndarray:
    """(n,) wave filtered by an amplitude gain over frequency (zero phase, through one Fourier transform)."""
    length = fast_length(len(wave))
    spectrum = np.fft.rfft(wave.astype(np.float32, copy=False), length)
    spectrum *= gain(frequencies(length))
    return np.fft.irfft(spectrum, length)[: len(wave)]


def noise(rng: Generator, n: int, gain: Gain) -> np.ndarray:
    """(n,) Gaussian noise of the given colour, with standard deviation 1, drawn as a spectrum (Gaussian too)."""
    length = fast_length(n)
    spectrum = rng.standard_normal(2 * (length // 2 + 1), dtype=np.float32).view(np.complex64)
    spectrum *= gain(frequencies(length))
    wave = np.fft.irfft(spectrum, length)[:n]
    wave /= float(np.sqrt(np.dot(wave, wave) / n)) + 1e-9
    return wave


def band(low: float, high: float) -> Gain:
    """Passes low .. high Hz, with slopes of 24 dB an octave."""
    return lambda f: 1 / ((1 + (low / f) ** 4) * (1 + (f / high) ** 4))


def colour(slope: float, corner: float = 100.0) -> Gain:
    """Flat up to the corner (Hz), then f ** -slope: slope 0 is white, 0.5 pink, 1 brown."""
    return lambda f: (np.maximum(f, corner) / corner) ** np.float32(-slope)


def resonances(centres: np.ndarray, width: float) -> Gain:
    """Peaks at the centres (Hz), each `width` times its centre wide."""
    return lambda f: sum(1 / (1 + ((f - c) / (width * c)) ** 2) for c in centres.tolist()) + 0.03


def tone(frequency: float, n: int, decay: float = np.inf, phase: float = 0.0) -> np.ndarray:
    """(n,) sine of constant frequency (Hz), decaying to 1/e within `decay` seconds.

    It is the imaginary part of z ** k, and z ** (256 q + r) = (z ** 256) ** q * z ** r: an outer product of two short
    vectors, many times faster than a sine and an exponential a sample.
    """
    w = (2j * np.pi * frequency - 1 / decay) / RATE
    start = np.exp(1j * phase)
    coarse = start * np.exp(w * 256 * np.arange(-(-n // 256)))
    return np.outer(coarse.astype(np.complex64), np.exp(w * np.arange(256)).astype(np.complex64)).imag.ravel()[:n]


def harmonics(frequency: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """(n,) sum of sines at 1, 2, 3 ... times the gliding frequency (n,), in Hz; those beyond 7.8 kHz are left out."""
    turns = np.cumsum(frequency, dtype=np.float64) / RATE
    angle = np.float32(2 * np.pi) * (turns - np.floor(turns)).astype(np.float32)
    first = np.empty(len(angle), dtype=np.complex64)  # e ** (i angle), whose k-th power is the k-th harmonic
    first.real, first.imag = np.cos(angle), np.sin(angle)
    highest = float(frequency.max())
    power, wave = first, np.float32(amplitudes[0]) * first.imag
    for k, amplitude in enumerate(amplitudes[1:], start=2):
        if k * highest > 7800:
            break
        power = power * first
        wave += np.float32(amplitude) * power.imag
    return wave


def wander(rng: Generator, n: int, rate: float, low: float, high: float) -> np.ndarray:
    """(n,) a curve between low and high that takes a new random height `rate` times a second."""
    length = round(RATE / rate)
    heights = rng.uniform(low, high, -(-n // length) + 1).astype(np.float32)
    along = np.arange(length, dtype=np.float32) / length
    return (heights[:-1, None] + np.diff(heights)[:, None] * along).ravel()[:n]  # straight lines between the heights


def ramps(n: int, attack: float, release: float) -> np.ndarray:
    """(n,) envelope that rises linearly within `attack` and falls within `release` seconds, at 1 in between."""
    k = np.arange(n, dtype=np.float32) / RATE
    return np.clip(np.minimum(k / attack, (n / RATE - k) / release), 0, 1)


def beeps(n: int, on: float, off: float, group: int, pause: float, edge: float) -> np.ndarray:
    """(n,) envelope: open for `on` seconds, shut for `off`, and for `pause` more after each `group`; soft edges."""
    out, start, count = np.zeros(n, dtype=np.float32), 0.0, 0
    while start < n / RATE:
        part = out[round(start * RATE) : round((start + on) * RATE)]
        part[:] = ramps(len(part), edge, edge)
        count += 1
        start += on + off + (pause if count % group == 0 else 0.0)
    return out


def repeat(rng: Generator, n: int, hits: list[np.ndarray], interval: float, jitter: float, soft: float) -> np.ndarray:
    """(n,) the hits in turn every `interval` seconds, off by up to `jitter` of it (not the first), `soft` to 1 loud."""
    out = np.zeros(n, dtype=np.float32)
    for i in range(int(n / RATE / interval) + 1):
        start = max(0, int((i + jitter * rng.uniform(-1, 1) * (i > 0)) * interval * RATE))
        hit = hits[i % len(hits)][: max(0, n - start)]
        out[start : start + len(hit)] += rng.uniform(soft, 1) * hit
    return out
