"""Recording conditions: a training waveform as a poor recording would have it, under the labels of the clip as it was.

Not in the paper. What recordings suffer, in the order in which they suffer it, each with a rate of its own:

    excerpt -> room -> noise -> clipping -> band -> codec -> level -> int16

All in floating point until the end, so that at a low level the rounding to int16 is heard. What a clip meets follows
from one uniform number. Codecs are those with which this libsndfile encodes at the clips' rate: with another libsndfile
a training with `codec` is another training. `Cut` takes a part of a clip, for excerpts and for the training's window.

Left out: wind, and what happens between two channels.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import numpy as np
import soundfile
import soxr
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from psla.synth.events.noise import pink_noise, white_noise
from psla.synth.events.tonal import mains_hum
from psla.synth.signals import GRID, Generator, Signals, colour

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Decibels = Annotated[float, Field(ge=-100.0, le=100.0)]
Seconds = Annotated[float, Field(ge=0.01, le=60.0)]
Hertz = Annotated[float, Field(ge=100.0, le=1e5)]

KINDS = ("excerpt", "room", "noise", "clipping", "band", "codec", "level")
"""The conditions in the order in which a clip meets them."""

FULL_SCALE = 32768.0
SHORTEST = 64  # samples: there is nothing to be heard of a condition in fewer
OVERDRIVE_DB = 20.0  # most that the peak of an overdriven clip would be above full scale
SILENT_DBFS = (-70.0, -30.0)  # level of noise in a silent clip, which has none that it could be relative to
TELEPHONE_HZ = (300.0, 3400.0)  # ITU-T G.712
_CODECS = (("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("WAV", "ULAW"), ("WAV", "PCM_U8"))
_QUALITY = (0.6, 0.95)  # soundfile's level of compression: 1 is the worst, and its MP3 encoder refuses that
_BLOCK = 4096  # samples written at a time: the Vorbis encoder keeps them all on the stack of the thread


@dataclass(frozen=True)
class Cut:
    """Shifts a waveform round in a circle, then cuts a part out of it.

    Args:
        samples: length of the part, at least 1; a clip that is not longer stays whole. None: all of the clip.
        by: every place alike (`uniform`), or in proportion to the part's energy (`energy`): many clips are mostly
            silence. A clip that is all silence is cut as if by `uniform`.
        shift: largest shift, later or earlier, as a share of the clip; 0 .. 1.
        grid: a part drawn by energy begins at a multiple of so many samples, at least 1.

    Raises:
        ValueError: a value outside its range.

    Example:
        >>> loud_end = np.repeat(np.array([0, 1000], dtype=np.int16), 1600)
        >>> Cut(1600, "energy", grid=160)(loud_end, np.array([0.5, 0.9])).tolist() == [1000] * 1600
        True
    """

    samples: int | None
    by: Literal["uniform", "energy"] = "uniform"
    shift: float = 0.0
    grid: int = 1

    def __post_init__(self) -> None:
        short = self.grid < 1 or (self.samples is not None and self.samples < 1)
        if short or self.by not in ("uniform", "energy") or not 0.0 <= self.shift <= 1.0:
            raise ValueError(
                f"a cut needs at least 1 sample, a place by uniform or energy, a shift in [0, 1]; got {self}"
            )

    def __call__(self, waveform: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """The part: (samples,) or shorter. waveform: (any,) int16. uniforms: two numbers in [0, 1), shift and place."""
        length = len(waveform)
        if self.shift and length:
            waveform = np.roll(waveform, round((2 * uniforms[0] - 1) * self.shift * length))
        if self.samples is None or length <= self.samples:
            return waveform
        last = length - self.samples
        start = int(uniforms[1] * (last + 1))
        if self.by == "energy":
            starts = np.arange(0, last + 1, self.grid)
            energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
            heard = np.cumsum(energy[starts + self.samples] - energy[starts])
            if heard[-1] > 0:
                place = np.searchsorted(heard, uniforms[1] * heard[-1], side="right")
                start = int(starts[min(place, len(starts) - 1)])
        return waveform[start : start + self.samples]


class Conditions(BaseModel):
    """How often a training clip meets each condition, and how bad that may be: a recipe's section `conditions`.

    Rates are the probability of each condition for each clip, independent of the others. Ranges are [lowest, highest];
    numbers are uniform in them, seconds and hertz uniform in their logarithm. The defaults do nothing.

    Raises:
        ValueError: an unknown key, a value outside its range, or a range whose lowest is above its highest.

    Example:
        >>> quieter = Conditions(level=1.0, level_db=(20.0, 20.0))
        >>> quieter(np.full(100, 1000, dtype=np.int16), rate=8000, uniform=0.5)[:3].tolist()
        [100, 100, 100]
        >>> Conditions().rates
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    excerpt: Share = Field(0.0, description="rate: only a part of the clip is kept, what follows it is padding")
    excerpt_seconds: tuple[Seconds, Seconds] = Field((0.1, 5.0), strict=False, description="length of the part")
    excerpt_by: Literal["uniform", "energy"] = Field("uniform", description="place of the part; see `Cut`")
    room: Share = Field(0.0, description="rate: reverberation (decaying noise), of the level that the clip had")
    room_seconds: tuple[Seconds, Seconds] = Field((0.1, 1.2), strict=False, description="until it is 60 dB down")
    room_db: tuple[Decibels, Decibels] = Field((-5.0, 20.0), strict=False, description="direct sound above the rest")
    noise: Share = Field(0.0, description="rate: white, pink or brown noise, or mains hum, is added")
    noise_db: tuple[Decibels, Decibels] = Field((0.0, 40.0), strict=False, description="RMS of the clip above noise's")
    clipping: Share = Field(0.0, description="rate: samples beyond a limit are set to it")
    clipping_db: tuple[Decibels, Decibels] = Field((3.0, 30.0), strict=False, description="that limit below the peak")
    band: Share = Field(0.0, description="rate: high frequencies are lost")
    band_hz: tuple[Hertz, Hertz] = Field((1500.0, 8000.0), strict=False, description="highest frequency that is left")
    telephone: Share = Field(0.25, description="share of such clips that have the band of a telephone instead")
    codec: Share = Field(0.0, description="rate: MP3, Vorbis, Opus at low quality, mu-law or 8 bits, and back")
    level: Share = Field(0.0, description="rate: another level, which rounding or clipping makes audible")
    level_db: tuple[Decibels, Decibels] = Field((0.0, 50.0), strict=False, description="how far down")
    overdrive: Share = Field(0.0, description=f"share of such clips that go up, to 0 .. {OVERDRIVE_DB:g} dB too much")

    @field_validator("*")
    @classmethod
    def _ordered(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError("the lowest stands first, then the highest: swap them")
        return value

    @property
    def rates(self) -> tuple[float, ...]:
        """(7,) the rate of each of `KINDS`."""
        return tuple(getattr(self, kind) for kind in KINDS)

    def __call__(self, waveform: np.ndarray, rate: int, uniform: float) -> np.ndarray:
        """The clip, (samples,) int16 at `rate` Hz, under the conditions that it meets; shorter after an excerpt.

        All that is random follows from `uniform`, in [0, 1), and each condition draws for itself: with another rate of
        one, the draws of the others stay. A clip of fewer than 64 samples meets none.
        """
        rng = np.random.default_rng(int(uniform * 2**53))  # all the bits that a uniform number has
        meets, own = rng.random(len(KINDS)) < self.rates, rng.spawn(len(KINDS))
        if len(waveform) < SHORTEST or not meets.any():
            return waveform
        if meets[0]:
            waveform = self._excerpt(waveform, rate, own[0])
        if len(waveform) < SHORTEST or not meets[1:].any():
            return waveform
        wave = waveform.astype(np.float32) / np.float32(FULL_SCALE)
        for kind, met, generator in list(zip(KINDS, meets, own, strict=True))[1:]:
            if met:
                wave = getattr(self, f"_{kind}")(wave, rate, generator)
        return np.rint(np.clip(wave * FULL_SCALE, -FULL_SCALE, FULL_SCALE - 1)).astype(np.int16)

    def _excerpt(self, waveform: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
        samples = max(1, round(_log_uniform(rng, self.excerpt_seconds) * rate))
        return Cut(samples, self.excerpt_by, grid=max(1, rate // 100))(waveform, rng.random(2))

    def _room(self, wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
        from scipy.signal import fftconvolve  # takes long to import, and who reads a recipe has no use for it

        seconds = _log_uniform(rng, self.room_seconds)
        response = rng.standard_normal(max(2, round(seconds * rate))).astype(np.float32)
        response *= Signals(len(response), rate, 0).fall(seconds / np.log(1000.0))  # 60 dB: a thousandth
        response[0] = 0.0
        response *= _decibels(-rng.uniform(*self.room_db)) / np.sqrt(np.square(response).sum())
        response[0] = 1.0
        heard = fftconvolve(wave, response)[: len(wave)]
        return heard * np.float32(_rms(wave) / max(_rms(heard), 1e-12))

    def _noise(self, wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
        signals = Signals(len(wave), rate, max(1, round(len(wave) / rate * GRID)))
        models = (white_noise.draw, pink_noise.draw, lambda rng, s: s.noise(rng, colour(1.0, 20.0)), mains_hum.draw)
        noise = models[rng.integers(len(models))](rng, signals)
        below, silent = _decibels(-rng.uniform(*self.noise_db)), _decibels(rng.uniform(*SILENT_DBFS))
        level = _rms(wave) * below or silent
        return wave + noise * np.float32(level / _rms(noise))

    def _clipping(self, wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
        limit = np.abs(wave).max() * np.float32(_decibels(-rng.uniform(*self.clipping_db)))
        return np.clip(wave, -limit, limit)

    def _band(self, wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
        from scipy.signal import butter, sosfilt

        telephone, highest = rng.random() < self.telephone, _log_uniform(rng, self.band_hz)
        if telephone:
            low, high = TELEPHONE_HZ
            return sosfilt(butter(4, (low, min(high, 0.45 * rate)), "bandpass", fs=rate, output="sos"), wave)
        if 2 * highest >= rate:
            return wave
        return _of_length(soxr.resample(soxr.resample(wave, rate, 2 * highest), 2 * highest, rate), len(wave))

    def _codec(self, wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
        codec = codecs(rate)[rng.integers(len(codecs(rate)))]
        return _of_length(_coded(wave, rate, *codec, rng.uniform(*_QUALITY)), len(wave))

    def _level(self, wave: np.ndarray, rate: int, rng: Generator) -> np.ndarray:
        up, down, beyond = rng.random() < self.overdrive, rng.uniform(*self.level_db), rng.uniform(0, OVERDRIVE_DB)
        gain = _decibels(beyond) / max(float(np.abs(wave).max()), 1 / FULL_SCALE) if up else _decibels(-down)
        return wave * np.float32(gain)


@cache
def codecs(rate: int) -> tuple[tuple[str, str], ...]:
    """Container and subtype of the codecs with which this libsndfile encodes at a rate in Hz; plain PCM is left out.

    Example:
        >>> ("WAV", "ULAW") in codecs(12345), ("OGG", "OPUS") in codecs(12345)
        (True, False)
    """
    found = []
    for codec in _CODECS:
        with suppress(soundfile.LibsndfileError):  # it is the encoder that refuses a rate, when it begins
            _coded(np.zeros(_BLOCK, dtype=np.float32), rate, *codec, _QUALITY[1])
            found.append(codec)
    return tuple(found)


def _coded(wave: np.ndarray, rate: int, container: str, subtype: str, compression: float) -> np.ndarray:
    """The wave through a codec; compression from 0 to 1, the worst, where there is a choice."""
    data, choice = io.BytesIO(), None if container == "WAV" else compression
    kind = {"format": container, "subtype": subtype, "compression_level": choice}
    with soundfile.SoundFile(data, "w", rate, 1, **kind) as file:
        for start in range(0, len(wave), _BLOCK):
            file.write(wave[start : start + _BLOCK])
    data.seek(0)
    return soundfile.read(data, dtype="float32")[0]


def _of_length(wave: np.ndarray, samples: int) -> np.ndarray:
    return np.pad(wave[:samples], (0, max(0, samples - len(wave))))


def _log_uniform(rng: Generator, ends: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(ends))))


def _decibels(level: float) -> float:
    return float(10 ** (level / 20))


def _rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
