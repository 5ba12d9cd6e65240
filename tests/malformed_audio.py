"""A seeded maker of malformed sound files: truncated, bit-flipped, with wrong headers and huge declared lengths."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import cache

import numpy as np
import soundfile

BASES = (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"))


@cache
def base(format: str, subtype: str) -> bytes:
    """A sound file of 0.7 s, stereo, 22.05 kHz."""
    wave = np.random.default_rng(0).uniform(-0.3, 0.3, (15435, 2))
    file = io.BytesIO()
    soundfile.write(file, wave, 22050, format=format, subtype=subtype)
    return file.getvalue()


def truncated(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: int(rng.integers(0, len(data)))])


def flipped(data: bytearray, rng: np.random.Generator) -> bytes:
    """Some bits anywhere, half of the time in the header."""
    top = len(data) if rng.random() < 0.5 else min(200, len(data))
    for place in rng.integers(0, top, int(rng.integers(1, 30))):
        data[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(data)


def wrong_header(data: bytearray, rng: np.random.Generator) -> bytes:
    """The head of one format before the body of another, or noise in the head."""
    length = int(rng.integers(1, 120))
    other = base(*BASES[rng.integers(0, len(BASES))]) if rng.random() < 0.5 else rng.bytes(length)
    data[:length] = other[:length]
    return bytes(data)


def huge_lengths(data: bytearray, rng: np.random.Generator) -> bytes:
    """Numbers in the head that say the file, a chunk, a block or a rate is enormous, or nothing."""
    values = (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0x10000000, 0)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(0, min(120, len(data) - 4)))
        order = "<I" if rng.random() < 0.5 else ">I"
        data[place : place + 4] = struct.pack(order, values[rng.integers(0, len(values))])
    return bytes(data)


def holed(data: bytearray, rng: np.random.Generator) -> bytes:
    """A piece that is zero, lost, or there twice."""
    begin, end = sorted(int(i) for i in rng.integers(0, len(data), 2))
    kind = rng.integers(0, 3)
    if kind == 0:
        data[begin:end] = bytes(end - begin)
    elif kind == 1:
        del data[begin:end]
    else:
        data[begin:begin] = data[begin:end]
    return bytes(data)


DAMAGES = (truncated, flipped, wrong_header, huge_lengths, holed)


def malformed_files(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """So many files, each with a name that says what was done to it."""
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        format, subtype = BASES[i % len(BASES)]
        damage = DAMAGES[i // len(BASES) % len(DAMAGES)]
        yield f"{i:04}_{damage.__name__}.{format.lower()}", damage(bytearray(base(format, subtype)), rng)
