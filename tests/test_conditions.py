"""Laws of recording conditions: each does what its range says, drawn by position alone; off, nothing is changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml

from psla.data.source import ArraySource
from psla.techniques.conditions import KINDS, SHORTEST, Conditions, codecs
from psla.techniques.sampling import EpochPlan
from psla.training.loader import Batch, Cut, Loader, training_loader
from psla.training.recipe import Recipe, RecipeError

RATES = (8000, 16000, 22050, 44100)
UNIFORMS = np.random.default_rng(5).random(40).tolist()
ALL = Conditions(**dict.fromkeys(KINDS, 0.7), overdrive=0.5, excerpt_seconds=(0.1, 1.0))


def noise(samples: int, seed: int = 0, level: float = 3000.0) -> np.ndarray:
    return np.rint(np.random.default_rng(seed).standard_normal(samples) * level).astype(np.int16)


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def decibels(a: float, b: float) -> float:
    return 20 * float(np.log10(a / b))


def power(wave: np.ndarray, rate: int, low: float, high: float) -> float:
    spectrum = np.square(np.abs(np.fft.rfft(wave.astype(np.float64))))
    f = np.fft.rfftfreq(len(wave), 1 / rate)
    return float(spectrum[(f >= low) & (f < high)].mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_is_drawn_from_its_number_alone(kind: str) -> None:
    """One number, one outcome, whatever was asked before; other numbers, others; the clip itself is not touched."""
    clip, conditions = noise(8000), Conditions(**{kind: 1.0})
    before = clip.copy()
    once = [conditions(clip, 8000, u) for u in UNIFORMS[:8]]
    again = [conditions(clip, 8000, u) for u in reversed(UNIFORMS[:8])][::-1]
    assert all(np.array_equal(a, b) and a.dtype == np.int16 for a, b in zip(once, again, strict=True))
    assert len({a.tobytes() for a in once}) >= 5
    assert np.array_equal(clip, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_is_a_share_of_the_clips(kind: str) -> None:
    """Of 1,500 clips about the share asked for is changed, and none of a rate of 0."""
    clip = noise(600)
    drawn = np.random.default_rng(1).random(1500)
    never = {"band_hz": (1500.0, 1500.0), "noise_db": (0.0, 5.0), "excerpt_seconds": (0.02, 0.05)}
    conditions = Conditions(**{kind: 0.3}, **never)
    changed = np.mean([not np.array_equal(conditions(clip, 8000, u), clip) for u in drawn])
    assert changed == pytest.approx(0.3, abs=0.04)
    assert all(Conditions()(clip, 8000, u) is clip for u in drawn[:50])


def test_conditions_do_not_draw_from_each_other() -> None:
    """A clip that meets no noise is the same to the bit whether noise has a rate or not."""
    clip, one, both = noise(4000), Conditions(level=1.0), Conditions(level=1.0, noise=0.5)
    same = [np.array_equal(one(clip, 8000, u), both(clip, 8000, u)) for u in UNIFORMS]
    assert 0.25 < np.mean(same) < 0.75


@pytest.mark.parametrize("by", ["uniform", "energy"])
def test_an_excerpt_is_a_part_of_the_lengths_asked_for(by: Any) -> None:
    """Every length lies in the range, both halves of its logarithm are drawn alike, and the part is the clip's."""
    clip = np.arange(16000, dtype=np.int16)
    conditions = Conditions(excerpt=1.0, excerpt_seconds=(0.1, 1.6), excerpt_by=by)
    parts = [conditions(clip, 8000, u) for u in np.random.default_rng(2).random(400)]
    lengths = np.array([len(part) for part in parts])
    assert 800 <= lengths.min() < 900
    assert 11000 < lengths.max() <= 12800
    assert np.mean(lengths < 3200) == pytest.approx(0.5, abs=0.08)
    assert all((np.diff(part) == 1).all() for part in parts)
    assert len(Conditions(excerpt=1.0, excerpt_seconds=(5.0, 9.0))(clip, 8000, 0.5)) == len(clip)


def test_an_excerpt_by_energy_has_what_sounds() -> None:
    """A burst in silence is in every part that is taken by energy."""
    clip = np.zeros(16000, dtype=np.int16)
    clip[9000:9100] = noise(100)
    for by, heard in (("energy", 1.0), ("uniform", 0.1)):
        conditions = Conditions(excerpt=1.0, excerpt_seconds=(0.1, 0.1), excerpt_by=by)
        assert np.mean([conditions(clip, 8000, u).any() for u in UNIFORMS]) == pytest.approx(heard, abs=0.15)


@pytest.mark.parametrize("rate", RATES)
def test_noise_has_the_ratio_asked_for(rate: int) -> None:
    """What is added is as far below the clip's RMS as was drawn, within 1 dB, at every rate and for every colour."""
    clip = noise(rate, level=4000)
    for level in (0.0, 12.0, 30.0):
        for u in UNIFORMS[:12]:
            heard = Conditions(noise=1.0, noise_db=(level, level))(clip, rate, u)
            assert decibels(rms(clip), rms(heard.astype(float) - clip)) == pytest.approx(level, abs=1.0)


def test_silence_gets_noise_too() -> None:
    """A silent clip has no level: its noise lies from -70 to -30 dB below full scale."""
    levels = [decibels(rms(Conditions(noise=1.0)(np.zeros(8000, np.int16), 8000, u)), 32768) for u in UNIFORMS]
    assert -71 < min(levels) < -60
    assert -40 < max(levels) < -29


def test_noises_have_colours_and_mains() -> None:
    """Among the noises of silence are one with as much above as below, one with less, and one on 50 or 60 Hz."""
    heard = [Conditions(noise=1.0)(np.zeros(16000, np.int16), 8000, u) for u in UNIFORMS]
    tilt = [10 * np.log10(power(w, 8000, 100, 1000) / power(w, 8000, 2000, 3900)) for w in heard]
    assert sum(abs(each) < 2 for each in tilt) >= 4
    assert sum(5 < each < 14 for each in tilt) >= 4
    assert sum(each > 14 for each in tilt) >= 8


@pytest.mark.parametrize("rate", RATES)
def test_above_a_band_nothing_is_left(rate: int) -> None:
    """Above the limit 40 dB and more are gone, below it nothing; a limit beyond half the rate changes nothing."""
    clip = noise(rate)
    heard = Conditions(band=1.0, band_hz=(2000.0, 2000.0), telephone=0.0)(clip, rate, 0.3)
    assert len(heard) == len(clip)
    half = rate / 2
    assert 10 * np.log10(power(clip, rate, 2200, half) / power(heard, rate, 2200, half)) > 40
    assert 10 * np.log10(power(clip, rate, 50, 1700) / power(heard, rate, 50, 1700)) == pytest.approx(0, abs=0.3)
    wide = Conditions(band=1.0, band_hz=(30000.0, 30000.0), telephone=0.0)
    assert np.array_equal(wide(clip, rate, 0.3), clip)


@pytest.mark.parametrize("rate", RATES)
def test_a_telephone_passes_speech_alone(rate: int) -> None:
    """300 to 3,400 Hz pass; 100 Hz and, where the rate has it, 5 kHz are far down."""
    clip = noise(rate)
    heard = Conditions(band=1.0, telephone=1.0)(clip, rate, 0.3)
    ratio = {
        ends: 10 * np.log10(power(clip, rate, *ends) / power(heard, rate, *ends))
        for ends in ((500, 3000), (40, 110), (min(5500, rate / 2 - 100), rate / 2))
    }
    middle, low, high = ratio.values()
    assert middle == pytest.approx(0, abs=0.5)
    assert low > 15
    assert high > 15


def test_a_room_keeps_level_and_length_and_rings() -> None:
    """The RMS is the clip's within 0.1 dB; what was silent after a burst sounds, and falls as RT60 says."""
    burst = np.zeros(16000, dtype=np.int16)
    burst[1000:1400] = noise(400)
    for u in UNIFORMS[:10]:
        heard = Conditions(room=1.0, room_seconds=(0.5, 0.5), room_db=(0.0, 0.0))(burst, 8000, u)
        assert len(heard) == len(burst)
        assert decibels(rms(heard), rms(burst)) == pytest.approx(0, abs=0.1)
        assert not heard[:1000].any()
        fall = decibels(rms(heard[1400:1800]), rms(heard[3000:3400]))  # 0.2 s apart: 24 dB of 60 in 0.5 s
        assert fall == pytest.approx(24, abs=3)


def test_direct_sound_stands_above_the_room() -> None:
    """The energy of a click is to that of its tail as `room_db` says."""
    click = np.zeros(8000, dtype=np.int16)
    click[100] = 30000
    for level in (0.0, 10.0):
        heard = Conditions(room=1.0, room_seconds=(0.3, 0.3), room_db=(level, level))(click, 8000, 0.4).astype(float)
        assert 10 * np.log10(heard[100] ** 2 / np.square(heard[101:]).sum()) == pytest.approx(level, abs=0.5)


def test_clipping_is_at_its_limit() -> None:
    """No sample is beyond the limit below the peak, those within it are as they were, many are at it."""
    clip = noise(8000)
    heard = Conditions(clipping=1.0, clipping_db=(12.0, 12.0))(clip, 8000, 0.2)
    limit = np.abs(clip).max() * 10 ** (-12 / 20)
    assert np.abs(heard).max() == pytest.approx(limit, abs=1)
    within = np.abs(clip) < limit - 1
    assert np.array_equal(heard[within], clip[within])
    assert (np.abs(heard) == np.abs(heard).max()).sum() > 500


def test_levels_fall_as_far_as_asked_and_are_rounded() -> None:
    """The RMS falls by the decibels drawn; at a very low level few values are left, as in a real recording."""
    clip = noise(8000)
    for level in (6.0, 20.0, 40.0):
        heard = Conditions(level=1.0, level_db=(level, level))(clip, 8000, 0.6)
        assert decibels(rms(clip), rms(heard)) == pytest.approx(level, abs=0.2)
    assert len(np.unique(Conditions(level=1.0, level_db=(70.0, 70.0))(clip, 8000, 0.6))) <= 9
    drops = [decibels(rms(clip), rms(Conditions(level=1.0)(clip, 8000, u))) for u in UNIFORMS]
    assert -0.1 < min(drops) < 8
    assert 42 < max(drops) < 50.5


def test_overdriven_levels_clip() -> None:
    """A quiet clip that goes up reaches full scale, most with many samples there; silence stays silence."""
    up = Conditions(level=1.0, overdrive=1.0)
    heard = [up(noise(8000, level=100), 8000, u) for u in UNIFORMS]
    assert all(wave.max() >= 32766 or wave.min() <= -32767 for wave in heard)
    assert np.mean([(np.abs(wave.astype(int)) >= 32767).sum() > 20 for wave in heard]) > 0.5
    assert not up(np.zeros(8000, np.int16), 8000, 0.5).any()


@pytest.mark.parametrize("rate", [*RATES, 12345])
def test_codecs_that_there_are_code(rate: int) -> None:
    """mu-law and 8 bits code any rate, and Vorbis; a coded clip is as long as before, like it, and not the same."""
    assert {"ULAW", "PCM_U8", "VORBIS"} <= {subtype for _, subtype in codecs(rate)}
    t = np.arange(rate) / rate
    clip = np.rint(9000 * np.sin(2 * np.pi * 440 * t) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * t))).astype(np.int16)
    outcomes = [Conditions(codec=1.0)(clip, rate, u) for u in UNIFORMS]
    for heard in outcomes:
        assert len(heard) == len(clip)
        assert 0 < rms(heard.astype(float) - clip) < 0.2 * rms(clip)
    assert len({wave.tobytes() for wave in outcomes}) >= len(codecs(rate))


@pytest.mark.parametrize("samples", [0, 1, SHORTEST - 1, SHORTEST, 200])
@pytest.mark.parametrize("level", [0, -32768, 32767])
def test_no_clip_is_too_short_or_too_loud(samples: int, level: int) -> None:
    """Empty, short, silent and full clips come back as int16, and never longer."""
    for u in UNIFORMS:
        heard = ALL(np.full(samples, level, np.int16), 22050, u)
        assert heard.dtype == np.int16
        assert len(heard) <= samples


def same(one: list[Batch], other: list[Batch]) -> bool:
    names = ("positions", "first", "second", "first_lengths", "second_lengths", "share")
    pairs = [(getattr(a, n), getattr(b, n)) for a, b in zip(one, other, strict=True) for n in names]
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def test_positions_and_not_workers_draw() -> None:
    """Any number of threads, any batch to begin with: the same bits. Another epoch or seed: others."""
    source = ArraySource([str(i) for i in range(12)], [noise(4000, i) for i in range(12)], 8000)
    batches = {
        workers: list(Loader(source, 4000, workers=workers, conditions=ALL).batches(EpochPlan(12, 0.5, 10, 3, 1), 4))
        for workers in (1, 4)
    }
    assert same(batches[1], batches[4])
    rest = list(Loader(source, 4000, conditions=ALL).batches(EpochPlan(12, 0.5, 10, 3, 1), 4, first_batch=1))
    assert same(rest, batches[1][1:])
    half = [list(Loader(source, 4000, conditions=ALL).batches(EpochPlan(12, 0, 10, 3, 1), 4, r, 2)) for r in (0, 1)]
    whole = list(Loader(source, 4000, conditions=ALL).batches(EpochPlan(12, 0, 10, 3, 1), 4))
    waves = {int(p): b.first[i, : b.first_lengths[i]].numpy() for b in whole for i, p in enumerate(b.positions)}
    for batch in [each for part in half for each in part]:
        for i, position in enumerate(batch.positions):
            assert np.array_equal(batch.first[i, : batch.first_lengths[i]].numpy(), waves[int(position)])


def test_first_and_second_of_a_mix_meet_their_own() -> None:
    """One clip mixed with itself: its two readings differ, and each differs from epoch to epoch."""
    source = ArraySource(["a"], [noise(4000)], 8000)
    loader = Loader(source, 4000, conditions=Conditions(level=1.0, level_db=(1.0, 30.0)))
    (one,), (other,) = (list(loader.batches(EpochPlan(1, 1.0, 10.0, 0, epoch), 1)) for epoch in (0, 1))
    assert len({each.numpy().tobytes() for each in (one.first, one.second, other.first, other.second)}) == 4


def test_off_is_what_it_was() -> None:
    """Without a rate the recipe's loader has no conditions and the bits are the same; with one, the cut stays."""
    source = ArraySource([str(i) for i in range(6)], [noise(40000, i) for i in range(6)], 16000)
    plan, base = EpochPlan(6, 0.5, 10.0, 0, 0), {"waveform.crop_frames": 50, "masking.time": 10}
    off = training_loader(Recipe.load("esc50", base), source)
    assert off.conditions is None
    assert off.cut is not None
    never = Loader(source, off.limit_samples, cut=off.cut, conditions=Conditions(level=1.0, level_db=(0.0, 0.0)))
    assert same(list(off.batches(plan, 3)), list(never.batches(plan, 3)))
    on = training_loader(Recipe.load("esc50", {**base, "conditions.noise": 0.5}), source)
    assert on.conditions == Conditions(noise=0.5)
    assert isinstance(on.cut, Cut)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("conditions.noise", 1.5, "less than or equal to 1"),
        ("conditions.noise_db", [30, 10], "the lowest stands first"),
        ("conditions.band_hz", [10, 8000], "greater than or equal to 100"),
        ("conditions.room_seconds", [1], "required"),
        ("conditions.wind", 0.5, "known here: excerpt"),
        ("conditions.excerpt_by", "ear", "'uniform' or 'energy'"),
    ],
)
def test_impossible_conditions_are_refused(key: str, value: Any, rule: str) -> None:
    """One sentence names the key and the rule."""
    with pytest.raises(RecipeError, match=rule) as caught:
        Recipe.load("esc50", {key: value})
    assert key in str(caught.value)


def test_a_recipe_keeps_its_conditions() -> None:
    """Written as YAML and read back, the recipe is equal, ranges included."""
    recipe = Recipe.load("esc50", {"conditions.noise": 0.5, "conditions.noise_db": [5, 20]})
    assert recipe.conditions.noise_db == (5.0, 20.0)
    assert "!!" not in recipe.to_yaml()
    assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe
