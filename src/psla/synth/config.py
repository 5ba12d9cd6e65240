"""What a corpus of soundscapes is drawn from, and the address of a clip: all that its audio depends on, as text.

soundscape://SEED/INDEX?seconds=2.56
soundscape://SEED/INDEX?seconds=5.0&events=/data/clips.events-1f2e3d4c5b6a.parquet&events_split=train
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from psla.data.clips import SPLITS
from psla.data.vocabulary import Vocabulary


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
        classes: how many classes sound, 1 or more: the first of `EVENTS`, or of the recordings; 0: all of them.
        events: the table of recorded events (see `recordings`) that sound in place of synthesised ones; "": none.
        events_split: which of its recordings: train, validation or evaluation; "" without a table.

    Raises:
        ValueError: a value outside its range.

    Example:
        >>> SoundscapeConfig(seconds=1.0).max_events
        4
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
    classes: int = 0
    events: str = ""
    events_split: str = ""

    def __post_init__(self) -> None:
        within("seed", self.seed, 0, 2**32 - 1, whole=True)
        within("clips", self.clips, 1, 2**32, whole=True)
        within("classes", self.classes, 0, len(Vocabulary.audioset()), whole=True)
        within("max_events", self.max_events, 1, 16, whole=True)
        ranges = {"seconds": (0.2, 60), "imbalance": (1, 10000), "room": (0, 3)}
        for name, (low, high) in {**ranges, "missing_children": (0, 1), "missing_parents": (0, 1)}.items():
            within(name, getattr(self, name), low, high)
        if len(self.snr) != 2 or not -30 <= self.snr[0] <= self.snr[1] <= 60:
            raise ValueError(f"snr must be two levels in dB, -30 <= lowest <= highest <= 60; got {self.snr}")
        allowed = SPLITS if self.events else ("",)
        if self.events_split not in allowed:
            choice = f"one of {', '.join(SPLITS)}" if self.events else "left out where no events are given"
            raise ValueError(f"events_split must be {choice}; got {self.events_split!r}")


def within(name: str, value: float, low: float, high: float, whole: bool = False) -> None:
    """Refuse a value that is no number from low to high.

    Raises:
        ValueError: the name, the rule and the value.
    """
    right_type = isinstance(value, int) if whole else isinstance(value, int | float)
    if not right_type or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a{' whole' if whole else ''} number from {low} to {high}; got {value!r}")


_AUDIBLE = ("seconds", "imbalance", "max_events", "snr", "room", "classes", "events", "events_split")
_TYPES: dict[str, type] = {"max_events": int, "classes": int, "events": str, "events_split": str}  # else float
_ADDRESS = re.compile(r"soundscape://([0-9]+)/([0-9]+)(?:\?(.+))?")


def uri(config: SoundscapeConfig, index: int) -> str:
    """The address of a clip: all that its audio depends on (seconds always, the rest where not the default).

    Example:
        >>> uri(SoundscapeConfig(seed=3, snr=(0.0, 10.0)), 12)
        'soundscape://3/12?seconds=2.56&snr=0.0%2C10.0'
    """
    within("index", index, 0, 2**32 - 1, whole=True)
    default, query = SoundscapeConfig(), {}
    for name in _AUDIBLE:
        value = getattr(config, name)
        if name == "seconds" or value != getattr(default, name):
            query[name] = ",".join(map(repr, value)) if name == "snr" else str(value)
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
            values[name] = tuple(map(float, text.split(","))) if name == "snr" else _TYPES.get(name, float)(text)
        config = SoundscapeConfig(**values)
        within("index", int(match[2]), 0, 2**32 - 1, whole=True)
    except ValueError as error:
        raise ValueError(f"cannot read the address {uri!r}: {error}") from error
    return config, int(match[2])
