"""Soundscapes: the embedded corpus, synthesised from a seed and an index; nothing to download and nothing to store.

A scene is drawn first (`describe`), then rendered (`synthesise`): sound events at random times over noise of random
colour, half of the clips in a room. The classes are AudioSet's, their frequencies fall by a power law, and since the
truth is known, labels can be left out on purpose in the paper's two ways (section on label enhancement): type I, a clip
with the parent's label but not the child's; type II, with the child's label but not the parent's.

Bits repeat on one machine; another processor or numpy version may round a sample differently by one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np

from psla.data.corpora.signals import RATE, band, colour, fast_length, frequencies, noise
from psla.data.corpora.sound_events import EVENTS
from psla.data.ontology import Ontology
from psla.data.vocabulary import Vocabulary

FACTS: Mapping[str, str] = {
    "name": "soundscape",
    "source": "synthesised by psla",
    "licence": "CC0-1.0 (the sounds); class names and graph: AudioSet, CC BY 4.0 and CC BY-SA 4.0",
    "citation": "The psla developers: psla, synthesised soundscapes.",
}
"""What the corpus is: name, source, licence, citation."""


@dataclass(frozen=True)
class SoundscapeConfig:
    """What a corpus of soundscapes is drawn from.

    Attributes:
        seed: 0 .. 2**32 - 1; corpora with different seeds share no clip.
        seconds: length of a clip, 0.2 .. 60 s.
        clips: number of clips that `table` lists, at least 1.
        imbalance: how many times more often the most frequent class occurs than the rarest, 1 (balanced) .. 10000.
        max_events: a clip has 1 .. max_events events, at most 16.
        snr: lowest and highest level of an event above the noise, in dB within -30 .. 60: the mean power of its
            loudest 64 ms against that of the noise.
        room: longest reverberation time (60 dB) in seconds, 0 .. 3; half of the clips, or all at 0, are out of doors.
        missing_children: probability that an event's class is left out of the labels where an ancestor's stays, 0 .. 1.
        missing_parents: probability that a label of an ancestor class is left out, 0 .. 1.

    Raises:
        ValueError: a value outside its range.

    Example:
        >>> SoundscapeConfig(seconds=1.0).samples
        16000
    """

    seed: int = 0
    seconds: float = 2.56
    clips: int = 1000
    imbalance: float = 20.0
    max_events: int = 4
    snr: tuple[float, float] = (5.0, 25.0)
    room: float = 0.8
    missing_children: float = 0.0
    missing_parents: float = 0.0

    def __post_init__(self) -> None:
        _within("seed", self.seed, 0, 2**32 - 1, whole=True)
        _within("clips", self.clips, 1, 2**32, whole=True)
        _within("max_events", self.max_events, 1, 16, whole=True)
        ranges = {"seconds": (0.2, 60), "imbalance": (1, 10000), "room": (0, 3)}
        for name, (low, high) in {**ranges, "missing_children": (0, 1), "missing_parents": (0, 1)}.items():
            _within(name, getattr(self, name), low, high)
        if len(self.snr) != 2 or not -30 <= self.snr[0] <= self.snr[1] <= 60:
            raise ValueError(f"snr must be two levels in dB, -30 <= lowest <= highest <= 60; got {self.snr}")

    @property
    def samples(self) -> int:
        """Length of a clip in samples at 16 kHz."""
        return round(self.seconds * RATE)


@dataclass(frozen=True)
class Scene:
    """What sounds in a clip, and what its annotation says.

    Attributes:
        events: (class id, onset in s, offset in s), in the order of their onsets.
        labels: class ids of the annotation, in the order of `vocabulary`.
        true_labels: class ids of the events and all their ancestors, in the same order.
    """

    events: tuple[tuple[str, float, float], ...]
    labels: tuple[str, ...]
    true_labels: tuple[str, ...]


def _within(name: str, value: float, low: float, high: float, whole: bool = False) -> None:
    right_type = isinstance(value, int) if whole else isinstance(value, int | float)
    if not right_type or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a{' whole' if whole else ''} number from {low} to {high}; got {value!r}")


@cache
def ancestors(class_id: str) -> frozenset[str]:
    """The ids of AudioSet's vocabulary above a class.

    The walk ends at a class that is only `abstract`: it groups words ("Onomatopoeia") or ignorance of the source, not
    sounds. Other classes outside the vocabulary are walked through.

    Example:
        >>> sorted(Vocabulary.audioset()[id].name for id in ancestors("/m/015jpf"))
        ['Alarm', 'Telephone']
    """
    ontology, found = Ontology.audioset(), set()
    ahead = list(ontology.parents(class_id))
    while ahead:
        step = ahead.pop()
        if step not in found and ontology.restrictions(step) != {"abstract"}:
            found.add(step)
            ahead.extend(ontology.parents(step))
    return frozenset(id for id in found if id in Vocabulary.audioset())


@cache
def vocabulary() -> Vocabulary:
    """The classes that a soundscape can be labelled with: those of `EVENTS` and their ancestors, in AudioSet's order.

    Example:
        >>> len(vocabulary()), vocabulary().names[:3]
        (28, ['Animal', 'Wild animals', 'Insect'])
    """
    ids = set(EVENTS).union(*(ancestors(id) for id in EVENTS))
    ordered = [c for c in Vocabulary.audioset() if c.id in ids]
    return Vocabulary([c.id for c in ordered], [c.name for c in ordered])


@cache
def class_probabilities(imbalance: float) -> np.ndarray:
    """(len(EVENTS),) float64, how often an event is of each class, in the order of `EVENTS`.

    The class of rank r (from 1) has the weight r ** -a; a is such that the first is `imbalance` times the last.
    """
    ranks = np.arange(1, len(EVENTS) + 1)
    weights = ranks ** -(math.log(imbalance) / math.log(len(EVENTS)))
    return weights / weights.sum()


def describe(config: SoundscapeConfig, index: int) -> Scene:
    """Draws the scene of one clip, from `config` and `index` alone.

    The events do not depend on `missing_children` and `missing_parents`, and a higher rate only leaves out more.

    Raises:
        ValueError: an index outside 0 .. 2**32 - 1.

    Example:
        >>> scene = describe(SoundscapeConfig(seed=1, missing_parents=1.0), 0)
        >>> set(scene.labels) == {id for id, onset_s, offset_s in scene.events}
        True
    """
    _within("index", index, 0, 2**32 - 1, whole=True)
    rng = np.random.default_rng([config.seed, index])
    count = int(rng.integers(1, config.max_events + 1))
    drawn = rng.choice(len(EVENTS), size=count, p=class_probabilities(float(config.imbalance)))
    events = []
    for class_id in [tuple(EVENTS)[i] for i in drawn]:
        duration, moment, early = rng.uniform(*EVENTS[class_id].seconds), rng.uniform(), rng.uniform() < 0.5
        # At least 0.3 s of an event lie in the clip, and half of the lasting sounds were there before it began.
        onset = moment * (config.seconds - min(duration, 0.3, config.seconds))
        onset = 0.0 if early and EVENTS[class_id].background else round(onset, 4)
        events.append((class_id, onset, min(round(onset + duration, 4), float(config.seconds))))
    events.sort(key=lambda e: e[1])
    own = {class_id for class_id, _, _ in events}
    true = own.union(*map(ancestors, own))
    chance = dict(zip(vocabulary().ids, rng.uniform(size=len(vocabulary())), strict=True))
    kept = {id for id in true - own if chance[id] >= config.missing_parents}
    kept |= {id for id in own if chance[id] >= config.missing_children or not ancestors(id) & kept}
    return Scene(
        tuple(events), tuple(c for c in vocabulary().ids if c in kept), tuple(c for c in vocabulary().ids if c in true)
    )


def synthesise(config: SoundscapeConfig, index: int) -> np.ndarray:
    """Renders one clip: (config.samples,) int16 at 16 kHz, its peak -18 .. -1 dB below full scale.

    Raises:
        ValueError: an index outside 0 .. 2**32 - 1.

    Example:
        >>> synthesise(SoundscapeConfig(seconds=0.5), 7).shape
        (8000,)
    """
    scene = describe(config, index)
    rng = np.random.default_rng([config.seed, index, 1])
    n = config.samples
    background = noise(rng, n, colour(rng.uniform(0, 1.2), rng.uniform(50, 300)))  # the level that snr refers to
    foreground = np.zeros(n, dtype=np.float32)
    for class_id, onset, offset in scene.events:
        wave = EVENTS[class_id](rng, offset - onset)
        level = 10 ** (rng.uniform(*config.snr) / 20) / _loudest(wave)
        start = min(round(onset * RATE), n - 1)
        foreground[start : start + len(wave)] += wave[: n - start] * np.float32(level)
    if config.room > 0 and rng.uniform() < 0.5:  # else out of doors
        foreground = _reverberate(rng, foreground, config.room)
    mixture = foreground + background
    peak = 10 ** (rng.uniform(-18, -1) / 20)
    mixture *= 32767 * peak / max(float(mixture.max()), -float(mixture.min()))
    return np.rint(mixture, out=mixture).astype(np.int16)


def _loudest(wave: np.ndarray) -> float:
    """Root mean square of the loudest 64 ms."""
    frames = wave[: len(wave) // 1024 * 1024].reshape(-1, 1024) if len(wave) >= 1024 else wave[None]
    return max(float(np.sqrt(np.mean(frames * frames, axis=1).max())), 1e-6)


def _reverberate(rng: np.random.Generator, wave: np.ndarray, longest: float) -> np.ndarray:
    """Adds the sound of a room: convolution with decaying noise, 60 dB down after up to `longest` seconds."""
    seconds, level = longest * rng.uniform(0.1, 1), 10 ** (rng.uniform(-24, -6) / 20)
    tail = max(1, round(seconds * RATE * 0.75))  # the last quarter lies below -45 dB
    decay = np.exp(np.arange(tail, dtype=np.float32) * np.float32(-math.log(1000) / (seconds * RATE)))
    response = rng.standard_normal(tail, dtype=np.float32) * decay
    response *= level / float(np.sqrt(np.sum(response * response)))
    length = fast_length(len(wave) + tail)
    spectrum = np.fft.rfft(wave, length)
    spectrum *= np.fft.rfft(response, length)
    spectrum *= band(80, rng.uniform(2000, 7000))(frequencies(length))
    return wave + np.fft.irfft(spectrum, length)[: len(wave)]


_AUDIBLE = ("seconds", "imbalance", "max_events", "snr", "room")
_NUMBER: dict[str, type] = {"max_events": int}  # the others are float
_ADDRESS = re.compile(r"soundscape://([0-9]+)/([0-9]+)(?:\?(.+))?")


def uri(config: SoundscapeConfig, index: int) -> str:
    """The address of a clip: all that its audio depends on (seconds always, the rest where not the default).

    Example:
        >>> uri(SoundscapeConfig(seed=3, snr=(0.0, 10.0)), 12)
        'soundscape://3/12?seconds=2.56&snr=0.0%2C10.0'
    """
    _within("index", index, 0, 2**32 - 1, whole=True)
    default, query = SoundscapeConfig(), {}
    for name in _AUDIBLE:
        value = getattr(config, name)
        if name == "seconds" or value != getattr(default, name):
            query[name] = ",".join(map(repr, value)) if name == "snr" else repr(value)
    return f"soundscape://{config.seed}/{index}?{urlencode(query)}"


def from_uri(uri: str) -> tuple[SoundscapeConfig, int]:
    """The config and the index behind an address; fields that do not change the audio have their defaults.

    Raises:
        ValueError: not an address of a soundscape, or a field that is unknown, given twice or out of range.

    Example:
        >>> config, index = from_uri("soundscape://3/12?seconds=1.0")
        >>> config.seed, config.seconds, index
        (3, 1.0, 12)
    """
    match = _ADDRESS.fullmatch(uri)
    if not match:
        raise ValueError(f"a soundscape's address is soundscape://SEED/INDEX?field=value&...; got {uri!r}")
    values: dict[str, Any] = {"seed": int(match[1])}
    try:
        for name, text in parse_qsl(match[3] or "", keep_blank_values=True, strict_parsing=bool(match[3])):
            if name not in _AUDIBLE or name in values:
                raise ValueError(f"{name!r} is given twice or not one of {', '.join(_AUDIBLE)}")
            values[name] = tuple(map(float, text.split(","))) if name == "snr" else _NUMBER.get(name, float)(text)
        config = SoundscapeConfig(**values)
        _within("index", int(match[2]), 0, 2**32 - 1, whole=True)
    except ValueError as error:
        raise ValueError(f"cannot read the address {uri!r}: {error}") from error
    return config, int(match[2])


def table(config: SoundscapeConfig, split: str = "train", first: int = 0) -> list[dict[str, Any]]:
    """The rows of a corpus: clips first .. first + config.clips - 1, one dict each.

    Splits with the same seed must not share indices; `first` sets them apart.

    Example:
        >>> row = table(SoundscapeConfig(clips=2), split="evaluation", first=5)[1]
        >>> row["clip_id"], row["path"], row["split"]
        ('s0_0000006', 'soundscape://0/6?seconds=2.56', 'evaluation')
    """
    rows = []
    for index in range(first, first + config.clips):
        scene, clip_id = describe(config, index), f"s{config.seed}_{index:07d}"
        events = [{"class_id": id, "onset_s": onset, "offset_s": offset} for id, onset, offset in scene.events]
        row: dict[str, Any] = {"clip_id": clip_id, "source": clip_id, "path": uri(config, index), "split": split}
        row |= {"start_s": 0.0, "end_s": float(config.seconds), "events": events}
        rows.append(row | {"labels": list(scene.labels), "true_labels": list(scene.true_labels)})
    return rows
