"""Tones of the embedded corpus: telephones, alarms, test signals, and instruments that sustain a pitch.

Sources: dial and busy tones and the cadence of ringing, ITU-T E.180 and its supplement 2 (busy: on and off last 0.67 to
1.5 times each other, 0.3 to 1.1 s together); push-button frequencies, ITU-T Q.23; alarm pattern, ISO 8201 (three pulses
and a pause); quartz buzzers run at a whole fraction of 32,768 Hz; mains, IEC 60038 (50 and 60 Hz).
Not covered: melodies of ringtones, speech.
"""

from __future__ import annotations

import numpy as np

from psla.synth.signals import Generator, Signals, band, event, resonances


@event("/m/03kmc9", seconds=(1.0, 2.5))
def siren(rng: Generator, s: Signals) -> np.ndarray:
    """One pitch gliding up and down slowly (wail) or fast (yelp), or two tones in turn (hi-lo), through a horn."""
    k = np.arange(s.n) / s.rate
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
    wave = s.harmonics(low + (high - low) * turn, np.arange(1, 8) ** -rng.uniform(0.6, 1.8))
    return s.shape(wave, resonances(rng.uniform([500, 1200], [1200, 3000]), rng.uniform(0.4, 0.9))) * s.ramps(
        0.03, 0.05
    )


@event("/m/0l156k", seconds=(0.3, 1.5))
def whistle(rng: Generator, s: Signals) -> np.ndarray:
    """A blown whistle: a high tone set up by the breath, with the trill of its pea or two chambers that beat."""
    blow = s.ramps(rng.uniform(0.01, 0.05), rng.uniform(0.03, 0.1)) * s.wander(rng, 5, 0.7, 1)
    pitch = rng.uniform(2000, 3900) * (1 - 0.06 * (1 - blow))
    if rng.uniform() < 0.6:
        trill = np.sin(2 * np.pi * np.cumsum(s.wander(rng, 6, 0.9, 1.1) * rng.uniform(22, 45)) / s.rate)
        wave = s.harmonics(pitch * (1 + rng.uniform(0.01, 0.035) * trill), np.array([1, 0.15, 0.05]))
        wave = wave * (1 - rng.uniform(0.2, 0.8) * (0.5 + 0.5 * trill))
    else:
        chambers = (pitch, pitch * rng.uniform(1.01, 1.06))
        wave = np.sum([s.harmonics(f, np.array([1, 0.1])) for f in chambers], axis=0)
    breath = s.noise(rng, band(1500, 6500)) * rng.uniform(0.02, 0.12)
    return (wave + breath) * blow


@event("/m/015jpf", seconds=(0.8, 2.5))
def dial_tone(rng: Generator, s: Signals) -> np.ndarray:
    """The steady pair or single tone of a telephone exchange, through a line that distorts and hisses a little."""
    low, high = [(350, 440), (350, 450), (425, 425), (400, 425), (400, 450)][rng.integers(5)]
    off, turn = rng.uniform(0.99, 1.01), rng.uniform(0, 6) if high > low else 0.0
    wave = s.tone(low * off) + rng.uniform(0.6, 1) * s.tone(high * off, phase=turn)
    wave = np.tanh(wave * rng.uniform(0.2, 0.9) + rng.uniform(0, 0.15))
    line = s.noise(rng, band(300, 3400)) * rng.uniform(0.001, 0.03)
    return (wave - wave.mean() + line) * s.ramps(0.005, 0.005)


@event("/m/01z47d", seconds=(1.2, 3.0))
def busy_signal(rng: Generator, s: Signals) -> np.ndarray:
    """One or two steady tones, on and off in nearly equal parts, once or more a second, through a line."""
    low, high, on = [(480, 620, 0.5), (425, 425, 0.5), (400, 400, 0.375), (425, 425, 0.25)][rng.integers(4)]
    on, off = on * rng.uniform(0.85, 1.05), on * rng.uniform(0.85, 1.05)
    wave = s.tone(low * rng.uniform(0.99, 1.01), phase=rng.uniform(0, 6))
    if high > low:
        wave = wave + rng.uniform(0.6, 1) * s.tone(high * rng.uniform(0.99, 1.01))
    wave = np.tanh(wave * rng.uniform(0.2, 0.9)) * s.beeps(on, off, 10**6, 0, edge=0.003)
    return wave + s.noise(rng, band(300, 3400)) * rng.uniform(0.001, 0.03)


@event("/m/02c8p", seconds=(0.8, 2.5))
def push_buttons(rng: Generator, s: Signals) -> np.ndarray:
    """Digits of a push-button telephone: each one low tone and one high tone, off by up to 1.5 %, and a short gap."""
    on, gap, off_key = rng.uniform(0.06, 0.18), rng.uniform(0.05, 0.15), rng.uniform(0.985, 1.015)
    twist, wave = rng.uniform(0.6, 1.2), np.zeros(s.n, dtype=np.float32)
    press = Signals.lasting(on, s.rate)
    envelope = press.ramps(0.003, 0.003)
    for start in range(0, s.n, round((on + gap) * s.rate)):
        low, high = rng.choice([697, 770, 852, 941]), rng.choice([1209, 1336, 1477])
        key = (press.tone(low * off_key) + twist * press.tone(high * off_key)) * envelope
        wave[start : start + press.n] = key[: s.n - start]
    return wave + s.noise(rng, band(300, 3400)) * rng.uniform(0.001, 0.03)


@event("/m/07pp8cl", seconds=(1.2, 3.0))
def telephone_bell(rng: Generator, s: Signals) -> np.ndarray:
    """Two gongs struck in turn by a clapper that a current of 16 to 25 Hz moves, and its taps; ring, pause, ring."""
    low = rng.uniform(900, 1700)
    stroke = s.part(rng.uniform(0.15, 0.35))
    tap = stroke.noise(rng, band(1500, 7000)) * stroke.fall(0.003)
    gongs = []
    for pitch in (low, low * rng.uniform(1.08, 1.35)):
        modes = pitch * np.array([1, rng.uniform(2.1, 2.5), rng.uniform(3.4, 4.2)])
        parts = [stroke.tone(f, 0.06 * modes[0] / f, rng.uniform(0, 6)) for f in modes if f < 7800]
        gongs.append(np.sum(parts, axis=0) + 0.2 * tap)
    strikes = s.repeat(rng, gongs, 0.5 / rng.uniform(16, 25), 0.05, soft=0.7)
    on, off, group = [(1.0, 4.0, 10**6), (0.4, 0.2, 2), (2.0, 4.0, 10**6)][rng.integers(3)]
    ringing = s.beeps(on, off, group, pause=1.8, edge=0.005)
    last = np.maximum.accumulate(np.where(ringing > 0, np.arange(s.n), 0))  # the gongs ring on when the clapper rests
    return strikes * np.maximum(ringing, 0.3 * np.exp((last - np.arange(s.n)) / (0.08 * s.rate)))


@event("/m/01y3hg", seconds=(0.8, 2.5))
def smoke_alarm(rng: Generator, s: Signals) -> np.ndarray:
    """A piezo disc near 3 kHz, hard on and hard off: beeps in groups of three and a pause, or an unbroken row."""
    pitch, on = rng.uniform(2700, 3500), rng.uniform(0.09, 0.35)
    off, group = on * rng.uniform(0.6, 1.1), int(rng.choice([3, 10**6]))
    wave = s.tone(pitch) + rng.uniform(0.05, 0.3) * s.tone(2 * pitch) + rng.uniform(0, 0.1) * s.tone(pitch / 2)
    return wave * s.beeps(on, off, group, pause=2 * off, edge=0.003)


@event("/m/046dlr", seconds=(1.2, 3.0))
def alarm_clock(rng: Generator, s: Signals) -> np.ndarray:
    """The buzzer of a quartz clock: four short beeps a second, then a rest until the second is over."""
    pitch = 32768 / float(rng.choice([8, 12, 16])) * rng.uniform(0.98, 1.02)
    on = rng.uniform(0.04, 0.07)
    off = on * rng.uniform(0.8, 1.1)
    wave = s.tone(pitch) + (rng.uniform(0.1, 0.35) * s.tone(3 * pitch) if 3 * pitch < 7800 else 0)
    wave = wave + rng.uniform(0.05, 0.2) * s.tone(pitch / 2, phase=rng.uniform(0, 6))
    return wave * s.beeps(on, off, 4, pause=1 - 4 * (on + off), edge=0.002)


@event("/m/02fs_r", seconds=(0.3, 2.0))
def beep(rng: Generator, s: Signals) -> np.ndarray:
    """The beep of a machine: one pitch, alone or again after a pause that is longer than the beep."""
    pitch, on = rng.uniform(500, 2200), rng.uniform(0.06, 0.25)
    wave = s.harmonics(np.full(s.n, pitch), np.array([1, rng.uniform(0, 0.3), rng.uniform(0, 0.3)]))
    return wave * s.beeps(on, on * rng.uniform(1.5, 4) + 0.1, 10**6, 0, edge=rng.uniform(0.002, 0.01))


@event("/m/01v_m0", seconds=(0.6, 2.5))
def sine_wave(rng: Generator, s: Signals) -> np.ndarray:
    """One frequency and nothing else."""
    return s.tone(100 * 60 ** rng.uniform(), phase=rng.uniform(0, 6)) * s.ramps(0.005, 0.005)


@event("/m/0hdsk", seconds=(0.5, 2.5))
def chirp_tone(rng: Generator, s: Signals) -> np.ndarray:
    """A sine whose frequency only rises or only falls, by two octaves or more, in Hz or in octaves at an even rate."""
    low = rng.uniform(100, 900)
    high = low * 2 ** rng.uniform(2, 3)
    along = np.linspace(0, 1, s.n) if rng.uniform() < 0.5 else np.linspace(1, 0, s.n)
    even = low + (high - low) * along if rng.uniform() < 0.5 else low * (high / low) ** along
    return s.harmonics(even, np.ones(1)) * s.ramps(0.01, 0.01)


@event("/m/06xkwv", background=True, seconds=(1.2, 6.0))
def mains_hum(rng: Generator, s: Signals) -> np.ndarray:
    """Multiples of 50 or 60 Hz, the even ones the stronger: iron is drawn twice a period; and a little hiss."""
    mains, fall = float(rng.choice([50, 60])) * rng.uniform(0.998, 1.002), rng.uniform(0.4, 1.4)
    wave = np.zeros(s.n, dtype=np.float32)
    for k in range(1, int(rng.integers(8, 25))):
        strength = k**-fall * rng.uniform(0.2, 1) * (rng.uniform(1, 4) if k % 2 == 0 else 1)
        wave += np.float32(strength) * s.tone(k * mains, phase=rng.uniform(0, 6))
    return wave + rng.uniform(0.005, 0.05) * s.white(rng)


@event("/m/013y1f", seconds=(1.0, 3.0))
def organ(rng: Generator, s: Signals) -> np.ndarray:
    """Pipes that speak steadily: a chord of one to three notes, each with the ranks that are drawn (16' to 1')."""
    root = 110 * 2 ** rng.uniform(0, 1.6)
    chord = [(0,), (0, 7), (0, 4, 7), (0, 3, 7), (0, 5, 9)][rng.integers(5)]
    ranks = rng.choice([0.5, 1.5, 2, 3, 4, 5, 6, 8], size=4, replace=False)
    wave = np.zeros(s.n, dtype=np.float32)
    for step in chord:
        for rank in (1.0, *ranks):
            if (pitch := root * 2 ** (step / 12) * rank * rng.uniform(0.999, 1.001)) < 7800:
                wave += np.float32(rng.uniform(0.3, 1) / rank**0.5) * s.tone(pitch, phase=rng.uniform(0, 6))
    wind = s.noise(rng, band(300, 3000)) * rng.uniform(0.01, 0.05)
    return (wave + wind) * s.ramps(rng.uniform(0.02, 0.08), 0.05)


@event("/m/07kc_", seconds=(1.2, 3.0))
def theremin(rng: Generator, s: Signals) -> np.ndarray:
    """An almost pure tone that glides from note to note without a step, with the vibrato of a hand."""
    octaves = s.wander(rng, rng.uniform(0.8, 2.2), 0, rng.uniform(1, 2))
    vibrato = np.sin(2 * np.pi * rng.uniform(4.5, 7) * np.arange(s.n, dtype=np.float32) / s.rate + rng.uniform(0, 6))
    pitch = rng.uniform(200, 600) * np.exp2(octaves + rng.uniform(0.03, 0.06) * vibrato)
    wave = s.harmonics(pitch, np.array([1, 0.3, 0.12, 0.05]) * rng.uniform(0.3, 1, 4) ** [0, 1, 1, 1])
    return wave * s.wander(rng, 3, 0.5, 1) * s.ramps(0.04, 0.08)
