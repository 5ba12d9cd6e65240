"""Struck and plucked sounds of the embedded corpus: drums, bells, strings, clicks and knocks.

Sources: bell partials, Rossing and Perrin, "Vibrations of bells" (1987); tubes, bars and forks, Fletcher and Rossing,
"The physics of musical instruments" (1998): free bars at 1 : 2.76 : 5.40 : 8.93, tubular bells at 81 : 121 : 169 : 225
over the strike note at 40.5, the clang of a fork 6.27 times its pitch; strings with stiffness, the same, chapter 2.
"""

from __future__ import annotations

import numpy as np

from psla.synth.event import event
from psla.synth.signals import RATE, Generator, band, harmonics, noise, repeat, resonances, tone


@event("/m/0bm02", seconds=(0.5, 1.6))
def bass_drum(rng: Generator, n: int) -> np.ndarray:
    """A head whose pitch falls as its tension eases, a second mode, and the thud of the beater."""
    low, decay = rng.uniform(38, 75), rng.uniform(0.08, 0.35)
    k = np.arange(min(n, round(5 * decay * RATE)), dtype=np.float32) / RATE
    glide = low * (1 + rng.uniform(0.3, 1.8) * np.exp(-k / rng.uniform(0.015, 0.05)))
    hit = harmonics(glide, np.array([1.0, rng.uniform(0.05, 0.3)])) * np.exp(-k / decay) * np.minimum(1, k / 0.002)
    thud = noise(rng, len(k), band(60, rng.uniform(500, 2500))) * np.exp(-k / rng.uniform(0.004, 0.015))
    return repeat(rng, n, [hit + rng.uniform(0.05, 0.35) * thud], rng.uniform(0.3, 0.9), 0.03, soft=0.6)


@event("/m/06rvn", seconds=(0.3, 1.4))
def snare_drum(rng: Generator, n: int) -> np.ndarray:
    """Two modes of the head, and the wires below it: a burst of bright noise that outlasts them. Single or rolled."""
    buzz, body, brightness = rng.uniform(0.04, 0.16), rng.uniform(160, 300), rng.uniform(0.3, 0.8)
    length = min(n, round(6 * buzz * RATE))
    head = tone(body, length, rng.uniform(0.02, 0.07))
    head = head + 0.6 * tone(body * rng.uniform(1.5, 1.9), length, rng.uniform(0.02, 0.05))
    wires = noise(rng, 4 * length, band(rng.uniform(900, 2200), rng.uniform(5000, 7800))).reshape(4, length)
    fall = brightness * np.exp(np.arange(length, dtype=np.float32) / (-buzz * RATE))
    gap = rng.uniform(0.06, 0.13) if rng.uniform() < 0.35 else rng.uniform(0.25, 0.8)
    return repeat(rng, n, [head + fall * rattle for rattle in wires], gap, 0.08, soft=0.6)


@event("/m/03qtq", seconds=(0.4, 1.6))
def hi_hat(rng: Generator, n: int) -> np.ndarray:
    """Two thin cymbals: noise above 5 kHz; shut it is gone at once, open it sizzles on; in even strokes."""
    bright = band(rng.uniform(5000, 6500), 9000)
    strokes = []
    for decay in (rng.uniform(0.015, 0.05), rng.uniform(0.015, 0.05) if rng.uniform() < 0.6 else rng.uniform(0.1, 0.3)):
        length = min(n, round(5 * decay * RATE))
        strokes.append(noise(rng, length, bright) * np.exp(np.arange(length, dtype=np.float32) / (-decay * RATE)))
    return repeat(rng, n, [strokes[0], strokes[0], strokes[0], strokes[1]], rng.uniform(0.12, 0.3), 0.04, soft=0.4)


@event("/m/03w41f", seconds=(1.0, 2.56))
def church_bell(rng: Generator, n: int) -> np.ndarray:
    """Hum, prime, minor third, fifth, nominal and above, each a pair that beats; the higher, the sooner gone."""
    prime, ring = rng.uniform(160, 520), rng.uniform(0.5, 1.6)
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0, 4.0, 5.2]) * rng.uniform(0.985, 1.015, 10)
    loud = np.array([0.5, 0.7, 0.9, 0.4, 1.0, 0.4, 0.4, 0.5, 0.4, 0.25]) * rng.uniform(0.4, 1, 10)
    bell = np.zeros(n, dtype=np.float32)
    for ratio, amplitude in zip(ratios.tolist(), loud.tolist(), strict=True):
        decay, split = ring * ratio**-0.8, rng.uniform(0.2, 2.5)
        if ratio * prime < 7800:
            bell += amplitude * tone(ratio * prime, n, decay, rng.uniform(0, 6))
            bell += 0.4 * amplitude * tone(ratio * prime + split, n, decay, rng.uniform(0, 6))
    clapper = np.exp(-np.arange(n, dtype=np.float32) / (RATE * rng.uniform(0.004, 0.012)))
    bell += rng.uniform(0.2, 0.6) * clapper * noise(rng, n, band(1200, 6000))
    return repeat(rng, n, [bell], rng.uniform(0.7, 2.0), 0.03, soft=0.6)


@event("/m/0f8s22", seconds=(1.5, 4.0))
def chime(rng: Generator, n: int) -> np.ndarray:
    """The tubes of a clock that chimes: a tune of four notes in even time, each note ringing into the next."""
    base, ring, loud = rng.uniform(260, 620), rng.uniform(0.35, 0.9), rng.uniform(0.4, 1, 4)
    fade = np.linspace(1, 0, round(3 * ring * RATE), dtype=np.float32)[:n]
    tubes = []
    for step in rng.permutation([1.0, 1.335, 1.498, 1.682]):  # the four notes of the Westminster quarters
        parts = zip((2.0, 2.99, 4.17, 5.56), loud, strict=True)  # twice 81 : 121 : 169 : 225 by 81
        ringing = [a * tone(base * step * r, len(fade), 2 * ring / r) for r, a in parts if base * step * r < 7800]
        tubes.append(np.sum(ringing, axis=0) * fade)
    return repeat(rng, n, tubes, rng.uniform(0.4, 0.75), 0.02, soft=0.7)


@event("/m/026fgl", background=True, seconds=(1.5, 5.0))
def wind_chime(rng: Generator, n: int) -> np.ndarray:
    """Tubes of five pitches, free at both ends, struck in gusts: at random times, in random order."""
    base = rng.uniform(800, 1600)
    fade, times = (
        np.linspace(1, 0, RATE, dtype=np.float32)[:n],
        rng.uniform(0, n / RATE, 1 + int(rng.uniform(2.5, 7) * n / RATE)),
    )
    times[0] = 0
    tubes = []
    for step in (1.0, 1.125, 1.25, 1.5, 1.667):
        decay = rng.uniform(0.25, 0.6)
        parts = [(1, 1.0), (2.756, rng.uniform(0.2, 0.6)), (5.404, rng.uniform(0.05, 0.3))]
        ringing = [a * tone(base * step * r, len(fade), decay / r) for r, a in parts if base * step * r < 7800]
        tubes.append(np.sum(ringing, axis=0) * fade)
    wave = np.zeros(n, dtype=np.float32)
    for start in (times * RATE).astype(int).tolist():
        wave[start : start + len(fade)] += rng.uniform(0.2, 1) * tubes[rng.integers(5)][: n - start]
    return wave


@event("/m/07phxs1", seconds=(0.6, 2.5))
def ding(rng: Generator, n: int) -> np.ndarray:
    """One stroke on a small bell: a high partial that rings long, two more above it, and the tap of the striker."""
    pitch, ring = rng.uniform(1200, 2800), rng.uniform(0.3, 0.9)
    wave = tone(pitch, n, ring) + 0.4 * tone(pitch * rng.uniform(1.001, 1.004), n, ring)
    for ratio in (rng.uniform(1.9, 2.4), rng.uniform(2.6, 3.4)):
        if ratio * pitch < 7800:
            wave = wave + rng.uniform(0.2, 0.6) * tone(ratio * pitch, n, ring / ratio**1.3, rng.uniform(0, 6))
    tap = np.exp(-np.arange(n, dtype=np.float32) / (RATE * 0.003))
    return wave + rng.uniform(0.1, 0.5) * tap * noise(rng, n, band(1500, 7000))


@event("/m/07n_g", seconds=(1.0, 3.0))
def tuning_fork(rng: Generator, n: int) -> np.ndarray:
    """A pure tone that dies away slowly, after the short clang of the second mode at 6.27 times its pitch."""
    pitch = rng.uniform(256, 900)
    wave = tone(pitch, n, rng.uniform(0.8, 2.5)) + rng.uniform(0, 0.08) * tone(2 * pitch, n, 0.5)
    return wave + rng.uniform(0.3, 0.9) * tone(pitch * rng.uniform(6.2, 6.35), n, rng.uniform(0.03, 0.09))


@event("/m/0342h", seconds=(0.8, 2.5))
def guitar(rng: Generator, n: int) -> np.ndarray:
    """Plucked strings, strummed as a chord or one after the other: stiff, so a little sharp above; high parts go first.

    A string plucked at the share p of its length lacks what has a node there: partial k has sin(pi k p) / k.
    """
    root, chord = rng.uniform(82, 250), [(0, 7, 12, 16), (0, 7, 12, 15), (0, 5, 9, 12)][rng.integers(3)]
    place, stiff, ring = rng.uniform(0.1, 0.35), rng.uniform(1e-5, 2e-4), rng.uniform(0.35, 1.0)
    interval = rng.uniform(0.01, 0.035) if rng.uniform() < 0.5 else rng.uniform(0.15, 0.4)
    wave, fade = np.zeros(n, dtype=np.float32), np.linspace(1, 0, round(3 * ring * RATE), dtype=np.float32)
    notes = rng.permutation(chord) if interval > 0.1 else chord
    for number in range(4 if interval < 0.1 else 1 + int(n / RATE / interval)):
        start, pitch = int(number * interval * RATE), root * 2 ** (notes[number % 4] / 12)
        if start >= n:
            break
        short = min(len(fade), n - start)
        for k in range(1, 9):
            strength = rng.uniform(0.6, 1) * np.sin(np.pi * k * place) / k
            partial = tone(k * pitch * np.sqrt(1 + stiff * k * k), short, ring / (1 + 0.3 * (k - 1)))
            wave[start : start + short] += np.float32(strength) * partial * fade[:short]
    return wave


@event("/m/07qjznt", seconds=(0.8, 2.5))
def tick(rng: Generator, n: int) -> np.ndarray:
    """The escapement of a clock: dry clicks in strict time, the tick and the tock with resonances of their own."""
    length = min(n, 1200)
    clicks = []
    for _ in range(2):
        modes = rng.uniform([1200, 2500, 4200], [2600, 4500, 7500])
        parts = [rng.uniform(0.3, 1) * tone(f, length, rng.uniform(0.0012, 0.006), rng.uniform(0, 6)) for f in modes]
        clicks.append(np.sum(parts, axis=0) + 0.3 * tone(rng.uniform(250, 700), length, 0.008))
    clicks[1] = clicks[1] * rng.uniform(0.3, 1)
    return repeat(rng, n, clicks, 1 / float(rng.choice([1, 2, 4, 5, 6])), 0.01, soft=0.9)


@event("/m/0c2wf", seconds=(1.0, 3.0))
def typewriter(rng: Generator, n: int) -> np.ndarray:
    """Keys in the uneven time of fingers: each a clack of type on paper over the thud of the carriage."""
    length, clacks = min(n, 1600), []
    for _ in range(5):
        strike = noise(rng, length, resonances(rng.uniform([1200, 3000], [3000, 6000]), rng.uniform(0.2, 0.5)))
        strike = strike * np.exp(-np.arange(length, dtype=np.float32) / (RATE * rng.uniform(0.004, 0.01)))
        clacks.append(strike + rng.uniform(0.2, 0.7) * tone(rng.uniform(120, 350), length, 0.015))
    return repeat(rng, n, clacks, rng.uniform(0.11, 0.22), 0.45, soft=0.4)


@event("/m/07r4wb8", seconds=(0.5, 2.0))
def knock(rng: Generator, n: int) -> np.ndarray:
    """Knuckles on a door: groups of two to five thuds, each the low modes of a wooden panel, soon damped."""
    interval, count, length = rng.uniform(0.13, 0.28), int(rng.integers(2, 6)), min(n, 2400)
    modes = rng.uniform([90, 200, 400], [180, 400, 900])
    thud = np.sum([rng.uniform(0.3, 1) * tone(f, length, rng.uniform(0.01, 0.035)) for f in modes], axis=0)
    tap = noise(rng, length, band(800, 3500)) * np.exp(-np.arange(length, dtype=np.float32) / (RATE * 0.003))
    group = repeat(
        rng, min(n, round(count * interval * RATE)), [thud + rng.uniform(0.1, 0.4) * tap], interval, 0.1, 0.6
    )
    return repeat(rng, n, [group], count * interval + rng.uniform(0.35, 0.8), 0.1, soft=0.7)
