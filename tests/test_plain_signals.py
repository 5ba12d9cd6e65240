"""Laws of the plain signals: an address says all; level and labels are those stated; any rate is the same sound."""

from __future__ import annotations

import numpy as np
import pytest

from psla.audio.decode import AudioError
from psla.data.inventory import take_inventory
from psla.data.source import open_source
from psla.data.vocabulary import Vocabulary
from psla.synth.plain_signals import KINDS, LEVEL_DBFS, SECONDS, describe, make, read_address, synthesise

COUNT = 3 * len(KINDS)
NAMES = {
    "silence": {"Silence"},
    "last_bit": {"Silence"},
    "offset": {"Silence"},
    "white": {"White noise", "Noise", "Static"},
    "pink": {"Pink noise", "Noise"},
    "brown": {"Noise"},
    "clipped": {"Noise", "Distortion"},
    "hum": {"Mains hum", "Hum"},
    "sine": {"Sine wave"},
    "sweep": {"Chirp tone"},
    "clicks": {"Clicking"},
}


def of_kind(kind: str, seed: int = 3, least_s: float = 0.5) -> int:
    """The index of a clip of a kind that is long and loud enough to be measured."""
    first = list(KINDS).index(kind)
    for index in range(first, 10_000, len(KINDS)):
        if describe(seed, index).seconds > least_s and (kind == "last_bit" or describe(seed, index).level_dbfs > -30):
            return index
    raise AssertionError(kind)


def test_labels_are_what_sounds() -> None:
    """Every kind has the classes that the table above names, by AudioSet's names, in the clips of a table too."""
    names = {kind: {Vocabulary.audioset()[id].name for id in made.labels} for kind, made in KINDS.items()}
    assert names == NAMES
    clips = make(COUNT, seed=3)
    assert clips.vocabulary == Vocabulary.audioset()
    for kind, labels in clips.frame.select("kind", "labels").rows():
        assert tuple(labels) == KINDS[kind].labels
    assert clips.frame["kind"].value_counts()["count"].to_list() == [3] * len(KINDS)


@pytest.mark.parametrize("index", range(COUNT))
def test_length_and_level_are_those_stated(index: int) -> None:
    """As many samples as the seconds say, and the peak at the level, but for silence and the last bit."""
    signal, wave = describe(3, index), synthesise(3, index, 16000)
    assert len(wave) == round(signal.seconds * 16000)
    assert SECONDS[0] <= signal.seconds <= SECONDS[1]
    assert LEVEL_DBFS[0] <= signal.level_dbfs <= LEVEL_DBFS[1] or signal.kind == "last_bit"
    peak = np.abs(wave.astype(int)).max()
    stated = {"silence": 0, "last_bit": 1}.get(signal.kind, 32767 * 10 ** (signal.level_dbfs / 20))
    assert peak == pytest.approx(stated, abs=0.51)
    assert np.array_equal(wave, read_address(f"signal://3/{index}", 16000))


def test_seeds_and_indices_set_clips_apart() -> None:
    """No two clips with sound in them are the same, within a seed or between two."""
    loud = [synthesise(seed, i, 16000) for seed in (0, 1) for i in range(COUNT) if describe(seed, i).kind != "silence"]
    assert len({wave.tobytes() for wave in loud}) == len(loud)


def spectrum(wave: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    return np.fft.rfftfreq(len(wave), 1 / rate), np.square(np.abs(np.fft.rfft(wave.astype(np.float64))))


@pytest.mark.parametrize(("kind", "fall"), [("white", 0.0), ("pink", 3.0), ("brown", 6.0)])
def test_noises_fall_as_they_should(kind: str, fall: float) -> None:
    """Decibels an octave, between 250 Hz and 4 kHz: four octaves."""
    f, power = spectrum(synthesise(3, of_kind(kind, least_s=2.0), 16000), 16000)
    low, high = (power[(f > centre * 0.8) & (f < centre * 1.25)].mean() for centre in (250, 4000))
    assert 10 * np.log10(low / high) / 4 == pytest.approx(fall, abs=0.6)


def test_tones_hum_clicks_and_offsets() -> None:
    """A sine is one line; hum lies on multiples of 50 or 60 Hz; clicks are few samples; an offset is one number."""
    f, power = spectrum(synthesise(3, of_kind("sine"), 16000), 16000)
    line = abs(f - f[power.argmax()]) < 20
    assert power[line].sum() > 0.95 * power.sum()
    wave = synthesise(3, of_kind("hum", least_s=2.0), 16000)
    f, power = spectrum(wave, 16000)
    on = {mains: sum(power[abs(f - k * mains) < 5].sum() for k in range(1, 25)) / power.sum() for mains in (50, 60)}
    assert max(on.values()) > 0.95
    clicks = synthesise(3, of_kind("clicks"), 16000)
    assert 0 < np.count_nonzero(clicks) <= 20 * len(clicks) / 16000 + 1
    offset = synthesise(3, of_kind("offset"), 16000)
    assert len(np.unique(offset)) == 1
    assert offset[0] != 0
    assert set(np.unique(synthesise(3, of_kind("last_bit"), 16000)).tolist()) == {-1, 0, 1}
    clipped = synthesise(3, of_kind("clipped"), 16000).astype(int)
    assert (np.abs(clipped) >= np.abs(clipped).max() - 1).mean() > 0.3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("silence", "last_bit", "clicks", "clipped")])
def test_another_rate_is_the_same_sound(kind: str) -> None:
    """At 32 kHz the sound below 7 kHz is that of 16 kHz, but for the level, which is that of the other's peak."""
    index = of_kind(kind)
    (f, low), (g, high) = (spectrum(synthesise(3, index, rate), rate) for rate in (16000, 32000))
    count = min((f < 7000).sum(), (g < 7000).sum())
    a, b = np.sqrt(low[:count]), np.sqrt(high[:count])
    assert np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)) > 0.99
    assert len(read_address(f"signal://3/{index}", 8000)) == pytest.approx(8000 * describe(3, index).seconds, abs=1)


def test_a_table_is_read_and_is_always_there() -> None:
    """An inventory keeps all of it; a source reads it at the rate asked for, and spans of it."""
    clips, found = take_inventory(make(COUNT, seed=3))
    assert (len(clips), found.missing, found.unreadable) == (COUNT, [], [])
    source = open_source(clips, 22050)
    assert all(np.array_equal(source.read(i), synthesise(3, i, 22050)) for i in range(COUNT))
    index = of_kind("white")
    whole = read_address(f"signal://3/{index}", 16000)
    assert np.array_equal(read_address(f"signal://3/{index}", 16000, 0.1, 0.3), whole[1600:4800])


@pytest.mark.parametrize("address", ["signal://3", "signal://3/x", f"signal://{2**32}/0", "signal://3/0?seconds=1"])
def test_a_malformed_address_is_an_audio_error(address: str) -> None:
    """The error has the address for its path."""
    with pytest.raises(AudioError) as caught:
        read_address(address, 16000)
    assert caught.value.path == address
