"""Laws of the synthesised events: each is sound, each keeps what defines its class, and the classes are distinct."""

import numpy as np
import pytest

from psla.data.vocabulary import Vocabulary
from psla.synth.signals import ENTERED, event
from psla.synth.sound_events import EVENTS, SynthesisedEvents
from sound_laws import LAWS
from sound_measures import RATE, difference, envelope, lines, track

SIREN, DIAL_TONE = "/m/03kmc9", "/m/015jpf"


def test_every_class_is_audiosets_and_has_its_rank():
    """Every sound that a module enters has a rank, a class of AudioSet and a law; there are forty or more."""
    assert set(EVENTS) == {id for id, sound in ENTERED.items() if sound.draw.__module__.startswith("psla.")}
    assert set(EVENTS) <= set(Vocabulary.audioset().ids)
    assert set(LAWS) == set(EVENTS)
    assert len(EVENTS) >= 40
    assert SynthesisedEvents().class_ids == tuple(EVENTS)


@pytest.mark.parametrize("id", EVENTS)
def test_event_is_sound(id):
    """Every event is finite float32 of the asked length with peak 1, repeats with its seed and differs with another."""
    for seconds in (0.05, 0.3, 1.3):
        first, again, other = (EVENTS[id](np.random.default_rng(s), seconds, RATE) for s in (1, 1, 2))
        assert first.dtype == np.float32
        assert first.shape == other.shape == (round(seconds * RATE),)
        assert np.isfinite(first).all()
        assert np.abs(first).max() == pytest.approx(1, abs=1e-5)
        assert np.array_equal(first, again)
        assert np.abs(first - other).max() > 0.05


@pytest.mark.parametrize("rate", [24000, 32000, 44100])
@pytest.mark.parametrize("id", EVENTS)
def test_event_is_the_same_at_every_rate(id, rate):
    """The same instance at another rate: the length is exact, and bands of 40 ms below 7 kHz agree to 1 dB in mean."""
    for seed in range(3):
        first, faster = (EVENTS[id](np.random.default_rng(seed), 1.3, r) for r in (RATE, rate))
        assert faster.shape == (round(1.3 * rate),)
        assert faster.dtype == np.float32
        assert np.abs(faster).max() == pytest.approx(1, abs=1e-5)
        mean, level = difference(first, faster, rate)
        assert mean < 1
        assert abs(level) < 6  # both are scaled to the same peak, and what lies above 8 kHz has its part of the one


@pytest.mark.parametrize("id", EVENTS)
def test_what_defines_the_class_stays(id):
    """Ten instances of 2.5 s, and all keep the law of their class (`sound_laws`)."""
    failed = [seed for seed in range(10) if not LAWS[id](EVENTS[id](np.random.default_rng(seed), 2.5, RATE))]
    assert not failed, f"{EVENTS[id].draw.__name__}: {LAWS[id].__doc__}"


def test_the_laws_refuse_other_classes():
    """A law that anything keeps says nothing: each refuses most of the other classes, and most refuse nearly all."""
    waves = {id: EVENTS[id](np.random.default_rng(0), 2.5, RATE) for id in EVENTS}
    share = {a: np.mean([bool(LAWS[a](waves[b])) for b in EVENTS if b != a]) for a in EVENTS}
    assert max(share.values()) < 0.5, max(share, key=share.__getitem__)
    assert np.mean(list(share.values())) < 0.1


def test_classes_are_distinct():
    """A linear classifier of simple measures tells unheard instances apart: nine in ten, and half of any class."""
    measured = np.array(
        [[_measures(draw(np.random.default_rng(s), 2.0, RATE)) for s in range(20)] for draw in EVENTS.values()]
    )
    known, new = measured[:, :14], measured[:, 14:]
    means = known.mean(axis=1)
    apart = (known - means[:, None]).reshape(-1, measured.shape[-1])
    spread = apart.T @ apart / len(apart)
    inverse = np.linalg.inv(spread + 0.1 * np.diag(np.diag(spread)) + 1e-4 * np.eye(len(spread)))
    off = new[:, :, None] - means  # (classes, instances, classes, measures)
    nearest = np.einsum("cikm,mn,cikn->cik", off, inverse, off, optimize=True).argmin(axis=-1)
    right = (nearest == np.arange(len(EVENTS))[:, None]).mean(axis=1)
    assert right.mean() > 0.9
    assert right.min() >= 0.5, list(EVENTS.values())[int(right.argmin())].draw.__name__


def _measures(wave: np.ndarray) -> np.ndarray:
    """Level, spread and change of 20 bands, how few lines hold the power, and the rates of the envelope."""
    frames = np.abs(np.fft.rfft(wave[: len(wave) // 512 * 512].reshape(-1, 512) * np.hanning(512))) ** 2
    bands = np.log10(np.add.reduceat(frames, np.unique(np.geomspace(1, 256, 25).round().astype(int)), axis=1) + 1e-4)
    power = np.sort(np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2)[::-1]
    env = envelope(wave)
    rates = np.abs(np.fft.rfft(env - env.mean()))[1:]
    rates = np.add.reduceat(rates, np.unique(np.geomspace(1, len(rates) - 1, 12).round().astype(int)))
    return np.concatenate(
        [
            *(bands.mean(axis=0), bands.std(axis=0), np.abs(np.diff(bands, axis=0)).mean(axis=0)),
            np.log10(power[[3, 30, 300, 3000]] / power.sum() + 1e-12),
            np.log10(rates / (env.mean() * len(env)) + 1e-3),
        ]
    )


def test_siren_glides_and_dial_tone_stands():
    """The pitch of a siren moves within two seconds, that of a dial tone does not."""
    moved = {
        id: [
            np.ptp(pitch) / np.median(pitch)
            for pitch in (
                track(EVENTS[id](np.random.default_rng(seed), 2.0, RATE)[1600:30400], 100.0) for seed in range(10)
            )
        ]
        for id in (SIREN, DIAL_TONE)
    }
    assert min(moved[SIREN]) > 0.1
    assert max(moved[DIAL_TONE]) < 0.3  # the two tones of the pair may take turns at being the stronger


def test_a_mutation_breaks_the_law():
    """The laws can fail: a dial tone that pauses, noise that is not pink, a digit off by 5 %, a mains hum at 55 Hz."""
    rng, k = np.random.default_rng(0), np.arange(40000) / RATE
    noise = rng.standard_normal(40000)
    digit = np.sin(2 * np.pi * 770 * 1.05 * k) + np.sin(2 * np.pi * 1336 * 1.05 * k)
    on = (k % 0.2 < 0.1).astype(float)
    hum = sum(np.sin(2 * np.pi * 55 * h * k) / h for h in range(1, 12))
    assert not LAWS["/m/015jpf"](EVENTS[DIAL_TONE](rng, 2.5, RATE) * on)
    assert not LAWS["/m/0cj0r"](noise)
    assert not LAWS["/m/0chx_"](np.cumsum(noise))
    assert not LAWS["/m/02c8p"](digit * on)
    assert LAWS["/m/02c8p"](np.interp(k / 1.05, k, digit) * on)
    assert not LAWS["/m/06xkwv"](hum)
    assert lines(hum, 1)[0] == pytest.approx(55, abs=0.5)


def test_event_refuses():
    """An event of no length and a second sound for a class are refused."""
    with pytest.raises(ValueError, match=r"at least 0\.05 s"):
        EVENTS[SIREN](np.random.default_rng(0), 0.0, RATE)
    with pytest.raises(ValueError, match="16000 Hz or more, not at 8000"):
        EVENTS[SIREN](np.random.default_rng(0), 1.0, 8000)
    with pytest.raises(ValueError, match="two sounds"):
        event(SIREN)(lambda rng, s: np.zeros(s.n))
