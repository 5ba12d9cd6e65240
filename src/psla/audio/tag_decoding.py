"""Decoding for the Tagger, in watched worker processes: the file's blocks, after a word about its sample rate.

This module is imported in every worker: it imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psla.audio.decode import AudioError, AudioStream, Source
from psla.audio.watch import DecodePool

LOWEST_RATE = 1000  # Hz
DECODER = "psla.audio.tag_decoding:decode"


def decode_pool(workers: int = 2, timeout_s: float = 10.0) -> DecodePool:
    """The pool that `psla.tagging.batch` needs. It starts at once: open it before the model is loaded.

    Args:
        workers: processes, 1 or more.
        timeout_s: seconds without an answer after which a file is given up.
    """
    return DecodePool(workers, timeout_s, decoder=DECODER)


def decode(source: Source, rate: int, start_s: float | None, end_s: float | None) -> Iterator[np.ndarray]:
    """First the sample rate of the source, packed into two int16, then the mono int16 blocks at `rate` Hz."""
    with AudioStream(source, rate, start_s=start_s, end_s=end_s) as stream:
        yield pack_rate(checked_rate(stream.source_rate, stream.name))
        yield from stream


def checked_rate(rate: int, name: str) -> int:
    """The rate, if it is one of audio: a damaged header that says 1 Hz makes days of a few seconds.

    Raises:
        AudioError: below 1000 Hz.
    """
    if rate < LOWEST_RATE:
        raise AudioError(name, f"sampled at {rate} Hz: nothing below {LOWEST_RATE} Hz is tagged, nor is it likely true")
    return rate


def pack_rate(rate: int) -> np.ndarray:
    """A rate in Hz as (2,) int16.

    Example:
        >>> unpack_rate(pack_rate(192000))
        192000
    """
    return np.array([rate], dtype="<u4").view("<i2")


def unpack_rate(block: np.ndarray) -> int:
    """The inverse of `pack_rate`."""
    return int(np.ascontiguousarray(block, dtype="<i2").view("<u4")[0])
