"""Where the events of soundscapes come from, and the sounds of the embedded corpus by rank, the most frequent first.

Every call draws the physics anew (pitch, rate, decay, partials, modulation, colour), so that two instances differ as
two recordings do, while what defines the class stays: a bell has the partials of a bell, an alarm its pattern. To add a
class, write a function `(rng, s) -> waveform of s.n samples` under `@event(class id)` in one of the modules of
`psla.synth.events` (`signals` says what `s` can do), and give it its rank here. A new rank at the end leaves the
smaller corpora (`SoundscapeConfig.classes`) as they are.

Whatever keeps to `EventSource` may take the place of these sounds: `recordings` gives recorded events.
Not covered: spatial position, speech and anything else that needs recordings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from psla.synth.events import animal as animals
from psla.synth.events import noise as noises
from psla.synth.events import struck as struck
from psla.synth.events import tonal as tones
from psla.synth.signals import Event, Generator


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

    def render(self, rng: Generator, class_id: str, take: Take, seconds: float, rate: int) -> np.ndarray:
        """The first `seconds` of a take: (round(seconds * rate),) float32 at `rate` Hz, highest magnitude 1.

        Raises:
            AudioError: a recording that cannot be read.
        """
        ...


_RANKS = (
    *(noises.rain, noises.engine, struck.bass_drum, noises.wind, tones.siren, struck.snare_drum, noises.waves),
    *(animals.cricket, struck.church_bell, struck.tick, tones.whistle, tones.dial_tone, tones.smoke_alarm),
    *(animals.bird, struck.guitar, noises.thunder, struck.knock, noises.helicopter, noises.drip, struck.hi_hat),
    *(noises.idling, struck.typewriter, animals.frog, tones.telephone_bell, tones.organ, noises.steam, tones.beep),
    *(tones.alarm_clock, struck.chime, struck.wind_chime, animals.mosquito, struck.ding, noises.white_noise),
    *(noises.pink_noise, tones.mains_hum, tones.push_buttons, tones.busy_signal, struck.tuning_fork),
    *(tones.sine_wave, tones.chirp_tone, tones.theremin),
)

EVENTS: dict[str, Event] = {sound.class_id: sound for sound in _RANKS}
"""The sound events by AudioSet class id, in the order of their ranks."""


class SynthesisedEvents:
    """`EVENTS` as an `EventSource`.

    Example:
        >>> rng, sounds = np.random.default_rng(0), SynthesisedEvents()
        >>> take = sounds.draw(rng, sounds.class_ids[2], longest=2.56)
        >>> sounds.render(rng, sounds.class_ids[2], take, 0.5, rate=32000).shape
        (16000,)
    """

    class_ids: tuple[str, ...] = tuple(EVENTS)

    def draw(self, rng: Generator, class_id: str, longest: float) -> Take:
        """See `EventSource.draw`; at least 0.3 s of the sound lie in the clip."""
        seconds = rng.uniform(*EVENTS[class_id].seconds)
        return Take(seconds, min(seconds, 0.3), EVENTS[class_id].background)

    def render(self, rng: Generator, class_id: str, take: Take, seconds: float, rate: int) -> np.ndarray:
        """See `EventSource.render`."""
        return EVENTS[class_id](rng, seconds, rate)
