"""Animals of the embedded corpus: insects, a frog, a songbird.

Sources: wing beats of mosquitoes, 400 to 700 Hz (Robert, "Insect bioacoustics" 2009); the rest by ear and spectrogram.
"""

from __future__ import annotations

import numpy as np

from psla.synth.signals import Generator, Signals, event, resonances


@event("/m/09xqv", seconds=(0.8, 2.5))
def cricket(rng: Generator, s: Signals) -> np.ndarray:
    """A pure high tone in syllables, each a stroke of the wings: grouped into chirps or as one long trill."""
    pitch, syllables = rng.uniform(3600, 5800), rng.uniform(22, 55)
    group = 10**6 if rng.uniform() < 0.3 else int(rng.integers(2, 6))
    on = rng.uniform(0.5, 0.7) / syllables
    song = s.beeps(on, 1 / syllables - on, group, rng.uniform(0.12, 0.4), edge=on / 3)
    glide = s.wander(rng, 2 * syllables, 0.985, 1.015) * pitch
    return s.harmonics(glide, np.array([1.0, 0.05])) * song


@event("/m/09f96", seconds=(0.8, 3.0))
def mosquito(rng: Generator, s: Signals) -> np.ndarray:
    """The wing beat, rich in harmonics and never quite in tune, coming near and going."""
    pitch = rng.uniform(400, 700) * s.wander(rng, 6, 0.96, 1.04)
    near = s.wander(rng, rng.uniform(1, 3), 0.15, 1)
    return s.harmonics(pitch, np.array([1, 0.8, 0.5, 0.4, 0.25, 0.15]) * rng.uniform(0.5, 1, 6)) * near * near


@event("/m/09ld4", seconds=(0.6, 2.0))
def frog(rng: Generator, s: Signals) -> np.ndarray:
    """Croaks: a train of 25 to 70 pulses a second through the two resonances of the throat and its sac."""
    croak, rest = rng.uniform(0.12, 0.45), rng.uniform(0.1, 0.5)
    cycles = np.cumsum(s.wander(rng, 5, 0.9, 1.1), dtype=np.float64) * (rng.uniform(25, 70) / s.rate)
    since = (cycles - np.floor(cycles)).astype(np.float32)
    pulse = np.exp(-since * rng.uniform(15, 40)) * (1 + rng.uniform(0.1, 0.5) * s.white(rng))
    throat = resonances(rng.uniform([350, 1100], [900, 2400]), rng.uniform(0.06, 0.15))
    return s.shape(pulse, lambda f: throat(f) / (1 + (150 / f) ** 4)) * s.beeps(croak, rest, 10**6, 0, edge=0.015)


@event("/m/07pggtn", seconds=(0.5, 2.0))
def bird(rng: Generator, s: Signals) -> np.ndarray:
    """A songbird's phrase: one quick syllable, sweeping up, down or over an arch, again and again with rests."""
    length, gap = rng.uniform(0.04, 0.14), rng.uniform(0.02, 0.1)
    since = (np.arange(s.n, dtype=np.float32) / np.float32(s.rate * (length + gap))) % 1 * np.float32(1 + gap / length)
    since = np.minimum(since, 1)  # along the syllable
    sweep = [since, 1 - since, 4 * since * (1 - since)][rng.integers(3)]
    pitch = rng.uniform(2200, 4200) * (1 + rng.uniform(0.15, 0.6) * sweep) * s.wander(rng, 8, 0.97, 1.03)
    song = s.beeps(length, gap, int(rng.integers(3, 9)), 0, edge=length / 4)
    phrase = s.beeps(int(rng.integers(3, 7)) * (length + gap), rng.uniform(0.15, 0.5), 10**6, 0, edge=0.002)
    return s.harmonics(pitch, np.array([1, rng.uniform(0, 0.15)])) * song * phrase
