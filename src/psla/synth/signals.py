"""Signals that the embedded corpus is made of, and what makes an event of them; numpy, at any rate from 16 kHz up.

An event is written once, in seconds and Hz, and is the same sound at every rate: what is drawn (pitch, rhythm, decay)
does not depend on the rate, and neither does noise below 8 kHz. For that, random signals are drawn on a grid of
62.5 microseconds; what a faster rate holds above 8 kHz is drawn from a generator of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

GRID = 1 / 62.5e-6
"""Random values drawn for a second of noise at every rate: half of it, in Hz, is where noise is the same at all."""

Generator = np.random.Generator
Gain = Callable[[np.ndarray], np.ndarray]


@lru_cache(maxsize=64)
def frequencies(length: int, rate: float) -> np.ndarray:
    """(length // 2 + 1,) float32 frequencies in Hz; the first is 1 and not 0, so that it may stand in a denominator."""
    return np.maximum(np.fft.rfftfreq(length, 1 / rate), 1).astype(np.float32)


def fast_length(n: int) -> int:
    """The next length that a fast Fourier transform likes: even, 8 to 16 times a power of two."""
    step = 1 << max(1, n.bit_length() - 4)
    return -(-n // step) * step


def band(low: float, high: float) -> Gain:
    """Passes low .. high Hz, with slopes of 24 dB an octave."""
    return lambda f: 1 / ((1 + (low / f) ** 4) * (1 + (f / high) ** 4))


def colour(slope: float, corner: float = 100.0) -> Gain:
    """Flat up to the corner (Hz), then f ** -slope: slope 0 is white, 0.5 pink, 1 brown."""
    return lambda f: (np.maximum(f, corner) / corner) ** np.float32(-slope)


def resonances(centres: np.ndarray, width: float) -> Gain:
    """Peaks at the centres (Hz), each `width` times its centre wide."""
    return lambda f: sum(1 / (1 + ((f - c) / (width * c)) ** 2) for c in centres.tolist()) + 0.03


@dataclass(frozen=True)
class Signals:
    """Signals of one length at one rate: every method gives (n,) samples, or says otherwise.

    Attributes:
        n: samples.
        rate: of them, in Hz.
        grid: random values of noise as long: `GRID` a second.

    Example:
        >>> half = Signals.lasting(0.5, 32000)
        >>> half.n, half.part(0.1).tone(440.0).shape
        (16000, (3200,))
    """

    n: int
    rate: int
    grid: int

    @classmethod
    def lasting(cls, seconds: float, rate: int) -> Signals:
        """Signals of so many seconds.

        Raises:
            ValueError: a rate below that of the grid.
        """
        if rate < GRID:
            raise ValueError(f"sound is synthesised at {GRID:.0f} Hz or more, not at {rate}; resample it instead")
        return cls(round(seconds * rate), rate, round(seconds * GRID))

    def part(self, seconds: float) -> Signals:
        """Signals of so many seconds, but not longer than these."""
        part = Signals.lasting(seconds, self.rate)
        return part if part.n < self.n else self

    @property
    def seconds(self) -> float:
        """How long they last, the same at every rate."""
        return self.grid / GRID

    @cached_property
    def k(self) -> np.ndarray:
        """float32 time of each sample in seconds."""
        return np.arange(self.n, dtype=np.float32) / self.rate

    def fall(self, decay: float) -> np.ndarray:
        """From 1 to 1/e within `decay` seconds, and so on."""
        return np.exp(np.arange(self.n, dtype=np.float32) / (-decay * self.rate))

    def shape(self, wave: np.ndarray, gain: Gain) -> np.ndarray:
        """The wave (n,) filtered by an amplitude gain over frequency (zero phase, through one Fourier transform)."""
        length = fast_length(len(wave))
        spectrum = np.fft.rfft(wave.astype(np.float32, copy=False), length)
        spectrum *= gain(frequencies(length, self.rate))
        return np.fft.irfft(spectrum, length)[: len(wave)]

    def white(self, rng: Generator) -> np.ndarray:
        """Gaussian noise, with standard deviation 1 below 8 kHz and the same density above."""
        wave = rng.standard_normal(self.grid, dtype=np.float32)
        if self.rate == GRID:
            return wave
        level = np.float32(np.sqrt(self.grid / 2))  # of the spectrum of white noise
        return self._raised(rng, np.fft.rfft(wave), self.grid, lambda f: np.full_like(f, level), self.n)

    def noise(self, rng: Generator, gain: Gain, count: int = 1) -> np.ndarray:
        """Gaussian noise of a colour, with standard deviation 1 below 8 kHz, drawn as a spectrum (Gaussian too).

        Shape: (n,), or (count, n) where more than one are asked for.
        """
        n = count * self.grid
        length = fast_length(n)
        spectrum = _normal(rng, length // 2 + 1)
        spectrum *= gain(frequencies(length, GRID))
        wave = np.fft.irfft(spectrum, length)[:n]
        level = float(np.sqrt(np.dot(wave, wave) / n)) + 1e-9
        if self.rate != GRID:
            wave = self._raised(rng, spectrum, length, gain, count * self.n)
        wave /= level
        return wave if count == 1 else wave.reshape(count, self.n)

    def _raised(self, rng: Generator, low: np.ndarray, length: int, gain: Gain, n: int) -> np.ndarray:
        """(n,) from the spectrum of `length` points on the grid, with noise of the same colour above its end."""
        longer = round(length * self.rate / GRID)
        f = frequencies(longer, self.rate)[len(low) :]
        high = _normal(rng.spawn(1)[0], len(f)) * gain(f)
        wave = np.fft.irfft(np.concatenate([low, high]), longer) * np.float32(longer / length)
        return np.resize(wave, n)  # it is periodic, should it be a sample too short

    def tone(self, frequency: float, decay: float = np.inf, phase: float = 0.0) -> np.ndarray:
        """A sine of constant frequency (Hz), decaying to 1/e within `decay` seconds.

        It is the imaginary part of z ** k, and z ** (256 q + r) = (z ** 256) ** q * z ** r: an outer product of two
        short vectors, many times faster than a sine and an exponential a sample.
        """
        w = (2j * np.pi * frequency - 1 / decay) / self.rate
        start = np.exp(1j * phase)
        coarse = start * np.exp(w * 256 * np.arange(-(-self.n // 256)))
        fine = np.exp(w * np.arange(256)).astype(np.complex64)
        return np.outer(coarse.astype(np.complex64), fine).imag.ravel()[: self.n]

    def harmonics(self, frequency: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
        """Sines at 1, 2, 3 ... times the gliding frequency (n,) in Hz; those near or beyond half the rate are out."""
        turns = np.cumsum(frequency, dtype=np.float64) / self.rate
        angle = np.float32(2 * np.pi) * (turns - np.floor(turns)).astype(np.float32)
        first = np.empty(len(angle), dtype=np.complex64)  # e ** (i angle), whose k-th power is the k-th harmonic
        first.real, first.imag = np.cos(angle), np.sin(angle)
        highest = float(frequency.max())
        power, wave = first, np.float32(amplitudes[0]) * first.imag
        for k, amplitude in enumerate(amplitudes[1:], start=2):
            if k * highest > 0.4875 * self.rate:
                break
            power = power * first
            wave += np.float32(amplitude) * power.imag
        return wave

    def wander(self, rng: Generator, often: float, low: float, high: float) -> np.ndarray:
        """A curve between low and high that takes a new random height `often` times a second."""
        count = -(-self.grid // round(GRID / often))
        heights = rng.uniform(low, high, count + 1).astype(np.float32)
        length = max(round(self.rate / often), -(-self.n // count))
        along = np.arange(length, dtype=np.float32) / length
        straight = heights[:-1, None] + np.diff(heights)[:, None] * along  # lines between the heights
        return straight.ravel()[: self.n]

    def ramps(self, attack: float, release: float) -> np.ndarray:
        """Envelope that rises linearly within `attack` and falls within `release` seconds, at 1 in between."""
        return np.clip(np.minimum(self.k / attack, (self.n / self.rate - self.k) / release), 0, 1)

    def beeps(self, on: float, off: float, group: int, pause: float, edge: float) -> np.ndarray:
        """Envelope: open for `on` seconds, shut for `off`, and for `pause` more after each `group`; soft edges."""
        out, start, count = np.zeros(self.n, dtype=np.float32), 0.0, 0
        while start < self.n / self.rate:
            part = out[round(start * self.rate) : round((start + on) * self.rate)]
            part[:] = Signals(len(part), self.rate, 0).ramps(edge, edge)
            count += 1
            start += on + off + (pause if count % group == 0 else 0.0)
        return out

    def repeat(self, rng: Generator, hits: list[np.ndarray], interval: float, jitter: float, soft: float) -> np.ndarray:
        """The hits in turn every `interval` seconds, off by up to `jitter` of it (not the first), `soft` to 1 loud."""
        out = np.zeros(self.n, dtype=np.float32)
        for i in range(int(self.seconds / interval) + 1):
            start = max(0, int((i + jitter * rng.uniform(-1, 1) * (i > 0)) * interval * self.rate))
            hit = hits[i % len(hits)][: max(0, self.n - start)]
            out[start : start + len(hit)] += rng.uniform(soft, 1) * hit
        return out


def _normal(rng: Generator, length: int) -> np.ndarray:
    """(length,) complex64 Gaussian noise: its two parts have standard deviation 1."""
    return rng.standard_normal(2 * length, dtype=np.float32).view(np.complex64)


Model = Callable[[Generator, Signals], np.ndarray]
"""(generator, signals of the length wanted) -> (samples,) waveform of any level."""


@dataclass(frozen=True)
class Event:
    """A class of sound events; calling it gives one instance.

    Attributes:
        class_id: AudioSet class id.
        background: whether the sound lasts (rain) rather than happens (a stroke of a bell).
        seconds: shortest and longest duration of an instance, in seconds.
        draw: the model.

    Example:
        >>> hum = Event("/m/07rcgpl", False, (0.5, 1.0), lambda rng, s: s.tone(rng.uniform(90, 110)))
        >>> hum(np.random.default_rng(0), 0.5, 16000).shape
        (8000,)
    """

    class_id: str
    background: bool
    seconds: tuple[float, float]
    draw: Model

    def __call__(self, rng: Generator, seconds: float, rate: int) -> np.ndarray:
        """One instance: (round(seconds * rate),) float32, highest magnitude 1, faded out over 5 ms.

        Raises:
            ValueError: less than 0.05 s, or a rate that `Signals` refuses.
        """
        if not seconds >= 0.05:
            raise ValueError(f"a sound event lasts at least 0.05 s; got {seconds}")
        wave = np.array(self.draw(rng, Signals.lasting(seconds, rate)), dtype=np.float32)  # (n,)
        fade = round(0.005 * rate)
        wave[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        wave /= max(float(wave.max()), -float(wave.min()), 1e-9)
        return wave


ENTERED: dict[str, Event] = {}
"""Every sound that `event` has entered, by AudioSet class id, in no order that means anything."""


def event(
    class_id: str, background: bool = False, seconds: tuple[float, float] = (0.6, 1.8)
) -> Callable[[Model], Event]:
    """Makes the function below it an `Event` and enters it in `ENTERED`.

    Raises:
        ValueError: a class that already has its sound.
    """

    def enter(draw: Model) -> Event:
        if class_id in ENTERED:
            raise ValueError(f"class {class_id!r} has two sounds: {ENTERED[class_id].draw.__name__}, {draw.__name__}")
        ENTERED[class_id] = Event(class_id, background, seconds, draw)
        return ENTERED[class_id]

    return enter
