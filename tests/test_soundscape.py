"""Laws of the synthesised soundscapes: what is drawn, what is heard, what is labelled."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psla.data.vocabulary import Vocabulary
from psla.synth import scene as soundscape
from psla.synth.scene import SoundscapeConfig, ancestors, describe, from_uri, synthesise, table, uri
from psla.synth.sound_events import EVENTS
from sound_measures import RATE, difference, lines

DIAL_TONE, WHISTLE, TICK = "/m/015jpf", "/m/0l156k", "/m/07qjznt"

configs = st.builds(
    SoundscapeConfig,
    seed=st.integers(0, 2**32 - 1),
    seconds=st.floats(0.2, 60),
    imbalance=st.floats(1, 10000),
    max_events=st.integers(1, 16),
    snr=st.tuples(st.floats(-30, 0), st.floats(0, 60)),
    room=st.floats(0, 3),
    classes=st.integers(0, len(EVENTS)),
)
indices = st.integers(0, 2**32 - 1)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 2**32 - 2), seconds=st.floats(0.2, 1.0))
def test_same_bits_and_exact_length(seed, index, seconds):
    """The same seed and index give the same bits, another index or seed others; the length is exact."""
    config = SoundscapeConfig(seed=seed, seconds=seconds)
    wave = synthesise(config, index, RATE)
    assert wave.dtype == np.int16
    assert wave.shape == (round(seconds * RATE),)
    assert np.array_equal(wave, synthesise(config, index, RATE))
    assert not np.array_equal(wave, synthesise(config, index + 1, RATE))
    assert not np.array_equal(wave, synthesise(replace(config, seed=seed ^ 1), index, RATE))


@pytest.mark.parametrize("rate", [24000, 32000])
def test_a_scene_is_the_same_at_every_rate(rate):
    """At another rate the length is exact, and the same is heard below 7 kHz: bands of 40 ms agree to 1.5 dB in mean.

    A scene is its events, their times and levels, the room and the noise; the two noises above 8 kHz are not compared.
    """
    for index in range(12):
        config = SoundscapeConfig(seconds=1.7, imbalance=1.0, room=0.8 * (index % 2))
        wave, other = synthesise(config, index, RATE), synthesise(config, index, rate)
        assert other.shape == (round(1.7 * rate),)
        assert other.dtype == np.int16
        assert np.array_equal(other, synthesise(config, index, rate))
        mean, level = difference(wave.astype(float), other.astype(float), rate)
        assert mean < 1.5
        assert abs(level) < 4  # both are scaled to the same peak


@pytest.mark.parametrize(
    "change", [{"imbalance": 1.0}, {"max_events": 1}, {"snr": (0.0, 5.0)}, {"room": 0.0}, {"classes": 2}]
)
def test_every_audible_field_is_heard(change):
    """Each field that an address carries changes the audio of some clip; the others change none."""
    config = SoundscapeConfig(seconds=0.4)
    waves = [synthesise(config, i, RATE) for i in range(5)]
    assert any(not np.array_equal(w, synthesise(replace(config, **change), i, RATE)) for i, w in enumerate(waves))
    silent = replace(config, clips=3, missing_children=0.5, missing_parents=0.5)
    assert all(np.array_equal(w, synthesise(silent, i, RATE)) for i, w in enumerate(waves))


@settings(max_examples=50, deadline=None)
@given(config=configs, index=indices)
def test_events_lie_in_the_clip(config, index):
    """Events are 1 .. max_events, lie within the clip in order, and last long enough to be synthesised."""
    events = describe(config, index).events
    assert 1 <= len(events) <= config.max_events
    assert [e[1] for e in events] == sorted(e[1] for e in events)
    for id, onset, offset in events:
        assert id in EVENTS
        assert 0 <= onset < offset <= config.seconds
        assert offset - onset >= min(0.19, EVENTS[id].seconds[0])


def test_labels_are_closed_under_ancestors():
    """With nothing missing the labels are the events' classes and all their ancestors; a child class has a parent's."""
    for index in range(200):
        scene = describe(SoundscapeConfig(), index)
        assert scene.labels == scene.true_labels
        assert {id for id, _, _ in scene.events} <= set(scene.labels)
        assert all(ancestors(id) <= set(scene.labels) for id in scene.labels if id in EVENTS)
        assert all(id in EVENTS or any(id in ancestors(e) for e, _, _ in scene.events) for id in scene.labels)


def test_ancestors_are_those_of_audioset():
    """The walk goes through blacklisted classes and ends at abstract ones."""
    names = {Vocabulary.audioset()[id].name for id in ancestors(TICK)}
    assert names == {"Clock", "Mechanisms", "Clicking"}
    assert list(soundscape.vocabulary().ids) == [i for i in Vocabulary.audioset().ids if i in soundscape.vocabulary()]


def test_missing_labels_occur_at_their_rates():
    """Over 2000 scenes the two kinds of missing labels occur at the asked rates, and never leave a clip bare."""
    full = [describe(SoundscapeConfig(seed=5), i) for i in range(2000)]
    for kind in ("children", "parents"):
        config = SoundscapeConfig(seed=5, **{f"missing_{kind}": 0.3})
        kept = total = 0
        for index, before in enumerate(full):
            scene = describe(config, index)
            assert scene.labels
            assert scene.events == before.events
            assert scene.true_labels == before.true_labels
            assert set(scene.labels) <= set(scene.true_labels)
            own = {id for id, _, _ in scene.events if ancestors(id)}
            group = own if kind == "children" else set(scene.true_labels) - {id for id, _, _ in scene.events}
            other = set(scene.true_labels) - group
            assert other <= set(scene.labels)
            kept, total = kept + len(group & set(scene.labels)), total + len(group)
        assert 1 - kept / total == pytest.approx(0.3, abs=0.03)


def test_a_child_is_left_out_only_under_a_parent():
    """A clip never loses all labels, and an event's class is missing only where an ancestor stays."""
    config = SoundscapeConfig(missing_children=1.0, missing_parents=0.7)
    for index in range(300):
        scene = describe(config, index)
        assert scene.labels
        for id, _, _ in scene.events:
            assert (id in scene.labels) == (not ancestors(id) & set(scene.labels))


@pytest.mark.parametrize("imbalance", [1.0, 20.0])
def test_classes_are_long_tailed(imbalance):
    """The most frequent class occurs `imbalance` times as often as the rarest, in evaluation indices as in training."""
    config = SoundscapeConfig(imbalance=imbalance)
    chance = soundscape.class_probabilities(imbalance)
    assert chance[0] / chance[-1] == pytest.approx(imbalance)
    for first in (0, 50_000):
        counts = Counter(id for i in range(first, first + 1500) for id, _, _ in describe(config, i).events)
        expected = chance * counts.total()
        seen = np.array([counts[id] for id in EVENTS])
        assert np.all(np.abs(seen - expected) < 5 * np.sqrt(expected))


def test_events_are_heard():
    """The mean power while an event sounds exceeds that of the noise before and after it, in most clips by far."""
    config = SoundscapeConfig(max_events=1, room=0.0, imbalance=1.0, snr=(10.0, 20.0))
    gains = []
    for index in range(120):
        _, onset, offset = describe(config, index).events[0]
        power = synthesise(config, index, RATE).astype(float) ** 2
        first, last = round(onset * RATE), round(offset * RATE)
        outside = np.concatenate([power[:first], power[last:]])
        if len(outside) > 4000:
            gains.append(10 * np.log10(power[first:last].mean() / outside.mean()))
    assert len(gains) > 40
    assert np.median(gains) > 6
    assert min(gains) > 0


def test_a_tone_survives_the_mixing():
    """A clip with only a loud dial tone or whistle has its spectral peak in that sound's band, in a room too."""
    config, found = SoundscapeConfig(max_events=1, imbalance=1.0, snr=(20.0, 20.0), classes=13), 0
    for index in range(150):
        id, onset, offset = describe(config, index).events[0]
        if id in (DIAL_TONE, WHISTLE):
            low, high = {DIAL_TONE: (340, 460), WHISTLE: (1800, 4200)}[id]
            part = synthesise(config, index, RATE)[round(onset * RATE) : round(offset * RATE)]
            assert low <= lines(part, 1)[0] <= high
            found += 1
    assert found > 5


@settings(deadline=None)
@given(config=configs, index=indices)
def test_address_round_trip(config, index):
    """An address gives back the config and the index, and so carries all that the audio depends on."""
    assert from_uri(uri(config, index)) == (config, index)
    assert from_uri(uri(replace(config, clips=7, missing_children=0.5, missing_parents=0.5), index)) == (config, index)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file:///tmp/a.wav",
        "soundscape://1",
        "soundscape://a/1",
        "soundscape://1/-2",
        "soundscape://1/2?",
        "soundscape://1/2?colour=red",
        "soundscape://1/2?seconds=1.0&seconds=2.0",
        "soundscape://1/2?seconds=long",
        "soundscape://1/2?seconds=nan",
        "soundscape://1/2?seconds",
        "soundscape://1/2?max_events=1.5",
        "soundscape://1/2?snr=1.0",
        "soundscape://1/2?missing_parents=0.5",
        f"soundscape://1/{2**32}",
    ],
)
def test_malformed_address_is_refused(text):
    """What is not an address of a soundscape is refused with a sentence that quotes it."""
    with pytest.raises(ValueError, match="address") as refusal:
        from_uri(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1},
        {"seed": 1.0},
        {"seconds": float("nan")},
        {"clips": 0},
        {"imbalance": 0.5},
        {"max_events": 0},
        {"snr": (9.0, 3.0)},
        {"room": -1.0},
        {"missing_children": 1.5},
        {"missing_parents": -0.1},
        {"classes": -1},
        {"events_split": "train"},
        {"events": "recordings.parquet", "events_split": "test"},
    ],
)
def test_config_refuses(change):
    """A value out of range is refused by name."""
    with pytest.raises(ValueError, match=list(change)[-1]):
        SoundscapeConfig(**change)


def test_fewer_classes_are_the_most_frequent():
    """With `classes` the first of them sound, and no other label occurs; more than there are is refused."""
    config = SoundscapeConfig(classes=5, clips=60)
    heard = {event["class_id"] for row in table(config) for event in row["events"]}
    assert heard == set(list(EVENTS)[:5])
    assert set(soundscape.vocabulary(config).ids) == heard.union(*map(ancestors, heard))
    assert soundscape.class_ids(SoundscapeConfig()) == tuple(EVENTS)
    with pytest.raises(ValueError, match=f"classes must be a number up to {len(EVENTS)}"):
        describe(SoundscapeConfig(classes=len(EVENTS) + 1), 0)


def test_table_rows():
    """Rows have the columns of a clip table, ids are unique over seeds, and each path leads to the clip of its row."""
    rows = [row for seed in (0, 1) for row in table(SoundscapeConfig(seed=seed, clips=20), split="validation", first=3)]
    assert len({row["clip_id"] for row in rows}) == 40
    for row in rows:
        config, index = from_uri(row["path"])
        scene = describe(config, index)
        assert row["clip_id"] == row["source"] == f"s{config.seed}_{index:07d}"
        assert (row["start_s"], row["end_s"], row["split"]) == (0.0, 2.56, "validation")
        assert row["labels"] == row["true_labels"] == list(scene.labels)
        assert set(row["true_labels"]) <= set(soundscape.vocabulary().ids)
        assert [(e["class_id"], e["onset_s"], e["offset_s"]) for e in row["events"]] == list(scene.events)
