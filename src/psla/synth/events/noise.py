"""Noises of the embedded corpus: weather, water, engines, and the noises that are named after their spectrum.

Sources: a drip has the pitch of its bubble, 3.26 m/s by its radius (Minnaert 1933), which rises as the bubble nears the
surface; a helicopter's main rotor passes 10 to 22 blades a second; pink noise falls by 3 dB an octave.
"""

from __future__ import annotations

import numpy as np

from psla.synth.signals import Generator, Signals, band, colour, event, resonances


@event("/m/06mb1", background=True, seconds=(1.5, 8.0))
def rain(rng: Generator, s: Signals) -> np.ndarray:
    """Drops at random times and of random size, upon the hiss of those too far away to be told apart."""
    drops = rng.integers(0, s.grid, max(1, int(rng.uniform(80, 700) * s.seconds))) * s.n // s.grid
    impulses = np.zeros(s.n, dtype=np.float32)
    np.add.at(impulses, drops, rng.exponential(1.0, len(drops)).astype(np.float32))
    near = s.shape(impulses, resonances(rng.uniform(900, 6500, 3), rng.uniform(0.15, 0.5)))
    far = s.noise(rng, band(rng.uniform(300, 1500), rng.uniform(4000, 7500)))
    return near / (near.std() + 1e-9) * rng.uniform(0.3, 1.2) + far


@event("/m/03m9d0z", background=True, seconds=(1.5, 8.0))
def wind(rng: Generator, s: Signals) -> np.ndarray:
    """A low rumble in gusts; edges begin to whistle as a gust grows, at a pitch that rises with its speed."""
    gust = s.wander(rng, rng.uniform(0.8, 2.5), 0.15, 1)
    rumble = s.noise(rng, colour(rng.uniform(0.9, 1.5), rng.uniform(80, 250)))
    pitch = rng.uniform(250, 700)
    slow = s.noise(rng, resonances(np.array([pitch]), rng.uniform(0.06, 0.15)))
    fast = s.noise(rng, resonances(np.array([pitch * rng.uniform(1.2, 1.6)]), rng.uniform(0.06, 0.15)))
    howl = gust * (slow * (1 - gust) * 2 + fast * gust * gust)
    return rumble * gust + rng.uniform(0.1, 0.9) * howl


@event("/m/034srq", background=True, seconds=(2.0, 8.0))
def waves(rng: Generator, s: Signals) -> np.ndarray:
    """Breakers: each rises, breaks with a bright crash and runs out in a hiss of foam; the next one over the rumble."""
    period, steep = rng.uniform(1.6, 4.0), rng.uniform(0.15, 0.4)
    cycle = (s.k / period + rng.uniform()) % 1
    swell = np.where(cycle < steep, (cycle / steep) ** 2, np.exp(-(cycle - steep) * rng.uniform(2.5, 5)))
    deep = s.noise(rng, colour(rng.uniform(0.6, 1.0), rng.uniform(100, 300)))
    foam = s.noise(rng, band(rng.uniform(500, 1200), rng.uniform(3500, 7000)))
    return deep * (0.25 + swell) + rng.uniform(0.5, 1.2) * foam * swell * swell


@event("/m/0ngt1", seconds=(1.5, 5.0))
def thunder(rng: Generator, s: Signals) -> np.ndarray:
    """Claps from parts of the channel ever further away: each later one darker; then a rumble that dies away."""
    arrivals = np.concatenate([[0], rng.uniform(0, 0.5, rng.integers(2, 6))]) * min(s.seconds, 2.5)
    strength = np.zeros(s.n, dtype=np.float32)
    for arrival in arrivals.tolist():
        after = s.k[int(arrival * s.rate) :] - np.float32(arrival)
        clap = np.minimum(after / rng.uniform(0.005, 0.05), np.exp(-after / rng.uniform(0.2, 0.9)))
        strength[s.n - len(after) :] += np.float32(rng.uniform(0.3, 1)) * clap
    low = s.noise(rng, colour(rng.uniform(0.9, 1.3), rng.uniform(40, 90)))
    crack = s.noise(rng, band(200, rng.uniform(1500, 4000))) * np.exp(-s.k / rng.uniform(0.08, 0.4))
    return low * strength + rng.uniform(0.2, 0.8) * crack * strength


@event("/m/07r5v4s", seconds=(0.8, 3.0))
def drip(rng: Generator, s: Signals) -> np.ndarray:
    """Drops into water, nearly in time: each a bubble, a short tone that rises as the bubble nears the surface."""
    drop, drops = s.part(0.1), []
    k = drop.k
    pitch, decay, rise = rng.uniform(600, 2400), rng.uniform(0.008, 0.025), rng.uniform(1, 6)
    for _ in range(3):
        bubble = drop.harmonics(pitch * rng.uniform(0.8, 1.2) * (1 + rise * k), np.ones(1)) * np.exp(-k / decay)
        splash = drop.noise(rng, band(1500, 6500)) * np.exp(-k / 0.002)
        drops.append(bubble * np.minimum(1, k / 0.001) + rng.uniform(0.05, 0.3) * splash)
    return s.repeat(rng, drops, rng.uniform(0.25, 0.9), 0.1, soft=0.4)


@event("/m/06wzb", background=True, seconds=(1.0, 5.0))
def steam(rng: Generator, s: Signals) -> np.ndarray:
    """A jet through a valve: hiss above 2 kHz with the whistle of the edge in it, let off in long breaths."""
    hiss = s.noise(rng, band(rng.uniform(2000, 3500), 9000))
    edge = s.noise(rng, resonances(rng.uniform([2500, 4000], [4000, 7000]), rng.uniform(0.04, 0.12)))
    return (hiss + rng.uniform(0.1, 0.8) * edge) * s.wander(rng, rng.uniform(0.8, 2), 0.35, 1) * s.ramps(0.03, 0.2)


@event("/m/02mk9", background=True, seconds=(1.2, 6.0))
def engine(rng: Generator, s: Signals) -> np.ndarray:
    """A pulse of pressure a firing, cylinders unlike each other, coloured by the exhaust; speed steady or rising."""
    cylinders = int(rng.choice([1, 2, 3, 4, 6]))
    last = rng.uniform(0.7, 1.6) if rng.uniform() < 0.5 else 1.0
    firing = s.wander(rng, 8, 0.97, 1.03) * np.linspace(1, last, s.n, dtype=np.float32)
    cycles = np.cumsum(firing, dtype=np.float64) * (rng.uniform(18, 45) * rng.uniform(1, 2.5) / s.rate)
    count = cycles.astype(np.int32)  # firings so far
    since = (cycles - count).astype(np.float32)  # share of the period since the last firing
    strength = rng.uniform(0.6, 1, cylinders).astype(np.float32)[count % cylinders]
    pulse = strength * np.exp(-since * rng.uniform(6, 20))
    hiss = s.white(rng) * rng.uniform(0.05, 0.4)
    exhaust = resonances(rng.uniform([60, 200, 700], [160, 600, 2500]), rng.uniform(0.2, 0.6))
    return s.shape(pulse * (1 + hiss), lambda f: exhaust(f) / (1 + (30 / f) ** 4)) * s.ramps(0.05, 0.1)


@event("/m/07pb8fc", background=True, seconds=(1.5, 6.0))
def idling(rng: Generator, s: Signals) -> np.ndarray:
    """An engine left running: 12 to 30 firings a second, each a thump of its own strength, never faster or slower."""
    cycles = np.cumsum(s.wander(rng, 6, 0.96, 1.04), dtype=np.float64) * (rng.uniform(12, 30) / s.rate)
    count = cycles.astype(np.int32)
    since = (cycles - count).astype(np.float32)
    strength = rng.uniform(0.45, 1, count[-1] + 1).astype(np.float32)[count]
    pulse = strength * np.exp(-since * rng.uniform(5, 9))
    hiss = s.white(rng) * rng.uniform(0.1, 0.5)
    pipe = resonances(rng.uniform([50, 120, 350], [110, 300, 900]), rng.uniform(0.3, 0.7))
    rattle = s.noise(rng, band(1000, 5000)) * pulse * rng.uniform(0.02, 0.1)
    low = s.shape(pulse * (1 + hiss), lambda f: pipe(f) / (1 + (25 / f) ** 4))
    return low / (low.std() + 1e-9) + rattle


@event("/m/09ct_", background=True, seconds=(1.5, 6.0))
def helicopter(rng: Generator, s: Signals) -> np.ndarray:
    """Blades that slap the air 10 to 22 times a second, the roar of the rotor swelling with them, a turbine's whine."""
    rate = rng.uniform(10, 22)
    cycles = np.cumsum(s.wander(rng, 2, 0.985, 1.015), dtype=np.float64) * (rate / s.rate)
    since = (cycles - np.floor(cycles)).astype(np.float32)
    slap = np.exp(-since * rng.uniform(5, 10))
    low = s.noise(rng, band(rng.uniform(40, 80), rng.uniform(250, 700))) * slap
    roar = s.noise(rng, band(400, rng.uniform(2000, 5000))) * (0.25 + slap)
    whine = s.harmonics(np.full(s.n, rng.uniform(1500, 3500)), np.ones(1))
    passing = s.wander(rng, 0.5, 0.5, 1)
    return (low + rng.uniform(0.1, 0.5) * roar + rng.uniform(0, 0.08) * whine) * passing


@event("/m/0chx_", background=True, seconds=(0.8, 5.0))
def white_noise(rng: Generator, s: Signals) -> np.ndarray:
    """The same power in every Hz."""
    return s.white(rng)


@event("/m/0cj0r", background=True, seconds=(0.8, 5.0))
def pink_noise(rng: Generator, s: Signals) -> np.ndarray:
    """The same power in every octave: 3 dB less an octave, from 20 Hz up."""
    return s.noise(rng, colour(0.5, 20))
