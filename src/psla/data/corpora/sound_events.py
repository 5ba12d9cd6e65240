"""The sounds of the embedded corpus: one function an AudioSet class, each a small physical model in numpy.

Every call draws the physics anew (pitch, rate, decay, partials, modulation, colour), so that two instances differ as
two recordings do, while what defines the class stays: a bell has the partials of a bell, an alarm its pattern. To add a
class, write a function `(rng, n) -> (n,) waveform` under `@event(class id)`. The order in this file is the order of
`EVENTS`, which the soundscapes take from the most to the least frequent class.

Not covered: spatial position, speech and anything else that needs recordings.
Sources: bell partials, Rossing and Perrin, "Vibrations of bells" (1987); alarm pattern, ISO 8201 (three pulses and a
pause); dial tones, ITU-T E.180 supplement 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from psla.data.corpora.signals import (
    RATE,
    Generator,
    band,
    beeps,
    colour,
    harmonics,
    noise,
    ramps,
    repeat,
    resonances,
    shape,
    tone,
    wander,
)


@dataclass(frozen=True)
class Event:
    """A class of sound events; calling it gives one instance.

    Attributes:
        class_id: AudioSet class id.
        background: whether the sound lasts (rain) rather than happens (a stroke of a bell).
        seconds: shortest and longest duration of an instance, in seconds.
        draw: the model: (generator, samples) -> (samples,) waveform of any level.

    Example:
        >>> EVENTS["/m/015jpf"](np.random.default_rng(0), 0.5).shape
        (8000,)
    """

    class_id: str
    background: bool
    seconds: tuple[float, float]
    draw: Callable[[Generator, int], np.ndarray]

    def __call__(self, rng: Generator, seconds: float) -> np.ndarray:
        """One instance: (round(seconds * 16000),) float32 at 16 kHz, highest magnitude 1, faded out over 5 ms.

        Raises:
            ValueError: less than 0.05 s.
        """
        if not seconds >= 0.05:
            raise ValueError(f"a sound event lasts at least 0.05 s; got {seconds}")
        n = round(seconds * RATE)
        wave = np.array(self.draw(rng, n), dtype=np.float32)  # (n,)
        wave[-80:] *= np.linspace(1, 0, 80, dtype=np.float32)
        wave /= max(float(wave.max()), -float(wave.min()), 1e-9)
        return wave


EVENTS: dict[str, Event] = {}
"""The sound events by AudioSet class id."""


def event(
    class_id: str, background: bool = False, seconds: tuple[float, float] = (0.6, 1.8)
) -> Callable[[Callable[[Generator, int], np.ndarray]], Event]:
    """Enters the function below it in `EVENTS`.

    Raises:
        ValueError: a class that already has its sound.
    """

    def enter(draw: Callable[[Generator, int], np.ndarray]) -> Event:
        if class_id in EVENTS:
            raise ValueError(f"class {class_id!r} has two sounds: {EVENTS[class_id].draw.__name__}, {draw.__name__}")
        EVENTS[class_id] = Event(class_id, background, seconds, draw)
        return EVENTS[class_id]

    return enter


@event("/m/06mb1", background=True, seconds=(1.5, 8.0))
def rain(rng: Generator, n: int) -> np.ndarray:
    """Drops at random times and of random size, upon the hiss of those too far away to be told apart."""
    drops = rng.integers(0, n, max(1, int(rng.uniform(80, 700) * n / RATE)))
    impulses = np.zeros(n, dtype=np.float32)
    np.add.at(impulses, drops, rng.exponential(1.0, len(drops)).astype(np.float32))
    near = shape(impulses, resonances(rng.uniform(900, 6500, 3), rng.uniform(0.15, 0.5)))
    far = noise(rng, n, band(rng.uniform(300, 1500), rng.uniform(4000, 7500)))
    return near / (near.std() + 1e-9) * rng.uniform(0.3, 1.2) + far


@event("/m/02mk9", background=True, seconds=(1.2, 6.0))
def engine(rng: Generator, n: int) -> np.ndarray:
    """A pulse of pressure a firing, cylinders unlike each other, coloured by the exhaust; speed steady or rising."""
    cylinders = int(rng.choice([1, 2, 3, 4, 6]))
    last = rng.uniform(0.7, 1.6) if rng.uniform() < 0.5 else 1.0
    firing = wander(rng, n, 8, 0.97, 1.03) * np.linspace(1, last, n, dtype=np.float32)
    cycles = np.cumsum(firing, dtype=np.float64) * (rng.uniform(18, 45) * rng.uniform(1, 2.5) / RATE)
    count = cycles.astype(np.int32)  # firings so far
    since = (cycles - count).astype(np.float32)  # share of the period since the last firing
    strength = rng.uniform(0.6, 1, cylinders).astype(np.float32)[count % cylinders]
    pulse = strength * np.exp(-since * rng.uniform(6, 20))
    hiss = rng.standard_normal(n, dtype=np.float32) * rng.uniform(0.05, 0.4)
    exhaust = resonances(rng.uniform([60, 200, 700], [160, 600, 2500]), rng.uniform(0.2, 0.6))
    return shape(pulse * (1 + hiss), lambda f: exhaust(f) / (1 + (30 / f) ** 4)) * ramps(n, 0.05, 0.1)


@event("/m/0bm02", seconds=(0.5, 1.6))
def bass_drum(rng: Generator, n: int) -> np.ndarray:
    """A head whose pitch falls as its tension eases, a second mode, and the thud of the beater."""
    low, decay = rng.uniform(38, 75), rng.uniform(0.08, 0.35)
    k = np.arange(min(n, round(5 * decay * RATE)), dtype=np.float32) / RATE
    glide = low * (1 + rng.uniform(0.3, 1.8) * np.exp(-k / rng.uniform(0.015, 0.05)))
    hit = harmonics(glide, np.array([1.0, rng.uniform(0.05, 0.3)])) * np.exp(-k / decay) * np.minimum(1, k / 0.002)
    thud = noise(rng, len(k), band(60, rng.uniform(500, 2500))) * np.exp(-k / rng.uniform(0.004, 0.015))
    return repeat(rng, n, [hit + rng.uniform(0.05, 0.35) * thud], rng.uniform(0.3, 0.9), 0.03, soft=0.6)


@event("/m/03m9d0z", background=True, seconds=(1.5, 8.0))
def wind(rng: Generator, n: int) -> np.ndarray:
    """A low rumble in gusts; edges begin to whistle as a gust grows, at a pitch that rises with its speed."""
    gust = wander(rng, n, rng.uniform(0.8, 2.5), 0.15, 1)
    rumble = noise(rng, n, colour(rng.uniform(0.9, 1.5), rng.uniform(80, 250)))
    pitch = rng.uniform(250, 700)
    slow = noise(rng, n, resonances(np.array([pitch]), rng.uniform(0.06, 0.15)))
    fast = noise(rng, n, resonances(np.array([pitch * rng.uniform(1.2, 1.6)]), rng.uniform(0.06, 0.15)))
    howl = gust * (slow * (1 - gust) * 2 + fast * gust * gust)
    return rumble * gust + rng.uniform(0.1, 0.9) * howl


@event("/m/03kmc9", seconds=(1.0, 2.5))
def siren(rng: Generator, n: int) -> np.ndarray:
    """One pitch gliding up and down slowly (wail) or fast (yelp), or two tones in turn (hi-lo), through a horn."""
    k = np.arange(n) / RATE
    low = rng.uniform(400, 750)
    high = low * rng.uniform(1.6, 2.4)
    kind = rng.choice(["wail", "yelp", "hi-lo"])
    if kind == "hi-lo":
        high = low * rng.uniform(1.25, 1.5)
        turn = np.floor(k * rng.uniform(1.2, 3) + rng.uniform()) % 2
    else:
        rate = rng.uniform(0.25, 0.7) if kind == "wail" else rng.uniform(2, 5)
        cycle = (k * rate + rng.uniform()) % 1
        rise = rng.uniform(0.4, 0.7)  # share of the cycle in which the pitch rises
        turn = np.where(cycle < rise, cycle / rise, (1 - cycle) / (1 - rise)) ** rng.uniform(0.6, 1.2)
    wave = harmonics(low + (high - low) * turn, np.arange(1, 8) ** -rng.uniform(0.6, 1.8))
    return shape(wave, resonances(rng.uniform([500, 1200], [1200, 3000]), rng.uniform(0.4, 0.9))) * ramps(n, 0.03, 0.05)


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


@event("/m/034srq", background=True, seconds=(2.0, 8.0))
def waves(rng: Generator, n: int) -> np.ndarray:
    """Breakers: each rises, breaks with a bright crash and runs out in a hiss of foam; the next one over the rumble."""
    k = np.arange(n, dtype=np.float32) / RATE
    period, steep = rng.uniform(1.6, 4.0), rng.uniform(0.15, 0.4)
    cycle = (k / period + rng.uniform()) % 1
    swell = np.where(cycle < steep, (cycle / steep) ** 2, np.exp(-(cycle - steep) * rng.uniform(2.5, 5)))
    deep = noise(rng, n, colour(rng.uniform(0.6, 1.0), rng.uniform(100, 300)))
    foam = noise(rng, n, band(rng.uniform(500, 1200), rng.uniform(3500, 7000)))
    return deep * (0.25 + swell) + rng.uniform(0.5, 1.2) * foam * swell * swell


@event("/m/09xqv", seconds=(0.8, 2.5))
def cricket(rng: Generator, n: int) -> np.ndarray:
    """A pure high tone in syllables, each a stroke of the wings: grouped into chirps or as one long trill."""
    pitch, syllables = rng.uniform(3600, 5800), rng.uniform(22, 55)
    group = 10**6 if rng.uniform() < 0.3 else int(rng.integers(2, 6))
    on = rng.uniform(0.5, 0.7) / syllables
    song = beeps(n, on, 1 / syllables - on, group, rng.uniform(0.12, 0.4), edge=on / 3)
    glide = wander(rng, n, 2 * syllables, 0.985, 1.015) * pitch
    return harmonics(glide, np.array([1.0, 0.05])) * song


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


@event("/m/0l156k", seconds=(0.3, 1.5))
def whistle(rng: Generator, n: int) -> np.ndarray:
    """A blown whistle: a high tone set up by the breath, with the trill of its pea or two chambers that beat."""
    blow = ramps(n, rng.uniform(0.01, 0.05), rng.uniform(0.03, 0.1)) * wander(rng, n, 5, 0.7, 1)
    pitch = rng.uniform(2000, 3900) * (1 - 0.06 * (1 - blow))
    if rng.uniform() < 0.6:
        trill = np.sin(2 * np.pi * np.cumsum(wander(rng, n, 6, 0.9, 1.1) * rng.uniform(22, 45)) / RATE)
        wave = harmonics(pitch * (1 + rng.uniform(0.01, 0.035) * trill), np.array([1, 0.15, 0.05]))
        wave = wave * (1 - rng.uniform(0.2, 0.8) * (0.5 + 0.5 * trill))
    else:
        chambers = (pitch, pitch * rng.uniform(1.01, 1.06))
        wave = np.sum([harmonics(f, np.array([1, 0.1])) for f in chambers], axis=0)
    breath = noise(rng, n, band(1500, 6500)) * rng.uniform(0.02, 0.12)
    return (wave + breath) * blow


@event("/m/015jpf", seconds=(0.8, 2.5))
def dial_tone(rng: Generator, n: int) -> np.ndarray:
    """The steady pair or single tone of a telephone exchange, through a line that distorts and hisses a little."""
    low, high = [(350, 440), (350, 450), (425, 425), (400, 425), (400, 450)][rng.integers(5)]
    off, turn = rng.uniform(0.99, 1.01), rng.uniform(0, 6) if high > low else 0.0
    wave = tone(low * off, n) + rng.uniform(0.6, 1) * tone(high * off, n, phase=turn)
    wave = np.tanh(wave * rng.uniform(0.2, 0.9) + rng.uniform(0, 0.15))
    line = noise(rng, n, band(300, 3400)) * rng.uniform(0.001, 0.03)
    return (wave - wave.mean() + line) * ramps(n, 0.005, 0.005)


@event("/m/01y3hg", seconds=(0.8, 2.5))
def smoke_alarm(rng: Generator, n: int) -> np.ndarray:
    """A piezo disc near 3 kHz, hard on and hard off: beeps in groups of three and a pause, or an unbroken row."""
    pitch, on = rng.uniform(2700, 3500), rng.uniform(0.09, 0.35)
    off, group = on * rng.uniform(0.6, 1.1), int(rng.choice([3, 10**6]))
    wave = tone(pitch, n) + rng.uniform(0.05, 0.3) * tone(2 * pitch, n) + rng.uniform(0, 0.1) * tone(pitch / 2, n)
    return wave * beeps(n, on, off, group, pause=2 * off, edge=0.003)
