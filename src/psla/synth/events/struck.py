"""Struck and plucked sounds of the embedded corpus: drums, bells, strings, clicks and knocks.

Sources: bell partials, Rossing and Perrin, "Vibrations of bells" (1987); tubes, bars and forks, Fletcher and Rossing,
"The physics of musical instruments" (1998): free bars at 1 : 2.76 : 5.40 : 8.93, tubular bells at 81 : 121 : 169 : 225
over the strike note at 40.5, the clang of a fork 6.27 times its pitch; strings with stiffness, the same, chapter 2.
"""

from __future__ import annotations

import numpy as np

from psla.synth.signals import Generator, Signals, band, event, resonances


@event("/m/0bm02", seconds=(0.5, 1.6))
def bass_drum(rng: Generator, s: Signals) -> np.ndarray:
    """A head whose pitch falls as its tension eases, a second mode, and the thud of the beater."""
    low, decay = rng.uniform(38, 75), rng.uniform(0.08, 0.35)
    stroke = s.part(5 * decay)
    k = stroke.k
    glide = low * (1 + rng.uniform(0.3, 1.8) * np.exp(-k / rng.uniform(0.015, 0.05)))
    hit = stroke.harmonics(glide, np.array([1.0, rng.uniform(0.05, 0.3)]))
    hit = hit * np.exp(-k / decay) * np.minimum(1, k / 0.002)
    thud = stroke.noise(rng, band(60, rng.uniform(500, 2500))) * np.exp(-k / rng.uniform(0.004, 0.015))
    return s.repeat(rng, [hit + rng.uniform(0.05, 0.35) * thud], rng.uniform(0.3, 0.9), 0.03, soft=0.6)


@event("/m/06rvn", seconds=(0.3, 1.4))
def snare_drum(rng: Generator, s: Signals) -> np.ndarray:
    """Two modes of the head, and the wires below it: a burst of bright noise that outlasts them. Single or rolled."""
    buzz, body, brightness = rng.uniform(0.04, 0.16), rng.uniform(160, 300), rng.uniform(0.3, 0.8)
    hit = s.part(6 * buzz)
    head = hit.tone(body, rng.uniform(0.02, 0.07))
    head = head + 0.6 * hit.tone(body * rng.uniform(1.5, 1.9), rng.uniform(0.02, 0.05))
    wires = hit.noise(rng, band(rng.uniform(900, 2200), rng.uniform(5000, 7800)), count=4)
    fall = brightness * hit.fall(buzz)
    gap = rng.uniform(0.06, 0.13) if rng.uniform() < 0.35 else rng.uniform(0.25, 0.8)
    return s.repeat(rng, [head + fall * rattle for rattle in wires], gap, 0.08, soft=0.6)


@event("/m/03qtq", seconds=(0.4, 1.6))
def hi_hat(rng: Generator, s: Signals) -> np.ndarray:
    """Two thin cymbals: noise above 5 kHz; shut it is gone at once, open it sizzles on; in even strokes."""
    bright = band(rng.uniform(5000, 6500), 9000)
    strokes = []
    for decay in (rng.uniform(0.015, 0.05), rng.uniform(0.015, 0.05) if rng.uniform() < 0.6 else rng.uniform(0.1, 0.3)):
        stroke = s.part(5 * decay)
        strokes.append(stroke.noise(rng, bright) * stroke.fall(decay))
    return s.repeat(rng, [strokes[0], strokes[0], strokes[0], strokes[1]], rng.uniform(0.12, 0.3), 0.04, soft=0.4)


@event("/m/03w41f", seconds=(1.0, 2.56))
def church_bell(rng: Generator, s: Signals) -> np.ndarray:
    """Hum, prime, minor third, fifth, nominal and above, each a pair that beats; the higher, the sooner gone."""
    prime, ring = rng.uniform(160, 520), rng.uniform(0.5, 1.6)
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0, 4.0, 5.2]) * rng.uniform(0.985, 1.015, 10)
    loud = np.array([0.5, 0.7, 0.9, 0.4, 1.0, 0.4, 0.4, 0.5, 0.4, 0.25]) * rng.uniform(0.4, 1, 10)
    bell = np.zeros(s.n, dtype=np.float32)
    for ratio, amplitude in zip(ratios.tolist(), loud.tolist(), strict=True):
        decay, split = ring * ratio**-0.8, rng.uniform(0.2, 2.5)
        if ratio * prime < 7800:
            bell += amplitude * s.tone(ratio * prime, decay, rng.uniform(0, 6))
            bell += 0.4 * amplitude * s.tone(ratio * prime + split, decay, rng.uniform(0, 6))
    clapper = s.fall(rng.uniform(0.004, 0.012))
    bell += rng.uniform(0.2, 0.6) * clapper * s.noise(rng, band(1200, 6000))
    return s.repeat(rng, [bell], rng.uniform(0.7, 2.0), 0.03, soft=0.6)


@event("/m/0f8s22", seconds=(1.5, 4.0))
def chime(rng: Generator, s: Signals) -> np.ndarray:
    """The tubes of a clock that chimes: a tune of four notes in even time, each note ringing into the next."""
    base, ring, loud = rng.uniform(260, 620), rng.uniform(0.35, 0.9), rng.uniform(0.4, 1, 4)
    note = s.part(3 * ring)
    fade = np.linspace(1, 0, round(3 * ring * s.rate), dtype=np.float32)[: note.n]
    tubes = []
    for step in rng.permutation([1.0, 1.335, 1.498, 1.682]):  # the four notes of the Westminster quarters
        parts = zip((2.0, 2.99, 4.17, 5.56), loud, strict=True)  # twice 81 : 121 : 169 : 225 by 81
        ringing = [a * note.tone(base * step * r, 2 * ring / r) for r, a in parts if base * step * r < 7800]
        tubes.append(np.sum(ringing, axis=0) * fade)
    return s.repeat(rng, tubes, rng.uniform(0.4, 0.75), 0.02, soft=0.7)


@event("/m/026fgl", background=True, seconds=(1.5, 5.0))
def wind_chime(rng: Generator, s: Signals) -> np.ndarray:
    """Tubes of five pitches, free at both ends, struck in gusts: at random times, in random order."""
    base = rng.uniform(800, 1600)
    note, times = s.part(1.0), rng.uniform(0, s.seconds, 1 + int(rng.uniform(2.5, 7) * s.seconds))
    fade = np.linspace(1, 0, s.rate, dtype=np.float32)[: note.n]
    times[0] = 0
    tubes = []
    for step in (1.0, 1.125, 1.25, 1.5, 1.667):
        decay = rng.uniform(0.25, 0.6)
        parts = [(1, 1.0), (2.756, rng.uniform(0.2, 0.6)), (5.404, rng.uniform(0.05, 0.3))]
        ringing = [a * note.tone(base * step * r, decay / r) for r, a in parts if base * step * r < 7800]
        tubes.append(np.sum(ringing, axis=0) * fade)
    wave = np.zeros(s.n, dtype=np.float32)
    for start in (times * s.rate).astype(int).clip(max=s.n - 1).tolist():
        wave[start : start + note.n] += rng.uniform(0.2, 1) * tubes[rng.integers(5)][: s.n - start]
    return wave


@event("/m/07phxs1", seconds=(0.6, 2.5))
def ding(rng: Generator, s: Signals) -> np.ndarray:
    """One stroke on a small bell: a high partial that rings long, two more above it, and the tap of the striker."""
    pitch, ring = rng.uniform(1200, 2800), rng.uniform(0.3, 0.9)
    wave = s.tone(pitch, ring) + 0.4 * s.tone(pitch * rng.uniform(1.001, 1.004), ring)
    for ratio in (rng.uniform(1.9, 2.4), rng.uniform(2.6, 3.4)):
        if ratio * pitch < 7800:
            wave = wave + rng.uniform(0.2, 0.6) * s.tone(ratio * pitch, ring / ratio**1.3, rng.uniform(0, 6))
    return wave + rng.uniform(0.1, 0.5) * s.fall(0.003) * s.noise(rng, band(1500, 7000))


@event("/m/07n_g", seconds=(1.0, 3.0))
def tuning_fork(rng: Generator, s: Signals) -> np.ndarray:
    """A pure tone that dies away slowly, after the short clang of the second mode at 6.27 times its pitch."""
    pitch = rng.uniform(256, 900)
    wave = s.tone(pitch, rng.uniform(0.8, 2.5)) + rng.uniform(0, 0.08) * s.tone(2 * pitch, 0.5)
    return wave + rng.uniform(0.3, 0.9) * s.tone(pitch * rng.uniform(6.2, 6.35), rng.uniform(0.03, 0.09))


@event("/m/0342h", seconds=(0.8, 2.5))
def guitar(rng: Generator, s: Signals) -> np.ndarray:
    """Plucked strings, strummed as a chord or one after the other: stiff, so a little sharp above; high parts go first.

    A string plucked at the share p of its length lacks what has a node there: partial k has sin(pi k p) / k.
    """
    root, chord = rng.uniform(82, 250), [(0, 7, 12, 16), (0, 7, 12, 15), (0, 5, 9, 12)][rng.integers(3)]
    place, stiff, ring = rng.uniform(0.1, 0.35), rng.uniform(1e-5, 2e-4), rng.uniform(0.35, 1.0)
    interval = rng.uniform(0.01, 0.035) if rng.uniform() < 0.5 else rng.uniform(0.15, 0.4)
    wave, fade = np.zeros(s.n, dtype=np.float32), np.linspace(1, 0, round(3 * ring * s.rate), dtype=np.float32)
    string = s.part(3 * ring)
    notes = rng.permutation(chord) if interval > 0.1 else chord
    for number in range(4 if interval < 0.1 else 1 + int(s.seconds / interval)):
        start, pitch = int(number * interval * s.rate), root * 2 ** (notes[number % 4] / 12)
        if start >= s.n:
            break
        short = min(string.n, s.n - start)
        for k in range(1, 9):
            strength = rng.uniform(0.6, 1) * np.sin(np.pi * k * place) / k
            partial = string.tone(k * pitch * np.sqrt(1 + stiff * k * k), ring / (1 + 0.3 * (k - 1)))[:short]
            wave[start : start + short] += np.float32(strength) * partial * fade[:short]
    return wave


@event("/m/07qjznt", seconds=(0.8, 2.5))
def tick(rng: Generator, s: Signals) -> np.ndarray:
    """The escapement of a clock: dry clicks in strict time, the tick and the tock with resonances of their own."""
    click = s.part(0.075)
    clicks = []
    for _ in range(2):
        modes = rng.uniform([1200, 2500, 4200], [2600, 4500, 7500])
        parts = [rng.uniform(0.3, 1) * click.tone(f, rng.uniform(0.0012, 0.006), rng.uniform(0, 6)) for f in modes]
        clicks.append(np.sum(parts, axis=0) + 0.3 * click.tone(rng.uniform(250, 700), 0.008))
    clicks[1] = clicks[1] * rng.uniform(0.3, 1)
    return s.repeat(rng, clicks, 1 / float(rng.choice([1, 2, 4, 5, 6])), 0.01, soft=0.9)


@event("/m/0c2wf", seconds=(1.0, 3.0))
def typewriter(rng: Generator, s: Signals) -> np.ndarray:
    """Keys in the uneven time of fingers: each a clack of type on paper over the thud of the carriage."""
    key, clacks = s.part(0.1), []
    for _ in range(5):
        strike = key.noise(rng, resonances(rng.uniform([1200, 3000], [3000, 6000]), rng.uniform(0.2, 0.5)))
        strike = strike * key.fall(rng.uniform(0.004, 0.01))
        clacks.append(strike + rng.uniform(0.2, 0.7) * key.tone(rng.uniform(120, 350), 0.015))
    return s.repeat(rng, clacks, rng.uniform(0.11, 0.22), 0.45, soft=0.4)


@event("/m/07r4wb8", seconds=(0.5, 2.0))
def knock(rng: Generator, s: Signals) -> np.ndarray:
    """Knuckles on a door: groups of two to five thuds, each the low modes of a wooden panel, soon damped."""
    interval, count, one = rng.uniform(0.13, 0.28), int(rng.integers(2, 6)), s.part(0.15)
    modes = rng.uniform([90, 200, 400], [180, 400, 900])
    thud = np.sum([rng.uniform(0.3, 1) * one.tone(f, rng.uniform(0.01, 0.035)) for f in modes], axis=0)
    tap = one.noise(rng, band(800, 3500)) * one.fall(0.003)
    group = s.part(count * interval).repeat(rng, [thud + rng.uniform(0.1, 0.4) * tap], interval, 0.1, 0.6)
    return s.repeat(rng, [group], count * interval + rng.uniform(0.35, 0.8), 0.1, soft=0.7)
