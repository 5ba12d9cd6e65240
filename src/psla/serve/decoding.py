"""Decoding what strangers send: in a watched worker (`psla.audio.pool`), no longer than a recording may be.

A few bytes may hold hours (silence in FLAC). The worker reads the header first and refuses what declares too much; what
declares nothing is decoded as far as the limit and no further. `decode` runs in the worker: it imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NoReturn

import numpy as np

from psla.audio.decode import AudioError, Source, probe
from psla.audio.levels import Levels
from psla.audio.pool import DecodePool, SourceInfo
from psla.audio.worker import Message, decode_to_tag

DECODER = "psla.serve.decoding:decode"
_OVER_S = 0.1  # what is decoded beyond the limit, to know that there is more
_TOO_LONG: Message = {"sample_rate": 0}  # no recording has that: the worker says so that it lasts too long


class TooLong(ValueError):
    """A recording that lasts longer than the service takes."""


def decode(source: Source, rate: int, start_s: float | None, end_s: float | None) -> Iterator[Message]:
    """What `decode_to_tag` gives of what lasts no longer than `end_s`; of anything else a sample rate of 0 last.

    Example:
        >>> import io, soundfile
        >>> file = io.BytesIO()
        >>> soundfile.write(file, np.zeros(8000), 8000, format="FLAC")
        >>> list(decode(file.getvalue(), 8000, None, 1.0))[0], list(decode(file.getvalue(), 8000, None, 0.5))
        ({'sample_rate': 8000}, [{'sample_rate': 0}])
    """
    assert end_s is not None
    with suppress(AudioError):  # a header that leaves its length open; what cannot be read at all is said below
        if probe(source).duration_s > end_s:
            yield _TOO_LONG
            return
    left = end_s * rate + 1  # resampling rounds up
    for message in decode_to_tag(source, rate, start_s, end_s + _OVER_S):
        if isinstance(message, np.ndarray):
            left -= len(message)
            if left < 0:
                yield _TOO_LONG
                return
        yield message


class Decoded:
    """The blocks of one recording, once its sample rate is known.

    Args:
        pool: of workers that run `DECODER`.
        data: the bytes of a file. rate: of the blocks, in Hz.
        limit_s: how long it may last. decode_s: how long decoding may take, once a worker is lent to it.
    """

    def __init__(self, pool: DecodePool, data: bytes, rate: int, limit_s: float, decode_s: float) -> None:
        self.levels: Levels | None = None  # of the source, once all of it has been read
        self._stream = pool.stream(data, rate, None, limit_s, self._measured)
        self._limit_s, self._decode_s = limit_s, decode_s

    def _measured(self, levels: Levels) -> None:
        self.levels = levels

    def info(self) -> SourceInfo:
        """What is told of the source before its blocks.

        Raises:
            AudioError: it cannot be read. TooLong: its header says that it lasts longer than it may.
        """
        first = next(self._stream)
        assert isinstance(first, SourceInfo)
        return first if first.sample_rate else self._refuse()

    def blocks(self) -> Iterator[np.ndarray]:
        """The blocks (samples,) int16; raises AudioError, TooLong."""
        used = 0.0
        while True:
            began = time.monotonic()
            message = next(self._stream, None)
            used += time.monotonic() - began
            if message is None:
                return
            if isinstance(message, SourceInfo):
                self._refuse()
            if used > self._decode_s:
                raise AudioError("<bytes>", f"decoding it takes longer than {self._decode_s:g} s")
            yield message

    def close(self) -> None:
        """Give the worker back; one that has not come to its end is replaced."""
        self._stream.close()

    def _refuse(self) -> NoReturn:
        for _ in self._stream:  # its end: the worker can be lent to the next
            pass
        raise TooLong(f"it lasts longer than the {self._limit_s:g} s that this service takes: send it in parts")
