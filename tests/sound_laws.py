"""What defines each class of synthesised events, measured on a waveform: a law a class, true or false."""

from collections.abc import Callable

import numpy as np

from sound_measures import (
    RATE,
    dies_away,
    envelope,
    flatness,
    lines,
    modulation,
    onsets,
    pulses,
    purity,
    share,
    slope,
    steady,
    track,
)

Law = Callable[[np.ndarray], bool]
LAWS: dict[str, Law] = {}


def law(class_id: str) -> Callable[[Law], Law]:
    """Enters the function below it."""

    def enter(check: Law) -> Law:
        assert class_id not in LAWS
        LAWS[class_id] = check
        return check

    return enter


@law("/m/06mb1")
def rain(w: np.ndarray) -> bool:
    """Lasting broadband noise, mostly above 500 Hz."""
    return (
        steady(w, 0.5) and share(w, 500, 8000) > 0.7 and flatness(w, 1000, 4000) > 0.4 and flatness(w, 50, 7900) < 0.9
    )


@law("/m/02mk9")
def engine(w: np.ndarray) -> bool:
    """Low, and pulsing at the rate of the firings."""
    lasting = envelope(w, 200.0).min() > 0.1 * envelope(w, 200.0).max()
    noisy = purity(w, 3) < 0.85 and not steady(w, 0.02)
    return lasting and noisy and share(w, 0, 3000) > 0.85 and share(w, 0, 700) > 0.4 and share(w, 15, 45) < 0.6


@law("/m/0bm02")
def bass_drum(w: np.ndarray) -> bool:
    """Strokes below 250 Hz."""
    return share(w, 20, 250) > 0.7 and envelope(w).min() < 0.2 * envelope(w).max() and lines(w, 1)[0] < 160


@law("/m/03m9d0z")
def wind(w: np.ndarray) -> bool:
    """A rumble in gusts."""
    env = envelope(w, 100.0)
    gusts = 0.02 * env.max() < env.min() < 0.67 * env.max()
    return gusts and share(w, 0, 1500) > 0.9 and slope(w) < -3 and purity(w, 10) < 0.6 and not pulses(w)


@law("/m/03kmc9")
def siren(w: np.ndarray) -> bool:
    """A pitch that moves by a quarter or more, and comes back or will."""
    pitch, env = track(w), envelope(w, 50.0)
    tonal = np.median([purity(part, 120) for part in w[: len(w) // 1600 * 1600].reshape(-1, 1600)[1:-1]]) > 0.1
    moves = np.ptp(pitch) / np.median(pitch) > 0.15
    lasts = env[2:-2].min() > 0.05 * env.max()
    return bool(tonal and moves and lasts and share(w, 350, 8000) > 0.9 and flatness(w, 1000, 6000) < 0.7)


@law("/m/06rvn")
def snare_drum(w: np.ndarray) -> bool:
    """Strokes of bright noise over the head's modes between 150 and 600 Hz."""
    env = envelope(w)
    struck = np.diff(env, prepend=0).max() > 0.4 * env.max() and purity(w, 20) < 0.6
    return struck and share(w, 150, 600) > 0.02 and flatness(w, 1500, 5000) > 0.3 and share(w, 0, 120) < 0.1


@law("/m/034srq")
def waves(w: np.ndarray) -> bool:
    """Noise, low and foam, that swells slowly."""
    env = envelope(w, 200.0)
    noisy = purity(w, 5) < 0.1 and not pulses(w) and flatness(w, 500, 2500) > 0.1
    return bool(
        env.max() > 1.3 * env.min() > 0.05 * env.max() and noisy and share(w, 500, 8000) > 0.03 and slope(w) < 0
    )


@law("/m/09xqv")
def cricket(w: np.ndarray) -> bool:
    """A pure tone between 3.4 and 6 kHz in 20 to 60 syllables a second."""
    return share(w, 3400, 6000) > 0.9 and purity(w, 400) > 0.8 and modulation(w, 20, 120, (15, 120))


@law("/m/03w41f")
def church_bell(w: np.ndarray) -> bool:
    """Hum, prime, tierce, quint and nominal: at least three of the partials at 0.5, 1, 1.2, 1.5 and 2 of a prime."""
    found, primes = lines(w, 14, 6.0), np.geomspace(160, 520, 400)
    partials = primes[:, None] * np.array([0.5, 1.0, 1.2, 1.5, 2.0])  # (primes, 5)
    there = np.abs(found[:, None, None] / partials - 1).min(axis=0) < 0.02
    return bool(there.sum(axis=1).max() >= 4 and purity(w, 3) < 0.9)


@law("/m/07qjznt")
def tick(w: np.ndarray) -> bool:
    """Clicks in strict time over silence."""
    times = onsets(w, 0.15, 0.02, 2.0)
    if np.median(np.abs(w)) > 0.01 or len(times) < 2 or (envelope(w) > 0.1).mean() > 0.15:
        return False
    gaps = np.diff(times)
    return bool(np.abs(gaps / np.round(gaps / gaps.min()) / gaps.min() - 1).max() < 0.06)


@law("/m/0l156k")
def whistle(w: np.ndarray) -> bool:
    """Blown between 1.8 and 4.2 kHz, trilling."""
    env = envelope(w, 50.0)
    blown = 1800 <= lines(w, 1)[0] <= 4200 and env.min() > 0.02 * env.max() and purity(w, 400) > 0.7
    return bool(blown and share(w, 1700, 4500) > 0.8 and purity(w, 3) < 0.9)


@law("/m/015jpf")
def dial_tone(w: np.ndarray) -> bool:
    """One or two of the exchange's tones, without a break."""
    return share(w, 330, 470) > 0.8 and steady(w)


@law("/m/01y3hg")
def smoke_alarm(w: np.ndarray) -> bool:
    """Beeps between 2.65 and 3.55 kHz, on for 0.08 to 0.4 s."""
    return bool(2650 <= lines(w, 1)[0] <= 3550 and len(onsets(w)) >= 2 and np.diff(onsets(w)).min() > 0.12)


@law("/m/07pggtn")
def bird(w: np.ndarray) -> bool:
    """Sweeps between 2 and 7.8 kHz in syllables, with rests."""
    pitch = track(w, 10.0)
    moving = np.ptp(pitch) / np.median(pitch) > 0.1 and flatness(w, 2200, 7500) < 0.5
    return bool(moving and share(w, 2000, 7900) > 0.95 and (envelope(w) < 0.01).mean() > 0.05)


@law("/m/0342h")
def guitar(w: np.ndarray) -> bool:
    """Strings: lines below 2 kHz at near multiples of the notes, each dying away from its pluck."""
    env, found = envelope(w, 10.0), lines(w, 10, 8.0)
    held = share(w, *np.concatenate([found[:, None] - 5, found[:, None] + 5], axis=1).ravel())
    plucked = np.diff(env, prepend=0).max() > 0.2 * env.max() and not steady(w, 0.08)
    return bool(plucked and share(w, 70, 2000) > 0.9 and held > 0.5 and purity(w, 5) < 0.9 and found.min() > 75)


@law("/m/0ngt1")
def thunder(w: np.ndarray) -> bool:
    """A burst, then a low rumble that dies away and is darker than the burst."""
    first, _, last = np.array_split(w, 3)
    dark = share(w, 0, 400) > 0.8 and share(last, 400, 8000) < 0.2
    return bool(last.std() < first.std() and dark and purity(w, 3) < 0.2 and envelope(w).min() > 0.0002)


@law("/m/07r4wb8")
def knock(w: np.ndarray) -> bool:
    """Groups of thuds below 1 kHz, 0.1 to 0.4 s apart, and rests between the groups."""
    gaps = np.diff(onsets(w))
    return bool(len(gaps) and share(w, 80, 1000) > 0.6 and 0.09 < gaps.min() < 0.4 and np.median(np.abs(w)) < 0.01)


@law("/m/09ct_")
def helicopter(w: np.ndarray) -> bool:
    """The slap of 9 to 24 blades a second, or twice that."""
    return modulation(w, 9, 48, (4, 100)) and share(w, 0, 1000) > 0.5 and flatness(w, 500, 2000) > 0.3


@law("/m/07r5v4s")
def drip(w: np.ndarray) -> bool:
    """Drops 0.2 to 1.1 s apart, each a tone of some hundredths of a second."""
    gaps = np.diff(onsets(w, 0.3))
    silent = np.median(np.abs(w)) < 0.005
    return bool(silent and len(gaps) and gaps.min() > 0.2 and gaps.max() < 1.4 and share(w, 500, 4500) > 0.6)


@law("/m/03qtq")
def hi_hat(w: np.ndarray) -> bool:
    """Strokes of noise above 4 kHz."""
    return share(w, 4000, 8000) > 0.85 and len(onsets(w)) >= 3 and flatness(w, 5500, 7500) > 0.3


@law("/m/07pb8fc")
def idling(w: np.ndarray) -> bool:
    """12 to 30 firings a second, or twice that, and the rate stays."""
    return share(w, 0, 1200) > 0.8 and modulation(w, 11, 62, (4, 100)) and pulses(w) and share(w, 330, 470) < 0.6


@law("/m/0c2wf")
def typewriter(w: np.ndarray) -> bool:
    """Clacks in uneven time."""
    gaps = np.diff(onsets(w, 0.2, 0.1))
    short = (envelope(w) > 0.2 * envelope(w).max()).mean() < 0.3 and purity(w, 300) < 0.7
    return bool(short and len(gaps) > 4 and gaps.std() / gaps.mean() > 0.15 and share(w, 900, 8000) > 0.2)


@law("/m/09ld4")
def frog(w: np.ndarray) -> bool:
    """Croaks, each a train of 22 to 80 pulses a second through two resonances."""
    env = envelope(w)
    croaks = env.min() < 0.02 * env.max() and (env > 0.1 * env.max()).mean() > 0.1 and purity(w, 20) < 0.9
    return croaks and modulation(w, 20, 160, (15, 200)) and share(w, 300, 2700) > 0.8


@law("/m/07pp8cl")
def telephone_bell(w: np.ndarray) -> bool:
    """Lines of the gongs above 900 Hz, struck more than 30 times a second."""
    times = onsets(w, 0.3, 0.02)
    gongs = lines(w, 4, 40.0)
    return bool(
        share(w, 850, 8000) > 0.97
        and len(times) <= 5
        and modulation(w[: round(0.4 * RATE)], 14, 54, (10, 100))
        and gongs.min() > 850
    )


@law("/m/013y1f")
def organ(w: np.ndarray) -> bool:
    """Steady lines, five or more."""
    found = lines(w, 4, 10.0)
    held = share(w, *np.concatenate([found[:, None] - 4, found[:, None] + 4], axis=1).ravel())
    combed = max(share(w, *(k * hz + side for k in range(1, 30) for side in (-1, 1))) for hz in (50, 60)) > 0.8
    return steady(w, 0.3) and held > 0.35 and not combed and purity(w, 3) < 0.9 and share(w, 330, 470) < 0.9


@law("/m/06wzb")
def steam(w: np.ndarray) -> bool:
    """Hiss above 2 kHz that lasts."""
    return (
        share(w, 1800, 8000) > 0.9 and purity(w) < 0.2 and envelope(w, 50.0)[2:-6].min() > 0.1 * envelope(w, 50.0).max()
    )


@law("/m/02fs_r")
def beep(w: np.ndarray) -> bool:
    """One pitch between 500 and 2200 Hz; the pauses are longer than the beeps."""
    env = envelope(w)
    on = float((env > 0.3 * env.max()).mean())
    one = 490 <= lines(w, 1)[0] <= 2210 and np.ptp(track(w, 20.0)) < 100 and purity(w[: round(0.06 * RATE)], 60) > 0.6
    return bool(one and on < 0.45 and (env < 0.001).mean() > 0.4 and np.diff(onsets(w)).min(initial=9) > 0.2)


@law("/m/046dlr")
def alarm_clock(w: np.ndarray) -> bool:
    """Four beeps a second, close together, at 2, 2.7 or 4.1 kHz."""
    times = onsets(w)
    first = times[times < 0.95]
    second = times[(times >= 0.95) & (times < 1.95)]
    near = np.abs(lines(w, 1)[0] / np.array([2048, 2730.7, 4096]) - 1).min() < 0.025
    return bool(near and len(first) == len(second) == 4 and abs(second[0] - first[0] - 1) < 0.02)


@law("/m/0f8s22")
def chime(w: np.ndarray) -> bool:
    """Lines at the ratio 2.99 : 2 of a tube, several notes, ringing into each other."""
    env, found = envelope(w, 20.0)[1:], lines(w, 14, 8.0)
    pairs = int((np.abs(found[:, None] / found[None, :] / 1.495 - 1) < 0.012).sum())
    held = share(w, *np.concatenate([found[:, None] - 5, found[:, None] + 5], axis=1).ravel())
    return bool(pairs >= 2 and held > 0.7 and share(w, 400, 8000) > 0.9 and env[:-10].min() > 0.005 * env.max())


@law("/m/026fgl")
def wind_chime(w: np.ndarray) -> bool:
    """Tubes free at both ends: lines above 750 Hz with others 2.756 times as high; struck out of time."""
    found = lines(w, 14, 12.0)
    ratios = found[:, None] / found[None, :]
    return share(w, 750, 8000) > 0.97 and bool((np.abs(ratios / 2.756 - 1) < 0.01).any()) and purity(w, 5) < 0.95


@law("/m/09f96")
def mosquito(w: np.ndarray) -> bool:
    """A harmonic whine on 380 to 740 Hz that comes and goes."""
    pitch, env = track(w), envelope(w, 50.0)
    combed = share(w, 0, 370) < 0.02 and flatness(w, 400, 3000) < 0.4 and env.min() > 0.001
    moving = 0.005 < pitch.std() / np.median(pitch) < 0.6
    return combed and moving and share(w, 370, 4600) > 0.97 and share(w, 370, 760) > 0.2 and share(w, 760, 4600) > 0.1


@law("/m/07phxs1")
def ding(w: np.ndarray) -> bool:
    """One stroke, high, that dies away."""
    return dies_away(w) and 1150 <= lines(w, 1)[0] <= 2900


@law("/m/0chx_")
def white_noise(w: np.ndarray) -> bool:
    """Flat."""
    return abs(slope(w)) < 0.6 and flatness(w, 100, 7900) > 0.9 and steady(w)


@law("/m/0cj0r")
def pink_noise(w: np.ndarray) -> bool:
    """3 dB less an octave."""
    return abs(slope(w) + 3) < 0.6 and steady(w, 0.3)


@law("/m/06xkwv")
def mains_hum(w: np.ndarray) -> bool:
    """Nine tenths of the power at multiples of 50 Hz or of 60 Hz, on six lines or more in use, and steady."""
    combs = [share(w, *(k * hz + side for k in range(1, 30) for side in (-4, 4))) for hz in (50, 60)]
    return steady(w) and max(combs) > 0.9 and purity(w, 8) < 0.95 and share(w, 0, 1600) > 0.9


@law("/m/02c8p")
def push_buttons(w: np.ndarray) -> bool:
    """Every digit has one of the four low and one of the four high frequencies of ITU-T Q.23, within 1.8 %."""
    env = envelope(w)
    low, high = np.array([697, 770, 852, 941]), np.array([1209, 1336, 1477, 1633])
    times, good = onsets(w, 0.4, 0.15), 0
    for start in times[:-1]:
        part = w[round((start + 0.01) * RATE) :][: round(0.04 * RATE)]
        f = np.fft.rfftfreq(8 * len(part), 1 / RATE)
        power = np.abs(np.fft.rfft(part * np.hanning(len(part)), 8 * len(part))) ** 2
        tops = [f[span][power[span].argmax()] for span in ((f > 600) & (f < 1050), (f > 1100) & (f < 1750))]
        held = power[(f > 620) & (f < 1720)].sum() / (power.sum() + 1e-12)
        good += (
            all(np.abs(top / four - 1).min() < 0.018 for top, four in zip(tops, (low, high), strict=True))
            and held > 0.9
        )
    return len(times) > 3 and good == len(times) - 1 and env.min() < 0.2 * env.max()


@law("/m/01z47d")
def busy_signal(w: np.ndarray) -> bool:
    """A telephone's tone (400 to 620 Hz), on for 40 to 60 % of the time, in periods of 0.3 to 1.1 s."""
    env = envelope(w)
    on = env > 0.3 * env.max()
    gaps = np.diff(onsets(w, 0.4, 0.3))
    return bool(share(w, 380, 640) > 0.85 and 0.38 < on.mean() < 0.68 and len(gaps) and 0.3 < gaps.min() < 1.1)


@law("/m/07n_g")
def tuning_fork(w: np.ndarray) -> bool:
    """One line that dies away slowly, after a clang at 6.2 to 6.35 times its pitch."""
    pitch = lines(w, 1)[0]
    clang = lines(w[:1600] - np.convolve(w[:1600], np.ones(8) / 8, "same"), 6, 60.0)
    heard = bool(((clang / pitch > 6.0) & (clang / pitch < 6.55)).any())
    return 250 <= pitch <= 910 and dies_away(w) and heard and purity(w[4800:]) > 0.9


@law("/m/01v_m0")
def sine_wave(w: np.ndarray) -> bool:
    """One line, steady."""
    return purity(w) > 0.99 and steady(w, 0.05)


@law("/m/0hdsk")
def chirp_tone(w: np.ndarray) -> bool:
    """A pure tone whose frequency only rises or only falls, by an octave and a half or more."""
    pitch = track(w)[1:-1]
    if len(pitch) < 3:
        return False
    steps = np.diff(pitch)
    span = max(pitch[0], pitch[-1]) / min(pitch[0], pitch[-1])
    one_way = bool((steps >= -6).all() or (steps <= 6).all())
    return one_way and span > 2.8 and purity(w[8000:8800], 80) > 0.9


@law("/m/07kc_")
def theremin(w: np.ndarray) -> bool:
    """A nearly pure tone that glides without a step, with a vibrato of 4 to 8 Hz."""
    pitch = track(w, 30.0)
    if len(pitch) < 60:
        return False
    jump, octaves = np.abs(np.diff(np.log2(pitch))), np.log2(pitch)
    wobble = octaves[4:-4] - np.convolve(octaves, np.ones(9) / 9, "valid")
    rates, strength = np.fft.rfftfreq(len(wobble), 0.03), np.abs(np.fft.rfft(wobble * np.hanning(len(wobble))))
    rate = rates[rates > 3][strength[rates > 3].argmax()]
    glides = np.quantile(jump, 0.9) < 0.12 and np.ptp(octaves) > 0.12
    return bool(glides and 3.5 <= rate <= 8.5 and 180 < np.median(pitch) < 3000)
