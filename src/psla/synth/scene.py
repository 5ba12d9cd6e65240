"""Soundscapes: the embedded corpus, synthesised from a seed and an index; nothing to download and nothing to store.

A scene is drawn first (`describe`), then rendered (`synthesise`): sound events at random times over noise of random
colour, half of the clips in a room. The classes are AudioSet's, their frequencies fall by a power law, and since the
truth is known, labels can be left out on purpose in the paper's two ways (section on label enhancement): type I, a clip
with the parent's label but not the child's; type II, with the child's label but not the parent's.

The events are the models of `sound_events`, or recordings (`recordings`); all else is the same for both. What a clip is
drawn from, and its address: `config`. A whole corpus with its splits: `corpus`.

Bits repeat on one machine; another processor or numpy version may round a sample differently by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from psla.audio.decode import AudioError, from_array
from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary
from psla.synth.config import SoundscapeConfig as SoundscapeConfig
from psla.synth.config import from_uri as from_uri
from psla.synth.config import uri as uri
from psla.synth.config import within
from psla.synth.signals import GRID, Signals, band, colour, fast_length, frequencies
from psla.synth.sound_events import EVENTS, EventSource, SynthesisedEvents, Take

FACTS: Mapping[str, str] = {
    "name": "soundscape",
    "source": "synthesised by psla",
    "licence": "CC0-1.0 (the sounds); class names and graph: AudioSet, CC BY 4.0 and CC BY-SA 4.0",
    "citation": "The psla developers: psla, synthesised soundscapes.",
}
"""What the corpus is: name, source, licence, citation."""


@dataclass(frozen=True)
class Scene:
    """What sounds in a clip, and what its annotation says.

    Attributes:
        events: (class id, onset in s, offset in s), in the order of their onsets.
        labels: class ids of the annotation, in the order of `vocabulary`.
        true_labels: class ids of the events and all their ancestors, in the same order.
        takes: what was drawn of each event, in the order of `events`.
    """

    events: tuple[tuple[str, float, float], ...]
    labels: tuple[str, ...]
    true_labels: tuple[str, ...]
    takes: tuple[Take, ...]


@cache
def ancestors(class_id: str) -> frozenset[str]:
    """The ids of AudioSet's vocabulary above a class: of its `Ontology.concrete_ancestors`.

    Example:
        >>> sorted(Vocabulary.audioset()[id].name for id in ancestors("/m/015jpf"))
        ['Alarm', 'Telephone']
    """
    above = Ontology.audioset().concrete_ancestors(class_id)
    return frozenset(id for id in above if id in Vocabulary.audioset())


def event_source(config: SoundscapeConfig) -> EventSource:
    """What the events come from: the models of `sound_events`, or the recordings that the config names.

    Raises:
        AudioError: the table of recordings cannot be read, or has none of the split.
    """
    if config.events:
        from psla.synth.recordings import open_events

        return open_events(config.events, config.events_split)
    return SynthesisedEvents()


def class_ids(config: SoundscapeConfig) -> tuple[str, ...]:
    """The classes of the events, the most frequent first.

    Raises:
        ValueError: more `classes` than there are.
        AudioError: as `event_source`.

    Example:
        >>> class_ids(SoundscapeConfig(classes=2))
        ('/m/06mb1', '/m/02mk9')
    """
    ids = event_source(config).class_ids
    if config.classes > len(ids):
        raise ValueError(f"classes must be a number up to {len(ids)}, for so many sound; got {config.classes}")
    return ids[: config.classes or len(ids)]


def vocabulary(config: SoundscapeConfig | None = None) -> Vocabulary:
    """The classes that a soundscape can be labelled with: those of its events and their ancestors, in AudioSet's order.

    Args:
        config: of the soundscapes; None: the default, all classes of `EVENTS`.

    Raises:
        ValueError, AudioError: as `class_ids`.

    Example:
        >>> len(vocabulary()), vocabulary().names[:3]
        (68, ['Animal', 'Wild animals', 'Bird'])
        >>> len(vocabulary(SoundscapeConfig(classes=13)))
        28
    """
    return _vocabulary(tuple(EVENTS) if config is None else class_ids(config))


@cache
def _vocabulary(events: tuple[str, ...]) -> Vocabulary:
    ids = set(events).union(*map(ancestors, events))
    ordered = [c for c in Vocabulary.audioset() if c.id in ids]
    return Vocabulary([c.id for c in ordered], [c.name for c in ordered])


@cache
def class_probabilities(imbalance: float, classes: int = len(EVENTS)) -> np.ndarray:
    """(classes,) float64, how often an event is of each class, the most frequent first.

    The class of rank r (from 1) has the weight r ** -a; a is such that the first is `imbalance` times the last.
    """
    ranks = np.arange(1, classes + 1)
    weights = ranks ** -(math.log(imbalance) / math.log(max(classes, 2)))
    return weights / weights.sum()


def describe(config: SoundscapeConfig, index: int) -> Scene:
    """Draws the scene of one clip, from `config` and `index` alone.

    The events do not depend on `missing_children` and `missing_parents`, and a higher rate only leaves out more.

    Raises:
        ValueError: an index outside 0 .. 2**32 - 1, or as `class_ids`.
        AudioError: as `event_source`.

    Example:
        >>> scene = describe(SoundscapeConfig(seed=1, missing_parents=1.0), 0)
        >>> set(scene.labels) == {id for id, onset_s, offset_s in scene.events}
        True
    """
    within("index", index, 0, 2**32 - 1, whole=True)
    rng = np.random.default_rng([config.seed, index])
    source, classes, names = event_source(config), class_ids(config), vocabulary(config).ids
    count = int(rng.integers(1, config.max_events + 1))
    drawn = rng.choice(len(classes), size=count, p=class_probabilities(float(config.imbalance), len(classes)))
    found = []
    for class_id in [classes[i] for i in drawn]:
        take = source.draw(rng, class_id, config.seconds)
        moment, early = rng.uniform(), rng.uniform() < 0.5
        onset = moment * (config.seconds - min(take.inside, config.seconds))
        onset = 0.0 if early and take.background else round(onset, 4)  # half of the lasting sounds began before
        found.append(((class_id, onset, min(round(onset + take.seconds, 4), float(config.seconds))), take))
    found.sort(key=lambda pair: pair[0][1])
    own = {event[0] for event, _ in found}
    true = own.union(*map(ancestors, own))
    chance = dict(zip(names, rng.uniform(size=len(names)), strict=True))
    kept = {id for id in true - own if chance[id] >= config.missing_parents}
    for id in sorted(own, key=lambda id: len(ancestors(id))):  # an event's class may be above another's
        if chance[id] >= config.missing_children or not ancestors(id) & kept:
            kept.add(id)
    events, takes = zip(*found, strict=True)
    return Scene(events, tuple(c for c in names if c in kept), tuple(c for c in names if c in true), takes)


def synthesise(config: SoundscapeConfig, index: int, rate: int) -> np.ndarray:
    """Renders one clip: (round(config.seconds * rate),) int16, its peak -18 .. -1 dB below full scale.

    The scene sounds the same at every rate: what a faster one adds lies above 8 kHz (see `signals`).

    Args:
        config, index: which clip.
        rate: samples a second, 16 kHz or more.

    Raises:
        ValueError: an index outside 0 .. 2**32 - 1, a rate that is too low, or as `class_ids`.
        AudioError: as `event_source`, or a recording that cannot be read.

    Example:
        >>> synthesise(SoundscapeConfig(seconds=0.5), 7, rate=32000).shape
        (16000,)
    """
    scene, source = describe(config, index), event_source(config)
    rng = np.random.default_rng([config.seed, index, 1])
    signals = Signals.lasting(config.seconds, int(rate))
    background = signals.noise(rng, colour(rng.uniform(0, 1.2), rng.uniform(50, 300)))  # the level that snr refers to
    foreground = np.zeros(signals.n, dtype=np.float32)
    for (class_id, onset, offset), take in zip(scene.events, scene.takes, strict=True):
        wave = source.render(rng, class_id, take, offset - onset, signals.rate)
        level = 10 ** (rng.uniform(*config.snr) / 20) / _loudest(wave, signals.rate)
        start = min(round(onset * signals.rate), signals.n - 1)
        foreground[start : start + len(wave)] += wave[: signals.n - start] * np.float32(level)
    if config.room > 0 and rng.uniform() < 0.5:  # else out of doors
        foreground = _reverberate(rng, foreground, config.room, signals.rate)
    mixture = foreground + background
    peak = 10 ** (rng.uniform(-18, -1) / 20)
    mixture *= 32767 * peak / max(float(mixture.max()), -float(mixture.min()))
    return np.rint(mixture, out=mixture).astype(np.int16)


def _loudest(wave: np.ndarray, rate: int) -> float:
    """Root mean square of the loudest 64 ms."""
    frame = min(round(0.064 * rate), len(wave))
    frames = wave[: len(wave) // frame * frame].reshape(-1, frame)
    return max(float(np.sqrt(np.mean(frames * frames, axis=1).max())), 1e-6)


def _reverberate(rng: np.random.Generator, wave: np.ndarray, longest: float, rate: int) -> np.ndarray:
    """Adds the sound of a room: convolution with decaying noise, 60 dB down after up to `longest` seconds."""
    seconds, level = longest * rng.uniform(0.1, 1), 10 ** (rng.uniform(-24, -6) / 20)
    tail = Signals.lasting(seconds * 0.75, rate)  # the last quarter lies below -45 dB
    decay = np.exp(np.arange(tail.n, dtype=np.float32) * np.float32(-math.log(1000) / (seconds * rate)))
    response = tail.white(rng) * decay
    response *= level / float(np.sqrt(np.sum(response * response)))
    length = fast_length(len(wave) + tail.n)
    spectrum = np.fft.rfft(wave, length)
    spectrum *= np.fft.rfft(response, length)
    spectrum *= band(80, rng.uniform(2000, 7000))(frequencies(length, rate))
    return wave + np.fft.irfft(spectrum, length)[: len(wave)]


def read_address(address: str, rate: int, start_s: float | None = None, end_s: float | None = None) -> np.ndarray:
    """Synthesise the soundscape at an address, and cut the span from `start_s` to `end_s` seconds out of it.

    Shape:
        (samples,) int16 at `rate` Hz.

    Raises:
        AudioError: a malformed address.
    """
    try:
        config, index = from_uri(address)
    except ValueError as error:
        raise AudioError(address, str(error)) from error
    own = max(rate, round(GRID))  # a lower one is resampled, as a recording would be
    wave = synthesise(config, index, own)[round((start_s or 0.0) * own) : None if end_s is None else round(end_s * own)]
    return wave if rate == own else from_array(wave, own, rate)


def table(config: SoundscapeConfig, split: str = "train", first: int = 0) -> list[dict[str, Any]]:
    """The rows of a corpus: clips first .. first + config.clips - 1, one dict each.

    Splits with the same seed must not share indices; `first` sets them apart. With recorded events, the column
    `event_sources` has the source of each event's recording.

    Example:
        >>> row = table(SoundscapeConfig(clips=2), split="evaluation", first=5)[1]
        >>> row["clip_id"], row["path"], row["split"]
        ('s0_0000006', 'soundscape://0/6?seconds=2.56', 'evaluation')
    """
    rows = []
    for index in range(first, first + config.clips):
        scene, clip_id = describe(config, index), f"{'r' if config.events else 's'}{config.seed}_{index:07d}"
        events = [{"class_id": id, "onset_s": onset, "offset_s": offset} for id, onset, offset in scene.events]
        row: dict[str, Any] = {"clip_id": clip_id, "source": clip_id, "path": uri(config, index), "split": split}
        row |= {"start_s": 0.0, "end_s": float(config.seconds), "events": events}
        row |= {"event_sources": [take.source for take in scene.takes]} if config.events else {}
        rows.append(row | {"labels": list(scene.labels), "true_labels": list(scene.true_labels)})
    return rows
