"""What a sound of a soundscape is: an AudioSet class with a small model that gives one instance after another.

The models themselves: `tonal_events`, `struck_events`, `noise_events`, `animal_events`; their ranks: `sound_events`.
Whatever keeps to `EventSource` may take their place: `recordings` gives recorded events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from psla.synth.signals import RATE, Generator


@dataclass(frozen=True)
class Take:
    """One instance of an event as it was drawn, before it is heard.

    Attributes:
        seconds: how long it lasts.
        inside: how many of these seconds must lie in the clip, 0 .. seconds.
        background: whether it may have begun before the clip.
        row: the recording in its table, and -1 for a synthesised sound.
        begin_s: where in the recording it begins, in seconds.
        source: the source of the recording; "" for a synthesised sound.
    """

    seconds: float
    inside: float
    background: bool
    row: int = -1
    begin_s: float = 0.0
    source: str = ""


class EventSource(Protocol):
    """What soundscapes take their events from: draw, then render."""

    @property
    def class_ids(self) -> tuple[str, ...]:
        """The AudioSet classes, the most frequent first."""
        ...

    def draw(self, rng: Generator, class_id: str, longest: float) -> Take:
        """An instance of a class for a clip of `longest` seconds."""
        ...

    def render(self, rng: Generator, class_id: str, take: Take, seconds: float) -> np.ndarray:
        """The first `seconds` of a take: (round(seconds * 16000),) float32 at 16 kHz, highest magnitude 1.

        Raises:
            AudioError: a recording that cannot be read.
        """
        ...


@dataclass(frozen=True)
class Event:
    """A class of sound events; calling it gives one instance.

    Attributes:
        class_id: AudioSet class id.
        background: whether the sound lasts (rain) rather than happens (a stroke of a bell).
        seconds: shortest and longest duration of an instance, in seconds.
        draw: the model: (generator, samples) -> (samples,) waveform of any level.

    Example:
        >>> hum = Event("/m/07rcgpl", False, (0.5, 1.0), lambda rng, n: np.sin(np.arange(n) / 20))
        >>> hum(np.random.default_rng(0), 0.5).shape
        (8000,)
    """

    class_id: str
    background: bool
    seconds: tuple[float, float]
    draw: Callable[[Generator, int], np.ndarray]

    def __call__(self, rng: Generator, seconds: float) -> np.ndarray:
        """One instance: (round(seconds * 16000),) float32 at 16 kHz, highest magnitude 1, faded out over 5 ms.

        Raises:
            ValueError: less than 0.05 s.
        """
        if not seconds >= 0.05:
            raise ValueError(f"a sound event lasts at least 0.05 s; got {seconds}")
        n = round(seconds * RATE)
        wave = np.array(self.draw(rng, n), dtype=np.float32)  # (n,)
        wave[-80:] *= np.linspace(1, 0, 80, dtype=np.float32)
        wave /= max(float(wave.max()), -float(wave.min()), 1e-9)
        return wave


ENTERED: dict[str, Event] = {}
"""Every sound that `event` has entered, by AudioSet class id, in no order that means anything."""


def event(
    class_id: str, background: bool = False, seconds: tuple[float, float] = (0.6, 1.8)
) -> Callable[[Callable[[Generator, int], np.ndarray]], Event]:
    """Makes the function below it an `Event` and enters it in `ENTERED`.

    Raises:
        ValueError: a class that already has its sound.
    """

    def enter(draw: Callable[[Generator, int], np.ndarray]) -> Event:
        if class_id in ENTERED:
            raise ValueError(f"class {class_id!r} has two sounds: {ENTERED[class_id].draw.__name__}, {draw.__name__}")
        ENTERED[class_id] = Event(class_id, background, seconds, draw)
        return ENTERED[class_id]

    return enter
