"""Plain signals: a corpus of silence, noises, tones, hum and clicks by themselves, each at an address.

signal://SEED/INDEX

Seed and index say all of a clip: its kind (in turn, so that a corpus has as many of each), length, level and samples.
They are made by the models of the soundscapes and, like these, are the same at every rate up to 8 kHz of sound; below
16 kHz they are resampled, as a recording would be. The labels are AudioSet's classes; ancestors are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from psla.audio.addresses import SIGNAL_PREFIX
from psla.audio.decode import AudioError, from_array
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.synth.config import within
from psla.synth.events.noise import pink_noise, white_noise
from psla.synth.events.tonal import chirp_tone, mains_hum, sine_wave
from psla.synth.signals import GRID, Generator, Signals, colour

SECONDS = (0.05, 10.0)  # shortest and longest, uniform in the logarithm
LEVEL_DBFS = (-70.0, 0.0)  # of the highest magnitude; 0 is full scale
_FULL_SCALE = 32767.0
_SILENCE, _NOISE, _LAST_BIT = "/m/028v0c", "/m/096m7z", "last_bit"


def _clicks(rng: Generator, s: Signals) -> np.ndarray:
    """1 to 20 clicks a second, never none: each a sample at the grid's rate, of either sign."""
    wave = np.zeros(s.n, dtype=np.float32)
    count = max(1, round(rng.uniform(1, 20) * s.seconds))
    wave[rng.integers(0, s.grid, count) * s.n // s.grid] = rng.choice([-1.0, 1.0], count)
    return wave


def _clipped(rng: Generator, s: Signals) -> np.ndarray:
    limit = rng.uniform(0.05, 0.5)  # of the standard deviation
    return np.clip(white_noise.draw(rng, s), -limit, limit)


class Kind(NamedTuple):
    """AudioSet's classes that are true of a kind, and its model: (generator, signals) -> (n,) of any level."""

    labels: tuple[str, ...]
    draw: Callable[[Generator, Signals], np.ndarray]


KINDS = {
    "silence": Kind((_SILENCE,), lambda rng, s: np.zeros(s.n, dtype=np.float32)),
    _LAST_BIT: Kind((_SILENCE,), lambda rng, s: np.clip(np.rint(white_noise.draw(rng, s)), -1, 1)),
    "offset": Kind((_SILENCE,), lambda rng, s: np.full(s.n, rng.choice([-1.0, 1.0]), dtype=np.float32)),
    "white": Kind((white_noise.class_id, _NOISE, "/m/07rgkc5"), white_noise.draw),
    "pink": Kind((pink_noise.class_id, _NOISE), pink_noise.draw),
    "brown": Kind((_NOISE,), lambda rng, s: s.noise(rng, colour(1.0, 20.0))),
    "clipped": Kind((_NOISE, "/m/0g12c5"), _clipped),
    "hum": Kind((mains_hum.class_id, "/m/07rcgpl"), mains_hum.draw),
    "sine": Kind((sine_wave.class_id,), sine_wave.draw),
    "sweep": Kind((chirp_tone.class_id,), chirp_tone.draw),
    "clicks": Kind(("/m/07qc9xj",), _clicks),
}
"""Every kind by name. An offset that never changes is heard as nothing, and so is noise of the last bit."""


@dataclass(frozen=True)
class PlainSignal:
    """A clip: its kind's name in `KINDS`, its length, and its highest magnitude in decibels from full scale (which
    silence does not reach)."""

    kind: str
    seconds: float
    level_dbfs: float


def describe(seed: int, index: int) -> PlainSignal:
    """What a clip is: from its seed and index alone, each from 0 to 2**32 - 1.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> describe(7, 0).kind, describe(7, 8).kind, describe(7, 11).kind
        ('silence', 'sine', 'silence')
    """
    within("seed", seed, 0, 2**32 - 1, whole=True)
    within("index", index, 0, 2**32 - 1, whole=True)
    rng = np.random.default_rng([seed, index, 0])
    kind, seconds = list(KINDS)[index % len(KINDS)], float(np.exp(rng.uniform(*np.log(SECONDS))))
    level = 20 * np.log10(1 / _FULL_SCALE) if kind == _LAST_BIT else rng.uniform(*LEVEL_DBFS)
    return PlainSignal(kind, seconds, float(level))


def synthesise(seed: int, index: int, rate: int) -> np.ndarray:
    """The samples of a clip: (round(seconds * rate),) int16.

    Raises:
        ValueError: a number out of range, or a rate below 16 kHz.
    """
    signal = describe(seed, index)
    wave = KINDS[signal.kind].draw(np.random.default_rng([seed, index, 1]), Signals.lasting(signal.seconds, rate))
    peak = _FULL_SCALE * 10 ** (signal.level_dbfs / 20)
    return np.rint(wave * (peak / max(float(np.abs(wave).max()), 1e-9))).astype(np.int16)


def read_address(address: str, rate: int, start_s: float | None = None, end_s: float | None = None) -> np.ndarray:
    """The clip at an address, or its part from start_s to end_s; see `psla.audio.addresses.read`."""
    found = re.fullmatch(SIGNAL_PREFIX + "([0-9]+)/([0-9]+)", address)
    if not found:
        raise AudioError(address, "the address of a plain signal is signal://SEED/INDEX")
    own = max(rate, round(GRID))
    try:
        wave = synthesise(int(found[1]), int(found[2]), own)
    except ValueError as error:
        raise AudioError(address, str(error)) from error
    wave = wave[round((start_s or 0.0) * own) : None if end_s is None else round(end_s * own)]
    return wave if rate == own else from_array(wave, own, rate)


def make(count: int, seed: int = 0) -> Clips:
    """A table of clips, all of the split train, in AudioSet's vocabulary; it also has `kind` and `level_dbfs`.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> make(3, seed=7).frame["path"].to_list()
        ['signal://7/0', 'signal://7/1', 'signal://7/2']
    """
    within("count", count, 1, 2**32 - 1, whole=True)
    rows: list[dict[str, Any]] = []
    for index in range(count):
        signal, clip_id = describe(seed, index), f"p{seed}_{index:07d}"
        row: dict[str, Any] = {"clip_id": clip_id, "source": clip_id, "path": f"{SIGNAL_PREFIX}{seed}/{index}"}
        row |= {"split": "train", "labels": list(KINDS[signal.kind].labels), "kind": signal.kind}
        rows.append(row | {"level_dbfs": signal.level_dbfs})
    return Clips.from_rows(rows, Vocabulary.audioset(), "plain signals")
