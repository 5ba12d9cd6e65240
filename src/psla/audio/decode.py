"""Audio files, bytes and arrays as mono int16 at the rate that is asked for.

    decode to float32 -> mean of the channels -> resample in float32 -> round to int16

Rounding stands last because resampling int16 turns silence into +-1. There is one path for all sources, in blocks: a
file read whole, the same file streamed in blocks of any size and the same samples given as an array agree to the bit
(soxr's output does not depend on how its input is cut; the tests hold it to that).

libsndfile decodes what it can (`sound_file`), ffmpeg the rest: AAC, WMA, Opus in WebM, the audio tracks of video files,
MP3 and Ogg of which libsndfile would hear a part (`containers`). Of several audio tracks the first is heard, or the one
whose number follows the path, from 1: `movie.mp4#track=2`. A file that holds less than its header declares is refused,
not shortened.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import soundfile
import soxr

from psla.audio import containers, sound_file
from psla.audio.containers import ContainerFile
from psla.audio.joined import JoinedFile
from psla.audio.levels import LevelMeter, Levels
from psla.audio.opening import open_sound
from psla.audio.sound_file import UNKNOWN_LENGTH, name_of
from psla.audio.sound_file import AudioError as AudioError
from psla.audio.sound_file import Source as Source

AUDIO_SUFFIXES = sound_file.SUFFIXES | containers.SUFFIXES
"""What the names of files end in that can be decoded."""

_MOST_VALUES = 1 << 23  # values decoded at a time, over all channels: a bound for files of absurd rate or channel count


MOST_FULL_SCALES = 8
"""Where floats go above this, and most of them above 1, they are no sound that went too far, but at another scale."""
HIGHEST_RATE = 1 << 31
"""Hz, beyond what any header declares."""
_SCALE = "full scale is 1, and these look like integers; divide them by 32768 (if they are of int16)"


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file declares."""

    sample_rate: int  # Hz
    channels: int
    frames: int  # samples a channel
    duration_s: float  # frames / sample_rate
    format: str  # container and encoding, such as `WAV/PCM_16`; the latter as libsndfile or ffmpeg names it


class AudioStream:
    """Audio of any length as an iterator of mono int16 blocks, in bounded memory. A context manager.

    Args:
        source: a path, the bytes of a file, or a binary file object (read from its beginning, left open).
        rate: sample rate of the blocks, in Hz, >= 1.
        block_s: seconds of the source decoded at a time, > 0. It sets the lengths of the blocks, never the samples.
        start_s: where to begin in the source, in seconds, >= 0; None is its beginning.
        end_s: where to end in the source, in seconds, > start_s; None, or past its end, is its end.
        metered: measure `levels`.

    Attributes:
        name: what errors call the source.
        unfinished: it may have been cut, and nothing in it tells: an Ogg without its last page.
        levels: of what has been read so far, of at least one block.
        source_rate: sample rate of the source, in Hz.
        source_channels: channels of the source.

    Shape:
        each block: (samples,) int16, never empty, at most about block_s * rate samples.

    Raises:
        AudioError: at the start or while iterating; the file, and why it cannot be read.
        ValueError: a block length that is not positive, or iterating a closed stream.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros((8000, 2)), 8000, format="WAV")
        >>> with AudioStream(file, 16000, block_s=0.25) as stream:
        ...     print(stream.source_rate, stream.source_channels, sum(len(block) for block in stream))
        8000 2 16000
    """

    def __init__(
        self,
        source: Source,
        rate: int,
        block_s: float = 10.0,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        metered: bool = False,
    ) -> None:
        if not block_s > 0:
            raise ValueError(f"block_s must be greater than 0 seconds, not {block_s}")
        self.name = name_of(source)
        self._file = open_sound(source, self.name)
        self.source_rate = int(self._file.samplerate)
        self.source_channels = int(self._file.channels)
        most = max(1, _MOST_VALUES // self.source_channels)
        self._block_frames = max(1, int(min(block_s * self.source_rate, most)))
        self._start_s = start_s
        self._begin, self._end = self._part(start_s, end_s)
        self.unfinished = self._file.unfinished
        self._meter = LevelMeter() if metered else None
        self._blocks = _convert(self._decode(), self.source_rate, rate, self.name, self._meter)

    def __iter__(self) -> AudioStream:
        return self

    def __next__(self) -> np.ndarray:
        if self._file.closed:
            raise ValueError(f"{self.name}: this audio stream is closed")
        return next(self._blocks)

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the decoder, and the file where the stream opened it."""
        self._file.close()

    @property
    def levels(self) -> Levels:
        """How loud the channels are, and their mean."""
        assert self._meter is not None
        return self._meter.levels

    def _part(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        """First frame and the frame after the last, in the source."""
        start, end = 0.0 if start_s is None else float(start_s), np.inf if end_s is None else float(end_s)
        if not 0 <= start < end:
            raise AudioError(self.name, f"the part from {start} s to {end} s asked for is no part: 0 <= start < end")
        frames = int(self._file.frames)
        begin = round(min(start * self.source_rate, UNKNOWN_LENGTH))
        if begin >= frames:
            self._refuse_begin(frames)
        return begin, min(frames, round(min(end * self.source_rate, UNKNOWN_LENGTH)))

    def _refuse_begin(self, frames: int) -> NoReturn:
        begins, held = self._start_s, f"{frames / self.source_rate:g} s"
        raise AudioError(self.name, f"the part asked for begins at {begins} s, but there are {held}")

    def _decode(self) -> Iterator[np.ndarray]:
        """Blocks (frames, channels) float32 of the chosen part; refuses a source that stops before its end."""
        position = 0
        try:
            if self._begin and self._file.can_seek():
                position = int(self._file.seek(self._begin))
            while position < self._end:
                # A decoder that cannot seek gets to the beginning of the part by decoding what stands before it.
                stop = self._begin if position < self._begin else self._end
                block = self._file.block(min(self._block_frames, stop - position))
                if not len(block):
                    break
                if position >= self._begin:
                    yield block
                position += len(block)
        except soundfile.SoundFileError as error:
            raise AudioError(self.name, f"truncated or damaged: decoding stops after {position} frames") from error
        if position <= self._begin and self._begin:  # of a source whose header leaves the length open
            self._refuse_begin(position)
        if position < self._end and self._file.frames < UNKNOWN_LENGTH:
            frames = f"{position} of the {self._file.frames} frames that its header declares"
            raise AudioError(self.name, f"truncated: decoding stops after {frames}")


def read(source: Source, rate: int, start_s: float | None = None, end_s: float | None = None) -> np.ndarray:
    """The whole source, or its part from start_s to end_s, in seconds: the blocks of `AudioStream`, joined.

    Shape:
        (samples,) int16, mono at `rate` Hz.

    Raises:
        AudioError: the file, and why it cannot be read.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.full((48000, 2), [0.5, 0.0]), 16000, format="FLAC")
        >>> read(file, 16000, start_s=1.0, end_s=1.5).shape, read(file.getvalue(), 16000)[:3].tolist()
        ((8000,), [8192, 8192, 8192])
    """
    with AudioStream(source, rate, start_s=start_s, end_s=end_s) as stream:
        return np.concatenate(list(stream))


def from_array(array: np.ndarray, sample_rate: float, rate: int, meter: LevelMeter | None = None) -> np.ndarray:
    """Samples in memory, by the path that files take: an array and the lossless file written from it agree to the bit.

    Shape:
        array: (samples,) or (samples, channels), not more channels than samples; int16, int32, or float in [-1, 1],
            clipped beyond, but refused where they are at the scale of integers.
        Result: (samples at `rate`,) int16. `sample_rate`, of the array, and `rate` are in Hz, >= 1.

    Args:
        meter: measures it.

    Raises:
        AudioError: another shape, type or scale, no samples, NaN or infinity, or a rate below 1 Hz or above
            `HIGHEST_RATE`.

    Example:
        >>> from_array(np.array([0.0, 0.25, -1.0, 1.0]), 8000, rate=8000).tolist()
        [0, 8192, -32768, 32767]
    """
    name = "<array>"
    array = np.asarray(array)
    if array.ndim not in (1, 2) or not array.size:
        raise AudioError(name, f"the shape must be (samples,) or (samples, channels), not empty; it is {array.shape}")
    if array.ndim == 2 and array.shape[1] > array.shape[0]:  # (channels, samples) would pass as noise
        raise AudioError(name, f"the shape {array.shape} looks like (channels, samples); give (samples, channels)")
    if not 1 <= sample_rate <= HIGHEST_RATE:
        raise AudioError(name, f"the sample rate must be from 1 Hz to {HIGHEST_RATE} Hz, not {sample_rate}")
    return np.concatenate(list(_convert([full_scale(array, name)], sample_rate, rate, name, meter)))


def full_scale(array: np.ndarray, name: str) -> np.ndarray:
    """Samples (samples,) or (samples, channels), int16, int32 or float -> (samples, channels) float32, 1.0 full scale.

    Raises:
        AudioError: another type, or whole numbers beyond 1 as floats.
    """
    if array.dtype in (np.int16, np.int32):
        values = array.astype(np.float32) / np.float32(-float(np.iinfo(array.dtype).min))
    elif np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused where it is heard
            values = array.astype(np.float32)
        if (highest := np.abs(values).max()) > 1 and np.isfinite(highest) and (values == np.rint(values)).all():
            raise AudioError(name, f"float samples reach {highest:g}, all of them whole numbers: {_SCALE}")
    else:
        raise AudioError(name, f"the type must be float, int16 or int32, not {array.dtype}")
    return values.reshape(len(values), -1)


def probe(source: Source) -> AudioInfo:
    """What the header declares, without decoding; where it declares no length, that of all packets in the file.

    Raises:
        AudioError: the file, and why it cannot be read; also where the header leaves the length open.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros(4000), 8000, format="WAV")
        >>> probe(file)
        AudioInfo(sample_rate=8000, channels=1, frames=4000, duration_s=0.5, format='WAV/PCM_16')
    """
    name = name_of(source)
    with closing(open_sound(source, name, thorough=False)) as file:
        if isinstance(file, ContainerFile | JoinedFile):
            frames = round(file.seconds * file.samplerate)
            duration_s = frames / file.samplerate
            return AudioInfo(file.samplerate, file.channels, frames, duration_s, f"{file.format}/{file.subtype}")
        if file.frames >= UNKNOWN_LENGTH:
            raise AudioError(name, "its header does not say how long it is")
        duration_s = file.frames / file.samplerate
        return AudioInfo(file.samplerate, file.channels, file.frames, duration_s, f"{file.format}/{file.subtype}")


class Converter:
    """Blocks of sound at one rate -> mono int16 at another, block by block: what is given out does not depend on cuts.

    Args:
        source_rate, rate: in Hz, of what comes and of what is given out.
        name: what errors call the source.
        meter: measures what comes.

    Shape:
        push: (frames, channels) float32, 1.0 is full scale, clipped beyond -> (samples,) int16, possibly none.

    Raises:
        AudioError: NaN or infinity, or the scale of integers; such a block has not been taken in.

    Example:
        >>> converter = Converter(8000, 16000)
        >>> sum(len(part) for part in (converter.push(np.zeros((4000, 2), np.float32)), converter.close()))
        8000
    """

    def __init__(
        self, source_rate: float, rate: float, name: str = "<stream>", meter: LevelMeter | None = None
    ) -> None:
        self._name, self._same, self._meter = name, source_rate == rate, meter
        self._resampler = soxr.ResampleStream(source_rate, rate, 1, dtype="float32", quality="HQ")

    def push(self, block: np.ndarray) -> np.ndarray:
        """What is known of the sound so far and was not given out before."""
        with np.errstate(over="ignore", invalid="ignore"):
            mono = block.mean(axis=1, dtype=np.float32)
        if self._meter is not None:
            self._meter.add(block, mono)
        if (highest := np.abs(mono).max(initial=0)) > MOST_FULL_SCALES and _are_integers(mono):
            raise AudioError(self._name, f"float samples reach {highest:g}: {_SCALE}")
        self._check(mono)
        return self._rounded(mono if self._same else self._resampler.resample_chunk(mono))

    def close(self) -> np.ndarray:
        """What the resampler holds at the end."""
        rest = np.zeros(0, np.float32)
        return self._rounded(rest if self._same else self._resampler.resample_chunk(rest, last=True))

    def _rounded(self, mono: np.ndarray) -> np.ndarray:
        self._check(mono)  # also after the filter, where values near the end of float32 overflow
        return np.minimum(np.rint(np.clip(mono, -1, 1) * np.float32(32768)), 32767).astype(np.int16)

    def _check(self, mono: np.ndarray) -> None:
        if not np.isfinite(mono).all():
            raise AudioError(self._name, "holds NaN or infinite samples")


def _convert(
    blocks: Iterable[np.ndarray], source_rate: float, rate: int, name: str, meter: LevelMeter | None = None
) -> Iterator[np.ndarray]:
    """Blocks (frames, channels) float32 at source_rate -> blocks (samples,) int16 at rate, none of them empty."""
    converter = Converter(source_rate, rate, name, meter)
    samples = 0
    for block in itertools.chain(blocks, [None]):  # None brings out what the resampler holds
        converted = converter.close() if block is None else converter.push(block)
        samples += len(converted)
        if len(converted):
            yield converted
    if not samples:
        raise AudioError(name, f"too short for one sample at {rate} Hz")


def _are_integers(mono: np.ndarray) -> bool:
    """Whether finite samples are at the scale of integers: a click beyond full scale is not, nor is what clips."""
    sounding = np.abs(mono[mono != 0])
    return bool(np.isfinite(sounding).all() and np.median(sounding) > 1)
