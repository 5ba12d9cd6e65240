"""The sounds of the embedded corpus by rank: which AudioSet classes it has, the most frequent first.

Every call draws the physics anew (pitch, rate, decay, partials, modulation, colour), so that two instances differ as
two recordings do, while what defines the class stays: a bell has the partials of a bell, an alarm its pattern. To add a
class, write a function `(rng, n) -> (n,) waveform` under `@event(class id)` in one of the modules below, and give it
its rank here. A new rank at the end leaves the smaller corpora (`SoundscapeConfig.classes`) as they are.

Not covered: spatial position, speech and anything else that needs recordings; those: `psla.synth.recordings`.
"""

from __future__ import annotations

import numpy as np

from psla.synth.event import Event as Event
from psla.synth.event import Take
from psla.synth.event import event as event
from psla.synth.events import animal as animals
from psla.synth.events import noise as noises
from psla.synth.events import struck as struck
from psla.synth.events import tonal as tones
from psla.synth.signals import Generator

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
        >>> sounds.render(rng, sounds.class_ids[2], take, 0.5).shape
        (8000,)
    """

    class_ids: tuple[str, ...] = tuple(EVENTS)

    def draw(self, rng: Generator, class_id: str, longest: float) -> Take:
        """See `EventSource.draw`; at least 0.3 s of the sound lie in the clip."""
        seconds = rng.uniform(*EVENTS[class_id].seconds)
        return Take(seconds, min(seconds, 0.3), EVENTS[class_id].background)

    def render(self, rng: Generator, class_id: str, take: Take, seconds: float) -> np.ndarray:
        """See `EventSource.render`."""
        return EVENTS[class_id](rng, seconds)
